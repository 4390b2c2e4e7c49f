"""`clusterd doctor`: what a running node says of itself, of other nodes and of the framework; the command."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from clusterd.net.term_question import TermAnswer
from clusterd.settings import Settings
from clusterd.status.status import StatusReader
from clusterd.store.advice import LOCKED
from tests.campaigns.hooked import hooked
from tests.conftest import MakeRig
from tests.net.harness import wait_until
from tests.tools.doctored import named
from tools.check import Checked
from tools.cli import cluster as command
from tools.doctor import cluster, examine, services
from tools.doctor.finding import Finding
from tools.probe import Probed
from tools.rig.guard import guarded
from tools.rig.nodes import RigNode, run_program
from tools.rig.ports import free_port


def status(**given: Any) -> dict[str, Any]:
    healthy: dict[str, Any] = {
        "running": True,
        "root": "/var/ossec",
        "problem": "",
        "problems": {},
        "peers": [],
        "manifest": {"files": 8},
        "agents": {"problem": None},
        "node": {"name": "m", "type": "master"},
        "workers": [],
        "refused": [],
        "results": {},
        "left_out": {},
        "clocks": {},
        "processes": [],
        "framework": {"state": "absent", "reason": "no framework is installed", "mode": "auto", "helpers": []},
    }
    return healthy | given


def refused(reason: str) -> dict[str, Any]:
    return {"refused": [{"name": "w3", "address": "10.0.0.7", "reason": reason}]}


def row(**given: Any) -> dict[str, Any]:
    return {"result": "equal", "detail": "", "lag_s": None, "problems": {}} | given


# ---- what the node says ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "name"),
    [
        ({"workers": [{"name": "w2", "state": "lost", "lost_s": 55.0, "address": "10.0.0.8"}]}, "worker lost"),
        (refused('cluster name "wazu", ours is "wazuh"'), "wrong cluster"),
        (refused("version 4.14.0, ours is 4.14.1"), "wrong version"),
        (refused("the node at 10.0.0.9 is connected under this name: give one of them another"), "duplicate name"),
        (refused("it has this master's own name: give it another node_name"), "duplicate name"),
        (refused("what it sends is not sealed with our key: compare <key>"), "wrong key"),
        (refused("not enough values to unpack (expected 4, got 1)"), "invalid hello"),
        (refused("too many values to unpack (expected 4)"), "invalid hello"),
        (refused("a node name has only letters, digits, '.', '_' and '-'"), "invalid hello"),
        (refused("a node's type and version are printable words of at most 128 characters"), "invalid hello"),
        (refused("this node does not lead: the master of term 3 is - (-)"), "refused by this node"),
        ({"results": {"w1": row(lag_s=300.0, detail="disk full")}}, "worker behind"),
        ({"results": {"w1": row(problems={"etc/rules/a.xml": "is too large"})}}, "file not sent"),
        ({"problems": {"store": "the database is damaged. clusterd store renew"}}, "database damaged"),
        ({"problems": {"store": f"database is locked. It is good, but {LOCKED}: lsof names it"}}, "store locked"),
        ({"problems": {"store": "database or disk is full. Make room on its disk"}}, "store cannot be used"),
        ({"problems": {"room of w1": "Files for w1 wait"}}, "room of w1"),
        ({"problems": {"supervisor": "user nobody cannot read /x"}}, "unreadable program"),
        ({"agents": {"problem": "no answer within 0.8 s"}}, "store locked"),
        ({"agents": {"problem": "2011 nobody listens"}}, "no agent database"),
        (
            {"agents": {"problem": "2011 nobody listens"}, "problems": {"store": "damaged. clusterd store renew"}},
            "database damaged",
        ),
        ({"manifest": {"failure": "etc/rules: Permission denied"}}, "scan fails"),
        ({"manifest": {"withheld": 40}}, "deletions wait"),
        ({"peers": None, "problem": "no answer"}, "node does not answer"),
    ],
)
def test_each_fault_that_a_running_node_knows_is_named(facts: dict[str, Any], name: str, tmp_path: Path) -> None:
    shown = status(**facts)
    found = [*cluster.node(shown), *(cluster.workers(str(tmp_path), shown) if shown["peers"] is not None else ())]
    assert [one.name for one in found if one.is_fault] == [name]
    assert all(one.cure for one in found)


def test_other_keys_of_a_worker_that_is_behind_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        cluster.syncing, "difference", lambda root, name: {"missing": [], "shared": ["etc/client.keys"], "extra": []}
    )
    found = named(cluster.workers(str(tmp_path), status(results={"w1": row(lag_s=300.0)})))
    assert set(found) == {"worker behind", "keys differ"}


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (refused("the node at 10.0.0.9 is connected under this name"), ["clusterd restart", "clusterd forget w3"]),
        (refused('cluster name "wazu", ours is "wazuh"'), ["clusterd restart"]),
        ({"problems": {"room of w1": "Files for w1 wait"}}, ["make room"]),
        (
            {"problems": {"store": f"database is locked. It is good, but {LOCKED}"}},
            ["lsof /var/ossec/queue/db/global.db"],
        ),
        ({"manifest": {"unwatched": "the system's limit of file watches is reached"}}, ["clusterd reload"]),
        ({"agents": {"problem": "no answer within 0.8 s"}}, ["lsof /var/ossec/queue/db/global.db"]),
    ],
)
def test_cure_names_every_step(facts: dict[str, Any], words: list[str], tmp_path: Path) -> None:
    shown = status(**facts)
    (found,) = [*cluster.node(shown), *cluster.workers(str(tmp_path), shown)]
    assert [word for word in words if word not in found.cure] == []
    assert "store renew" not in found.cure


def test_role_that_a_node_was_given_is_no_fault(worker: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """`check-config` notes it: every master of an election had a fault by that."""
    lines = ["note: the role of this node is master (term 5), see role.json", "warning: x"]
    monkeypatch.setattr(examine, "check", lambda root: Checked(True, lines))
    assert [(one.what, one.is_fault) for one in examine._configuration(worker.root)] == [("x", False)]


@pytest.mark.parametrize(("age_s", "name"), [(60.0, "files are not in use"), (-60.0, "not connected yet")])
def test_node_that_runs_with_other_settings_than_its_files_is_named(
    worker: Settings, monkeypatch: pytest.MonkeyPatch, age_s: float, name: str
) -> None:
    """Whoever corrects the key in the file is told that the node has still the old one."""
    monkeypatch.setattr(cluster, "probe", lambda settings, address: Probed("ok"))
    started_at = Path(worker.root, "etc/ossec.conf").stat().st_mtime - age_s
    shown = status(node={"name": "w1", "type": "worker"}, problem="The master is not connected", started_at=started_at)
    (found,) = cluster.master_of(worker, shown)
    assert (found.name, found.is_fault, "clusterd restart" in found.cure) == (name, age_s > 0, True)


def test_candidate_that_does_not_lead_is_no_fault_beside_the_one_that_refuses(
    worker: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = {"a": Probed("refused", "a: Error 3028", 3028), "b": Probed("led", "b: this node does not lead", 1000)}
    monkeypatch.setattr(cluster, "probe", lambda settings, address: answers[address.host])
    for nodes, names in ((("a", "b"), ["duplicate name"]), (("b",), ["refused by the master"])):
        settings = msgspec.structs.replace(worker, cluster=msgspec.structs.replace(worker.cluster, nodes=nodes))
        found = list(cluster.master_of(settings, status(node={"name": "w1", "type": "worker"})))
        assert [one.name for one in found] == names


def test_node_that_does_not_answer_is_not_tried_under_its_own_name(
    worker: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its net may be connected: the master would refuse the name, and show that for half a minute."""
    monkeypatch.setattr(cluster, "probe", lambda *_: pytest.fail("it has said hello"))
    for kind, names in (("known", []), ("key", ["wrong key"])):
        monkeypatch.setattr(cluster, "ask_term", lambda *_, kind=kind: TermAnswer(kind, "why"))
        found = cluster.master_of(worker, status(node={"name": None, "type": None}, peers=None))
        assert [(one.name, one.what) for one in found] == [(name, "why") for name in names]


