"""`clusterd sync` and `clusterd diff`: which workers they name as behind and why, and the commands as an operator types
them."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from clusterd.exits import ExitCode
from clusterd.printable import printable
from tests.conftest import MakeRig
from tools import syncing
from tools.cli import cluster
from tools.cli_sync import difference_view, summary
from tools.rig.faults import tell_link
from tools.rig.nodes import Rig, RigNode
from tools.rig.peer import wait_until
from tools.screen import lag
from tools.syncing import Behind, standing

NOW = 1000.0


def result(**given: Any) -> dict[str, Any]:
    """A worker's row in `results` of a master: equal, unless given otherwise."""
    row = {"result": "equal", "detail": "", "checked_at": NOW, "digest": "d1", "equal_at": NOW - 50}
    return row | {"lag_s": None, "lag_files": 0, "problems": {}} | given


LAGS: dict[str, Any] = {"digest": "d0", "lag_s": 4.0, "lag_files": 7}


def master(*workers: str, syncs: Any = (), digest: str | None = "d1", **results: dict[str, Any]) -> dict[str, Any]:
    peers = [{"name": name, "kind": "worker"} for name in workers]
    node = {"name": "m", "type": "master"}
    manifest = {"content_digest": digest} if digest else None
    found = {
        "peers": peers,
        "node": node,
        "manifest": manifest,
        "syncs": list(syncs),
        "results": results,
        "left_out": {},
        "problem": "",
    }
    return found | {"workers": [{"name": name, "state": "connected", "lost_s": None} for name in workers]}


def worker(syncs: Any = (), problem: str = "", **row: Any) -> dict[str, Any]:
    own = {"result": None, "detail": "", "checked_at": None, "synced_at": None} | row
    node = {"name": "w", "type": "worker"}
    found = {"peers": [], "node": node, "syncs": list(syncs), "results": {"self": own}, "problem": problem}
    return found | {"left_out": {}}


def left_out(at: float | None, count: int = 7) -> dict[str, Any]:
    return {"count": count, "files": {"etc/rules/a.xml": "is mounted"}, "at": at}


def sync_row(peer: str, done: int, total: int, kind: str = "integrity") -> dict[str, Any]:
    return {"peer": peer, "kind": kind, "step": "sending", "done_bytes": done, "total_bytes": total}


def test_workers_that_are_expected_are_waited_for_until_they_join() -> None:
    """Right after the start of a master that knows nobody yet."""
    looks = iter([master(), master(), master("a", a=result())])
    found = syncing.wait(lambda: next(looks), NOW, 60.0, lambda found: None, expect=1)
    assert (found.equal, next(looks, None)) == (["a"], None)
    late = syncing.wait(master, NOW, 0.0, lambda found: None, expect=1)
    assert (late.equal, late.is_waiting) == ([], False)
    own = worker(result="equal", checked_at=NOW)
    assert syncing.wait(lambda: own, NOW, 60.0, lambda found: None, expect=2).equal == ["w"]


# ---- standing --------------------------------------------------------------------------------------------------------


def test_worker_with_the_current_digest_is_equal() -> None:
    assert standing(master("a", a=result()), NOW, []).equal == ["a"]


def test_worker_that_was_seen_equal_since_is_equal_even_when_it_lags_again() -> None:
    assert standing(master("a", a=result(equal_at=NOW + 1, lag_s=0.1)), NOW, []).equal == ["a"]


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (None, "has not been checked yet"),
        (result(result=None, digest=None, equal_at=None, lag_s=3.0, lag_files=None), "has not been checked yet"),
        (result(**LAGS), "has not been checked since the change"),
        (result(**LAGS | {"lag_s": None}), "has not been checked since the change"),
        (result(**LAGS, result="synced"), "has not been checked since the change"),
        (result(**LAGS, result="failed", detail="disk full"), "failed: disk full"),
        (result(**LAGS, result="partly"), "partly: see the log"),
    ],
)
def test_worker_that_is_not_equal_is_behind_with_its_reason(row: dict[str, Any] | None, why: str) -> None:
    status = master("a", a=row) if row else master("a")
    found = standing(status, NOW, [])
    assert (found.equal, [one.why for one in found.behind]) == ([], [why])
    if row:
        assert (found.behind[0].lag_s, found.behind[0].files) == (row["lag_s"], row["lag_files"])


