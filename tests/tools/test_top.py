"""`clusterd top`: what is on the screen at each size, and the keys."""

from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from tools.cli import cluster
from tools.cli_top import pressed
from tools.top_view import ORDERS, Looks, top_view

MIB = 1 << 20


def worker(number: int, **given: Any) -> dict[str, Any]:
    row = {"name": f"w{number}", "state": "connected", "lost_s": None, "address": f"10.0.0.{number}"}
    return row | {"version": "4.14.1", "program": "clusterd", "seen_at": 990.0, "why": "", "result": None} | given


def status(workers: int = 3, syncs: int = 0, **given: Any) -> dict[str, Any]:
    """A master whose w2 is lost, and w1 behind."""
    rows = [worker(n) for n in range(workers)]
    results = {
        row["name"]: {"result": "equal", "detail": "", "lag_s": None, "lag_files": 0, "problems": {}} for row in rows
    }
    if workers > 2:
        rows[2] |= {"state": "lost", "lost_s": 55.0}
        results["w2"]["result"] = "lost"
        results["w1"] |= {"lag_s": 9.0, "lag_files": 12, "result": "partly", "detail": "disk full"}
    return {
        "running": True,
        "at": 1000.0,
        "problem": "",
        "problems": {},
        "peers": [],
        "started_at": 100.0,
        "node": {"name": "m", "type": "master", "cluster": "wazuh"},
        "manifest": {"files": 20000, "total_bytes": 300 * MIB},
        "net": {"bytes_in": 5 * MIB, "bytes_out": 90 * MIB},
        "workers": rows,
        "refused": [],
        "left_out": {},
        "clocks": {},
        "results": results,
        "syncs": [
            {"peer": f"w{n}", "kind": "integrity", "step": "sending", "done_bytes": MIB, "total_bytes": 4 * MIB}
            for n in range(syncs)
        ],
        "agents": {"problem": None, "nodes": {"w0": {"active": 900}, "w1": {"active": 99, "disconnected": 1}}},
        "processes": [
            {"name": name, "state": "ready", "cpu_percent": 1.5, "uss_bytes": 10 * MIB, "restarts": 0, "incarnation": 1}
            for name in ("supervisor", "net", "sync", "pool-1", "pool-2", "pool-0", "store")
        ],
    } | given


def screen(found: dict[str, Any], looks: Looks, width: int, height: int) -> list[str]:
    console = Console(width=width, height=height, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        console.print(top_view(found, looks, width, height))
        return console.export_text().splitlines()


@pytest.mark.parametrize("processes", [False, True])
@pytest.mark.parametrize("workers", [0, 1, 3, 50])
@pytest.mark.parametrize("syncs", [0, 2, 50])
@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 30), (200, 50)])
def test_everything_fits_whatever_there_is(width: int, height: int, workers: int, syncs: int, processes: bool) -> None:
    lines = screen(status(workers, syncs), Looks(processes=processes), width, height)
    assert len(lines) == height
    assert max(len(line) for line in lines) <= width
    assert lines[-1].startswith("q quit")
    words = "\n".join(line[:130] for line in lines).split()
    assert [f"w{number}" for number in range(workers) if f"w{number}" not in words] == []


@pytest.mark.parametrize("height", [1, 3, 4, 5])
@pytest.mark.parametrize("width", [1, 20, 150, 200])
def test_terminal_that_is_far_too_small_shows_what_fits(width: int, height: int) -> None:
    for found in (status(50, 2), status(peers=None, manifest=None)):
        lines = screen(found, Looks(processes=True), width, height)
        assert (len(lines), max(map(len, lines)) <= width) == (height, True)


def test_workers_that_do_not_fit_and_are_not_equal_are_counted() -> None:
    found = status(50)
    for row in found["results"].values():
        row |= {"result": "failed", "detail": "disk full"}
    lines = screen(found, Looks(), 80, 24)
    shown = [line for line in lines if (line.startswith("w") and "disk full" in line) or "LOST" in line[:12]]
    left = next(line for line in lines if line.startswith("and ") and line.rstrip().endswith(" more"))
    assert len(shown) + int(left.split()[1]) == 50


def test_wide_terminal_shows_agents_and_processes_beside_the_nodes() -> None:
    lines = screen(status(syncs=2), Looks.for_width(200), 200, 50)
    assert any(line.startswith("w2") and "10.0.0.2" in line and "4.14.1" in line for line in lines)
    column = max(line.find("in progress") for line in lines)
    assert column > 80
    right = [line[column:].strip() for line in lines]
    assert {"in progress", "agents  999 active, 1 disconnected"} <= set(right)
    assert any(line.startswith("w1") and line.split() == ["w1", "99", "-", "1", "-"] for line in right)
    assert any(line.startswith("pool-0") and "10.0 MiB" in line for line in right)
    assert not Looks.for_width(80).processes


def test_all_that_needs_attention_is_shown_not_only_the_first_reason() -> None:
    refused = {
        "name": "w9",
        "address": "10.0.0.9",
        "reason": "wrong cluster",
        "since": 900.0,
        "at": 999.0,
        "attempts": 3,
    }
    found = status(problems={"spool": "no room on the disk"}, refused=[refused])
    text = "\n".join(screen(found, Looks(), 80, 24))
    assert text.startswith("DEGRADED  no room on the disk")
    assert "w9    REFUSED" in text
    assert "w2 is LOST for 55 s" in text
    assert "REFUSED w9 from 10.0.0.9: wrong cluster" in text