def test_configuration_that_only_waits_for_a_restart_is_good(worker: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = status(node={"name": "w1", "type": "worker"}, problem="The master is not connected.", started_at=1.0)
    monkeypatch.setattr(cluster, "probe", lambda settings, address: Probed("ok"))
    assert [one.name for one in cluster.master_of(worker, shown)] == ["files are not in use"]
    monkeypatch.setattr("tools.doctor.examine.StatusReader.read", lambda reader: shown)
    done = CliRunner().invoke(command, ["--root", worker.root, "check-config", "--connect"])
    assert (done.exit_code, "The configuration is good." in done.stdout) == (0, True), done.output


@pytest.mark.parametrize(
    ("kind", "age_s", "name"),
    [
        ("key", 5.0, "wrong key"),
        ("closed", 5.0, "closed port"),
        ("silent", 5.0, "master does not answer"),
        ("address", 5.0, "address does not resolve"),
        ("known", 5.0, None),
        ("unknown", 5.0, None),
        ("key", -5.0, None),
    ],
)
def test_connected_node_is_warned_of_what_its_changed_files_would_do(
    worker: Settings, monkeypatch: pytest.MonkeyPatch, kind: str, age_s: float, name: str | None
) -> None:
    """Before it is restarted, that is."""
    monkeypatch.setattr(cluster, "ask_term", lambda *_: TermAnswer(kind, "why"))
    started_at = Path(worker.root, "etc/ossec.conf").stat().st_mtime - age_s
    peers = [{"kind": "master", "name": "10.0.0.5:1516"}]
    node = {"name": "w1", "type": "worker"}
    found = list(cluster.master_of(worker, status(node=node, peers=peers, started_at=started_at)))
    assert [(one.name, "after a restart" in one.what) for one in found] == ([(name, True)] if name else [])
    assert not any("clusterd restart" in one.cure for one in found)


def test_settings_that_wait_for_a_restart_are_a_note() -> None:
    node = {"name": "m", "type": "master", "needs_restart": ["<key>"]}
    (found,) = cluster.node(status(node=node))
    assert (found.is_fault, "<key>" in found.what) == (False, True)


def test_node_that_does_not_answer_is_told_with_the_process_that_is_silent() -> None:
    rows = [
        {"name": name, "pid": 7, "silent_s": silent} for name, silent in (("net", 0.1), ("sync", 27.0), ("x", None))
    ]
    (found,) = cluster.node(status(peers=None, problem="no answer", processes=rows))
    assert found.what == "no answer; sync (pid 7) is silent for 27 s"


def test_healthy_node_has_no_fault() -> None:
    assert list(cluster.node(status())) == []
    assert list(cluster.workers("/nowhere", status(results={"w1": row()}))) == []


# ---- the command -----------------------------------------------------------------------------------------------------


def test_check_config_connect_tries_what_only_a_try_shows(worker: Settings, master: Settings) -> None:
    def check(settings: Settings) -> Any:
        return CliRunner().invoke(command, ["--root", settings.root, "check-config", "--connect"])

    assert check(master).exit_code == 0
    conf = Path(worker.root, "etc/ossec.conf")
    conf.write_text(conf.read_text().replace("<port>1516<", f"<port>{free_port()}<"))
    done = check(worker)
    assert done.exit_code == 1
    assert "closed port: 127.0.0.1:" in done.output
    assert "The configuration is good." not in done.output


def test_command_names_faults_and_its_code_says_whether_there_are_any(master: Settings) -> None:
    run = CliRunner().invoke(command, ["--root", master.root, "doctor", "--json"])
    rows = {one["name"]: one for one in json.loads(run.output)}
    assert not rows["not running"]["is_fault"]
    conf = Path(master.root, "etc/ossec.conf")
    conf.write_text(conf.read_text().replace("<key>", "<key>x"))
    run = CliRunner().invoke(command, ["--root", master.root, "doctor"])
    assert run.exit_code == 1
    assert "FAULT  short key" in run.output


# ---- what nodes tell each other --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("why", "cure"),
    [
        ("[Errno 16] is a mount point: only who mounted it can remove it", "unmount etc/rules/a.xml on w1"),
        ("is a link that leads out of its directory", "clusterd.link_targets"),
        ("[Errno 13] Permission denied", "give etc/rules/a.xml and its directory to the user"),
        ("[Errno 28] No space left on device", "make room on the disk of w1"),
        ("[Errno 30] Read-only file system", "mount -o remount,rw"),
        ("something new", "look at etc/rules/a.xml on w1"),
    ],
)
def test_file_that_a_node_leaves_out_is_named_with_its_reason(why: str, cure: str) -> None:
    left_out = {"w1": {"count": 9, "files": {"etc/rules/a.xml": why}, "at": 1.0}}
    found = list(cluster.left_out(status(left_out=left_out)))
    assert [one.name for one in found] == ["file left out"] * 2
    assert found[0].what == f"etc/rules/a.xml on w1: {why}"
    assert cure in found[0].cure
    assert found[1].what == "4 more files on w1"
    of_worker = status(node={"name": "w2", "type": "worker"}, left_out=left_out)
    assert list(cluster.left_out(of_worker)) == []