def test_progress_of_a_worker_is_shown_in_bytes() -> None:
    status = master("a", "b", syncs=[sync_row("a", 1, 2), sync_row("b", 0, 0)], a=result(**LAGS), b=result(**LAGS))
    found = {row.name: row for row in standing(status, NOW, []).behind}
    assert (found["a"].done_bytes, found["a"].total_bytes) == (1, 2)
    assert found["a"].why.startswith("sending, ")
    assert found["b"].why == "sending"


def test_worker_that_went_away_meanwhile_is_behind() -> None:
    found = standing(master("a", a=result(), b=result()), NOW, ["a", "b"])
    assert (found.equal, found.behind) == (["a"], [Behind("b", "is not connected")])


def test_worker_that_came_meanwhile_counts_too() -> None:
    assert [row.name for row in standing(master("a", "b", a=result()), NOW, ["a"]).behind] == ["b"]


def test_master_without_a_manifest_has_no_equal_worker() -> None:
    assert standing(master("a", digest=None, a=result()), NOW, []).equal == []


@pytest.mark.parametrize(
    ("told", "is_stuck"),
    [(left_out(NOW), True), (left_out(NOW - 1), False), (left_out(NOW, 6), False), (None, False)],
)
def test_worker_that_has_tried_and_leaves_out_all_that_differs_is_not_waited_for(told: Any, is_stuck: bool) -> None:
    status = master("a", a=result(**LAGS, result="synced")) | {"left_out": {"a": told} if told else {}}
    found = standing(status, NOW, [])
    assert (found.behind[0].is_stuck, found.is_waiting, found.is_late) == (is_stuck, not is_stuck, not is_stuck)
    assert (found.behind[0].why == "leaves out 7 files") == is_stuck


@pytest.mark.parametrize(
    ("synced_at", "detail", "is_stuck"), [(NOW, "", True), (NOW - 1, "", False), (NOW, "x", False)]
)
def test_worker_itself_says_what_it_leaves_out(synced_at: float, detail: str, is_stuck: bool) -> None:
    status = worker(result="partly", synced_at=synced_at, detail=detail) | {"left_out": {"w": left_out(None)}}
    found = standing(status, NOW, [])
    assert (found.behind[0].is_stuck, "w" in found.left_out) == (is_stuck, True)


def test_node_that_does_not_answer_is_a_problem() -> None:
    status = master() | {"peers": None, "problem": "nobody answers"}
    assert standing(status, NOW, ["a"]).problem == "nobody answers"
    assert standing(status | {"problem": ""}, NOW, []).problem == "the node does not answer"


@pytest.mark.parametrize(
    ("status", "equal", "why"),
    [
        (worker(result="equal", checked_at=NOW), ["w"], []),
        (worker(result="equal", checked_at=NOW - 1), [], ["equal"]),
        (worker(result="failed", detail="disk full", checked_at=NOW), [], ["failed: disk full"]),
        (worker(), [], ["no check yet"]),
        (worker(problem="The master is not connected."), [], ["The master is not connected."]),
        (worker(syncs=[sync_row("m", 1, 2)]), [], ["sending"]),
        (worker(syncs=[sync_row("m", 1, 2, "agents")]), [], ["no check yet"]),
    ],
)
def test_worker_says_how_far_it_is_itself(status: dict[str, Any], equal: list[str], why: list[str]) -> None:
    found = standing(status, NOW, [])
    assert (found.equal, [row.why for row in found.behind]) == (equal, why)


def test_waiting_ends_when_all_are_equal_and_shows_each_look() -> None:
    looks = iter([master("a", a=result(**LAGS)), master("a", a=result())])
    shown: list[int] = []
    found = syncing.wait(lambda: next(looks), NOW, 20, lambda one: shown.append(len(one.behind)))
    assert (found.equal, shown) == (["a"], [1, 0])


def test_waiting_ends_at_its_deadline_and_names_workers_that_are_behind() -> None:
    found = syncing.wait(lambda: master("a", a=result(**LAGS)), NOW, 0.05, lambda one: None)
    assert [row.name for row in found.behind] == ["a"]


def test_waiting_outlasts_a_node_that_does_not_answer_for_a_moment() -> None:
    away = master() | {"peers": None, "problem": "restarting"}
    looks = iter([away, master("a", a=result())])
    assert syncing.wait(lambda: next(looks), NOW, 20, lambda one: None).equal == ["a"]


# ---- what is shown ---------------------------------------------------------------------------------------------------


def test_difference_is_three_numbers_or_equal() -> None:
    assert summary({"missing": 0, "shared": 0, "extra": 0}) == "equal"
    assert summary({"missing": 2, "shared": 0, "extra": 1}) == "2 to create, 1 to delete"