def test_worker_shows_itself_and_its_master() -> None:
    peer = {"name": "m", "kind": "master", "address": "10.0.0.200", "version": "4.14.1", "connected_at": 1.0}
    own = {"result": "equal", "detail": None, "problems": {}}
    found = status(0, peers=[peer | {"keepalive_at": 997.0}], results={"self": own})
    found["node"] = {"name": "w0", "type": "worker", "cluster": "wazuh"}
    lines = screen(found, Looks(), 80, 24)
    assert [line.split()[:2] for line in lines[4:6]] == [["w0", "equal"], ["m", "connected"]]


def test_worker_that_is_behind_is_not_called_equal() -> None:
    found = status()
    found["results"]["w0"] |= {"lag_s": 4.0, "lag_files": 2}
    assert next(line for line in screen(found, Looks(), 80, 24) if line.startswith("w0")).split()[1] == "behind"


def test_worst_comes_first_and_a_key_changes_the_order() -> None:
    looks = Looks()

    def names() -> list[str]:
        return [line.split()[0] for line in screen(status(), looks, 80, 24) if line[:1] == "w"][:3]

    assert names() == ["w2", "w1", "w0"]
    assert looks.press("s")
    assert names() == ["w0", "w1", "w2"]
    assert looks.press("s")
    assert names() == ["w1", "w0", "w2"]
    assert looks.order == ORDERS[2]


def test_screen_says_what_matters() -> None:
    text = "\n".join(screen(status(syncs=1), Looks(), 120, 30))
    for word in ("DEGRADED", "w2 is LOST for 55 s", "LOST 55 s", "9 s", "12", "disk full", "1.0 MiB of 4.0 MiB"):
        assert word in text
    assert "agents  999 active, 1 disconnected" in text
    assert "w2    LOST 55 s" in text
    assert "it hung up" in text
    assert "processes  7, CPU 10 %, 70.0 MiB" in text or "processes  7, CPU 11 %, 70.0 MiB" in text
    assert "pool-0" not in text


def test_lines_that_a_part_does_not_need_stand_between_the_parts() -> None:
    """The table of agents is too high; in place of it there is one line."""
    nodes = {f"w{number}": {"active": 9} for number in range(7)}
    lines = screen(status(6, 5, agents={"problem": None, "nodes": nodes}), Looks(), 80, 24)
    for number, line in enumerate(lines):
        if line.startswith(("in progress", "agents", "processes")):
            assert not lines[number - 1].strip(), line


def test_reason_that_is_too_long_for_a_line_goes_on_in_the_next() -> None:
    found = status()
    lost = next(row for row in found["workers"] if row["state"] == "lost")
    reason = 'cluster name "a-long-name-of-a-cluster", ours is "another-name"'
    refused = {"name": lost["name"], "address": lost["address"], "reason": reason, "since": 1.0, "at": 990.0}
    found["refused"] = [refused | {"attempts": 3}]
    lines = screen(found, Looks(), 80, 24)
    assert [line.split("REFUSED")[0].split() for line in lines if line.startswith("w2 ")] == [["w2", "LOST", "55", "s"]]
    assert any("REFUSED: cluster name" in line for line in lines[2:])
    assert f"{lines[0]} {lines[1]}".rstrip().endswith(reason)
    assert len(lines) == 24
    assert screen(found, Looks(), 80, 15)[0].endswith("…")


def test_processes_and_agents_fold() -> None:
    looks = Looks()
    looks.press("p")
    looks.press("a")
    text = "\n".join(screen(status(), looks, 80, 24))
    assert "pool-0" in text
    assert [line for line in text.splitlines() if "active" in line] == [
        line for line in text.splitlines() if line.startswith("agents ")
    ]
    assert not looks.press("q")


def test_node_that_does_not_answer_shows_which_process_is_silent() -> None:
    found = status(peers=None, manifest=None, problem="The node does not answer: nobody listens")
    for row in found["processes"]:
        row["silent_s"] = 34.2 if row["name"] == "sync" else 0.1
    lines = screen(found, Looks(), 80, 24)
    assert lines[0].startswith("DOWN  The node does not answer")
    text = "\n".join(lines)
    assert "sync silent 34 s" in text
    assert "net         ready" in text


@pytest.mark.parametrize(
    ("sent", "keys"),
    [
        (b"pq", "pq"),  # typed while the node was asked
        (b"\x1b[A\x1bOq\x1b[24~\x1bps", "s"),  # arrow, keypad, F12, Alt-p
        (b"", "\x04"),
        ("é".encode(), "é"),
    ],
)
def test_all_keys_count_that_were_typed_and_no_part_of_a_sequence_does(sent: bytes, keys: str) -> None:
    assert pressed(sent) == keys


def test_pipe_gets_a_hint_at_the_other_command(tmp_path: object) -> None:
    done = CliRunner().invoke(cluster, ["--root", str(tmp_path), "top"])
    assert done.exit_code == 1
    assert "status --watch" in done.output