def test_clock_difference_names_both_clocks() -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC).timestamp()
    row = {"offset_s": -95.0, "off_by_s": 0.01, "at": at}
    found = named(cluster.clocks(status(clocks={"w1": row, "w2": row | {"offset_s": 1.5}})))
    assert found["clock difference"].what == (
        "the clock of w1 is 95 s behind this node's: 03:02:30 UTC there, 03:04:05 UTC here"
    )
    assert len(found) == 1


@pytest.mark.slow
def test_clock_difference_of_two_nodes_is_found_on_both_until_it_is_set_right(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make_rig(1, run=run_program)
    rig.start(rig.master.name)
    (worker,) = rig.workers

    def found(node: RigNode) -> Finding | None:
        return named(cluster.clocks(StatusReader(str(node.root)).read())).get("clock difference")

    with guarded("hook-") as place, hooked(monkeypatch, place) as page:
        page.shift_clock(-95)
        rig.start(worker.name)
        wait_until(lambda: found(rig.master) and found(worker), "both have compared their clocks")
        on_master, on_worker = found(rig.master), found(worker)
        assert on_master is not None
        assert on_worker is not None
        assert f"the clock of {worker.name} is 95 s behind this node's" in on_master.what
        assert "is 95 s ahead of this node's" in on_worker.what
        page.shift_clock(0)
        wait_until(lambda: not found(rig.master) and not found(worker), "both see that it was set right")
        assert all(StatusReader(str(node.root)).read()["clocks"] for node in rig.nodes)  # and they know the other's
        rig.stop(worker.name)


READY = {"state": "ready", "reason": None, "version": "4.14.1", "missing": {}, "mode": "auto", "helpers": []}


@pytest.mark.parametrize(
    ("mode", "facts", "name", "is_fault"),
    [
        ("on", {"state": "absent", "reason": "x"}, "framework not found", True),
        ("auto", {"state": "absent", "reason": "x"}, None, False),
        ("auto", {"state": "failed", "reason": "it ends at once"}, "framework fails", True),
        ("auto", {"version": "4.13.0"}, "framework of another version", True),
        ("auto", {"version": "v4.14.1"}, None, False),
        ("auto", {"missing": {"wazuh.agent.get_agents": "ImportError"}}, "framework lacks functions", False),
        ("auto", {}, None, False),
        ("off", {"state": "off"}, None, False),
    ],
)
def test_framework_that_is_missing_or_fails_is_named(
    worker: Settings, mode: Any, facts: dict[str, Any], name: str | None, is_fault: bool
) -> None:
    from msgspec.structs import replace

    own = replace(worker.clusterd, framework=replace(worker.clusterd.framework, mode=mode))
    found = list(services.framework(replace(worker, clusterd=own), status(framework=READY | facts)))
    assert [(one.name, one.is_fault) for one in found] == ([(name, is_fault)] if name else [])
    if name == "framework fails":
        assert '"framework": "off"' in found[0].cure  # a value that check-config takes


def test_framework_that_is_installed_in_part_is_a_fault_of_a_node_that_runs(worker: Settings) -> None:
    Path(worker.root, "framework/python").mkdir(parents=True)
    Path(worker.root, "framework/python/pyvenv.cfg").touch()
    (found,) = services.framework(worker, status(framework=READY | {"state": "failed", "reason": "installed in part"}))
    assert (found.name, found.is_fault) == ("framework not found", True)
    assert "logins, tokens and permissions are refused" in found.what
    assert f"move {worker.root}/framework away" in found.cure


def test_framework_is_looked_for_where_the_node_does_not_run(worker: Settings) -> None:
    Path(worker.root, "framework").mkdir()
    Path(worker.root, "framework/README").touch()
    (found,) = services.framework(worker, status(running=False))
    assert (found.name, found.is_fault) == ("framework not found", False)
    assert "is not there" in found.what


@pytest.mark.parametrize(
    ("nodes", "is_fault"),
    [({}, True), ({"m": {"never_connected": 2}}, False), ({"m": {"never_connected": 1, "active": 1}}, None)],
)
def test_keys_without_agents_are_named(master: Settings, nodes: dict[str, Any], is_fault: bool | None) -> None:
    shown = status(agents={"problem": None, "nodes": nodes})
    Path(master.root, "etc/client.keys").write_text(f"001 a any {'a' * 64}\n002 b any {'b' * 64}\n")
    found = list(services.registrations(master, shown))
    assert [one.is_fault for one in found] == ([] if is_fault is None else [is_fault])
    assert [one.name for one in found] == ([] if is_fault is None else ["registration without agents"])
    Path(master.root, "etc/client.keys").write_text("")
    assert not list(services.registrations(master, shown))