def test_list_of_files_says_how_many_more_there_are() -> None:
    counts = {"missing": 3, "shared": 1, "extra": 0}
    view = difference_view({"node": "w", "counts": counts, "missing": ["a"], "shared": ["b"], "extra": []}).plain
    assert view.splitlines() == ["w: 3 to create, 1 to replace", "+ a", "  and 2 more to create", "~ b"]


@pytest.mark.parametrize("path", ["etc/\x1b[2Jx", "etc/\na", "etc/\x9b31m", "etc/\u202egpj", "etc/\r"])
def test_names_of_files_cannot_drive_the_terminal(path: str) -> None:
    assert printable(path).isprintable()
    assert printable("etc/Größe [x].xml") == "etc/Größe [x].xml"


def test_lag_is_shown_in_seconds_and_files() -> None:
    assert lag({"lag_s": None, "lag_files": 0}) == ""
    assert lag({"lag_s": 3.4, "lag_files": 12}) == "3 s, 12 files"
    assert lag({"lag_s": 3.4, "lag_files": None}) == "3 s"
    assert lag({}) == ""


# ---- as an operator types them ---------------------------------------------------------------------------------------

QUICK = {"intervals": {"communication": {"timeout_cluster_request": 3}, "worker": {"keep_alive": 2}}}
WAIT_S = "60"
OF_THE_MACHINE = {"inotify limit", "low ulimit", "disk full", "inodes used up"}
"""Findings that `doctor` may have whatever the nodes do."""
USAGE = 2
"""click's own exit code; the console script turns it into ExitCode.USAGE."""


@pytest.fixture
def rig(make_rig: MakeRig) -> Rig:
    """A master with one equal worker behind a link that can be cut."""
    rig = make_rig(1, links=True, overrides=QUICK, scale=0.3)
    rig.start()
    rig.wait_equal(60)
    return rig


def clusterd(node: RigNode, *arguments: str) -> tuple[int, str, str]:
    """Runs `clusterd --root ROOT ...` as installed, in this process, because starting Python each time takes
    longest."""
    done = CliRunner().invoke(cluster, ["--root", str(node.root), *arguments])
    return done.exit_code, done.stdout, done.stderr


@pytest.mark.slow
def test_commands_on_nodes_that_run_are_cut_off_and_stop(rig: Rig) -> None:
    """One story, because nodes are slow to start."""
    one, two = rig.nodes
    new = one.root / "etc/rules/new.xml"

    # a change, waited for
    new.write_text("<group/>")
    code, out, err = clusterd(one, "sync", "--wait", "--timeout", WAIT_S)
    assert (code, err) == (ExitCode.OK, "")
    assert out.startswith("Equal after ")
    assert out.rstrip().endswith(": rig_manager_2.")
    assert (two.root / "etc/rules/new.xml").read_text() == "<group/>"
    code, out, _ = clusterd(one, "sync", "--wait", "--json", "--timeout", WAIT_S)
    found = json.loads(out)
    assert (code, found["equal"], found["behind"], found["problem"]) == (ExitCode.OK, ["rig_manager_2"], [], "")
    assert {"content_digest", "files", "at", "took_s"} <= found.keys()
    assert clusterd(one, "sync")[1].endswith(" files; the workers are being told.\n")
    assert set(json.loads(clusterd(one, "sync", "--json")[1])) == {"content_digest", "files", "at"}

    # on a worker
    assert clusterd(two, "sync")[1] == "The node checks now.\n"
    code, out, _ = clusterd(two, "sync", "--wait", "--timeout", WAIT_S)
    assert (code, out.rstrip().endswith(": rig_manager_2.")) == (ExitCode.OK, True)
    code, _, err = clusterd(two, "sync", "--allow-delete")
    assert code == ExitCode.FAILED
    assert "on the master only" in err

    arguments: tuple[str, ...]
    # diff
    for node, arguments in ((one, ()), (one, ("rig_manager_2",)), (two, ()), (two, ("rig_manager_2",))):
        assert clusterd(node, "diff", *arguments) == (ExitCode.OK, "rig_manager_2: equal\n", "")
    assert json.loads(clusterd(one, "diff", "--json")[1])[0]["counts"] == {"missing": 0, "shared": 0, "extra": 0}
    assert json.loads(clusterd(two, "diff", "--json")[1])["node"] == "rig_manager_2"
    for node, name in ((one, "nobody"), (one, "rig_manager_1"), (two, "rig_manager_1")):
        code, out, err = clusterd(node, "diff", name)
        assert (code, out) == (ExitCode.FAILED, "")
        assert "3022" in err
        assert name in err

    # a file that the worker cannot put in place: both ends name it, and nobody waits in vain
    (two.root / "etc/rules/sub").symlink_to("/nowhere")
    (one.root / "etc/rules/sub").mkdir()
    (one.root / "etc/rules/sub/a.xml").write_text("<group/>")
    for node in (one, two):
        code, _, err = clusterd(node, "sync", "--wait", "--timeout", WAIT_S)
        assert (code, "gave up" in err) == (ExitCode.FAILED, False)
        assert "rig_manager_2 does not have the current files: leaves out 1 file" in err
        assert "rig_manager_2 leaves out etc/rules/sub/a.xml: " in err
    code, out, _ = clusterd(one, "status")
    assert (code, out.split("\n")[0].split()[0]) == (ExitCode.DEGRADED, "DEGRADED")
    assert "etc/rules/sub/a.xml" in out[out.index("Left out") :]
    assert clusterd(one, "check")[0] == 1
    code, out, _ = clusterd(one, "doctor")
    assert (code, "file left out: etc/rules/sub/a.xml on rig_manager_2" in out) == (ExitCode.FAILED, True)
    (two.root / "etc/rules/sub").unlink()
    assert clusterd(one, "sync", "--wait", "--timeout", WAIT_S)[0] == ExitCode.OK
    for node in (one, two):
        status = json.loads(clusterd(node, "status", "--json")[1])
        assert status["left_out"] == {}
        (clock,) = status["clocks"].values()  # a worker knows its master by its address
        assert abs(clock["offset_s"]) <= clock["off_by_s"] + 0.001
        faults = {row["name"] for row in json.loads(clusterd(node, "doctor", "--json")[1]) if row["is_fault"]}
        assert faults <= OF_THE_MACHINE

    # what is not meant
    for arguments in (
        ("sync", "--timeout", "5"),
        ("sync", "--wait", "--timeout", "0"),
        ("sync", "x"),
        ("diff", "a", "b"),
    ):
        assert clusterd(one, *arguments)[0] == USAGE

    # the link is cut: the master waits in vain and says for whom
    assert two.link_control is not None
    tell_link(two.link_control, "silence")
    new.write_text("<group>2</group>")
    code, _, err = clusterd(one, "sync", "--wait", "--timeout", "0.5")
    assert code == ExitCode.TIMED_OUT
    assert "rig_manager_2 does not have the current files: " in err
    assert "gave up after 0.5 s" in err
    tell_link(two.link_control, "cut")
    cut_off = "is not connected"
    wait_until(lambda: cut_off in json.loads(clusterd(two, "status", "--json")[1])["problem"], 60, "the link is down")
    code, _, err = clusterd(two, "sync")
    assert code == ExitCode.FAILED
    assert "3023" in err
    code, _, err = clusterd(two, "diff")
    assert code == ExitCode.FAILED
    assert "3023" in err
    wait_until(lambda: clusterd(one, "diff")[1] == "No worker is connected.\n", 60, "the master knows it too")
    code, out, err = clusterd(one, "sync", "--wait")
    assert (code, out) == (ExitCode.TIMED_OUT, "")
    assert "rig_manager_2 does not have the current files: is LOST for " in err
    assert "gave up" not in err
    assert clusterd(one, "forget", "rig_manager_2") == (ExitCode.OK, "rig_manager_2 is forgotten.\n", "")
    assert clusterd(one, "sync", "--wait") == (ExitCode.OK, "No worker is connected.\n", "")
    assert clusterd(one, "sync", "--wait", "--expect", "1", "--timeout", "0.5")[0] == ExitCode.TIMED_OUT
    tell_link(two.link_control, "mend")
    rig.wait_equal(60)

    # a node that does not run
    rig.stop("rig_manager_2")
    for arguments in (("sync",), ("sync", "--wait"), ("diff",), ("diff", "x")):
        code, out, err = clusterd(two, *arguments)
        assert (code, out) == (ExitCode.NOT_RUNNING, "")
        assert "clusterd is not running at " in err


@pytest.mark.slow
def test_root_without_a_node_is_not_running(make_rig: MakeRig, tmp_path: Path) -> None:
    rig = make_rig(0)
    code, out, err = clusterd(rig.master, "sync", "--wait", "--json")
    assert (code, out) == (ExitCode.NOT_RUNNING, "")
    assert "clusterd is not running at " in err
