"""The verdict about a node, also as a Nagios plugin: pure functions."""

import re
from typing import Any

import pytest

from clusterd.exits import ExitCode
from clusterd.status.verdict import apart, hindrances, is_apart, span, verdict
from clusterd.sync.manifest.deletion_guard import KEYS, VANISHED
from tools.nagios import check


def worker(name: str, state: str = "connected", lost_s: float | None = None) -> dict[str, Any]:
    return {"name": name, "state": state, "lost_s": lost_s, "address": "10.0.0.7"}


def row(**given: Any) -> dict[str, Any]:
    return {"result": "equal", "detail": "", "problems": {}, "lag_s": None} | given


def master(**given: Any) -> dict[str, Any]:
    """A master with two healthy workers, unless given otherwise."""
    status: dict[str, Any] = {
        "running": True,
        "problem": "",
        "problems": {},
        "peers": [],
        "node": {"name": "m", "type": "master"},
        "processes": [{"name": "net", "state": "ready"}, {"name": "sync", "state": "ready"}],
        "manifest": {"files": 85, "withheld": 0, "failure": None},
        "workers": [worker("w1"), worker("w2")],
        "refused": [],
        "results": {"w1": row(), "w2": row()},
        "left_out": {},
        "clocks": {},
        "agents": {"problem": None},
    }
    return status | given


def test_healthy_node_is_ok() -> None:
    found = verdict(master())
    assert (found.level, found.reason) == ("OK", "85 files, 2 workers connected")
    assert verdict(master(ha={"registrations": "synchronous", "registrations_reason": None})).level == "OK"
    busy = [{"name": name, "state": "ready", "silent_s": 34.2, "pid": 7} for name in ("net", "pool-1")]
    assert verdict(master(processes=busy)).level == "OK"  # a job of a pool process may take minutes
    wanted = {"registrations": "asynchronous", "registrations_reason": "clusterd.ha.synchronous is off"}
    assert verdict(master(ha=wanted)).level == "OK"
    assert found.code(is_running=True) == ExitCode.OK


def test_rights_of_the_program_come_behind_what_keeps_the_node_from_its_work() -> None:
    problems = {"supervisor": "nobody cannot read the program", "store": "No agents on this node"}
    assert list(hindrances(master(problems=problems))) == ["No agents on this node", "nobody cannot read the program"]


FAULTS = {
    "registrations refused": (
        {"ha": {"registrations": "refused", "registrations_reason": "etcd has not taken it"}},
        "agents are neither registered nor deleted: etcd has not taken it",
    ),
    "registrations without a candidate": (
        {"ha": {"registrations": "asynchronous", "registrations_reason": "no candidate is connected"}},
        "agents are registered without a candidate, and may be lost with this node: no candidate is connected",
    ),
    "lost": (
        {"workers": [worker("w1"), worker("w2", "lost", 55.0)]},
        "w2 is LOST for 55 s (gone for good? clusterd forget w2)",
    ),
    "lost, several": (
        {"workers": [worker("w1", "lost", 55.0), worker("w2", "lost", 90000.0), worker("w3")]},
        "w1, w2 are LOST for 55 s (gone for good? clusterd forget w2)",
    ),
    "refused": (
        {"refused": [{"name": "w3", "address": "10.0.0.7", "reason": 'cluster name "wazu", ours is "wazuh"'}]},
        'REFUSED w3 from 10.0.0.7: cluster name "wazu", ours is "wazuh"',
    ),
    "lost and refused": (
        {
            "workers": [worker("w3", "lost", 55.0)],
            "refused": [{"name": "w3", "address": "10.0.0.7", "reason": 'cluster name "wazu", ours is "wazuh"'}],
        },
        'w3 is LOST for 55 s, and it is REFUSED: cluster name "wazu", ours is "wazuh"',
    ),
    "lost, and its address refused": (
        {
            "workers": [worker("w3", "lost", 55.0)],
            "refused": [{"name": "", "address": "10.0.0.7", "reason": "compare <key>"}],
        },
        "w3 is LOST for 55 s, and a node at its address 10.0.0.7 is REFUSED: compare <key>",
    ),
    "withheld": ({"manifest": {"files": 8, "withheld": 40, "failure": None}}, "40 files lost at once"),
    "keys lost": (
        {
            "manifest": {"files": 8, "withheld": 1, "failure": None},
            "problems": {"disk": "The disk is full.", KEYS: "etc/client.keys has lost 20 keys. Put them back."},
        },
        "etc/client.keys has lost 20 keys. Put them back.",
    ),
    "files vanished": (
        {"manifest": {"files": 8, "withheld": 9, "failure": None}, "problems": {VANISHED: "9 files have vanished."}},
        "9 files have vanished.",
    ),
    "scan": ({"manifest": {"files": 8, "failure": "etc/rules: Permission denied"}}, "the last scan of this node's"),
    "problem": ({"problem": "The master is not connected."}, "The master is not connected."),
    "trouble": ({"problems": {"spool": "The disk is full."}}, "The disk is full."),
    "failed": ({"results": {"w1": row(result="failed", detail="disk full")}}, "w1's last sync failed: disk full"),
    "left out": (
        {"results": {"w1": row(result="partly", problems={"etc/a": "is mounted", "etc/b": "is mounted"})}},
        "w1's files are not all equal: etc/a: is mounted, and 1 more",
    ),
    "left out by a worker": (
        {"left_out": {"w1": {"count": 3, "files": {"etc/a": "is mounted"}, "at": 1.0}}},
        "w1 leaves out etc/a: is mounted, and 2 more",
    ),
    "left out here": (
        {"left_out": {"m": {"count": 1, "files": {"etc/a": "is a link"}, "at": None}}},
        "this node leaves out etc/a: is a link",
    ),
    "lag": ({"results": {"w1": row(lag_s=61.0), "w2": row(lag_s=3600.0)}}, "w2 has been behind for 60 min"),
    "process": ({"processes": [{"name": "pool-1", "state": "down"}]}, "pool-1 is being started again"),
    "supervisor that is stopped": (
        {"processes": [{"name": "supervisor", "state": "ready", "pid": 7, "silent_s": 34.2}]},
        "the supervisor (pid 7) is silent for 34 s: it replaces no process now",
    ),
    "agents": ({"agents": {"problem": "no answer"}}, "the agent database does not answer: no answer"),
}


def test_first_line_never_advises_to_allow_a_deletion_before_to_put_things_back() -> None:
    (text,) = hindrances(master(manifest={"files": 8, "withheld": 1, "failure": None}))
    assert text.index("put them back") < text.index("--allow-delete")


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_named(name: str) -> None:
    facts, reason = FAULTS[name]
    found = verdict(master(**facts))
    assert found.level == "DEGRADED"
    assert found.reason.startswith(reason)
    assert found.code(is_running=True) == ExitCode.DEGRADED


def test_expected_or_lost_worker_does_not_count_for_syncs() -> None:
    away = [worker("w1"), worker("w2", "expected", 1.0)]
    assert verdict(master(workers=away, results={"w1": row(), "w2": row(lag_s=99.0)})).level == "OK"


def test_node_that_does_not_work_is_down() -> None:
    stopped = verdict(master(running=False, problem="clusterd is not running at /x."))
    assert (stopped.level, stopped.code(is_running=False)) == ("DOWN", ExitCode.NOT_RUNNING)
    mute = verdict(master(peers=None, problem="The node does not answer: nobody listens"))
    assert (mute.level, mute.code(is_running=True)) == ("DOWN", ExitCode.DOWN)
    failed = verdict(master(processes=[{"name": "net", "state": "failed"}]))
    assert (failed.level, failed.reason) == ("DOWN", "net cannot be kept running: see the log")


def test_what_the_master_leaves_out_is_no_fault_of_a_worker() -> None:
    left_out = {"m": {"count": 1, "files": {"etc/a": "is a link"}, "at": 1.0}}
    of_worker = master(node={"name": "w1", "type": "worker"}, workers=[], results={"self": row()}, left_out=left_out)
    assert verdict(of_worker).level == "OK"


@pytest.mark.parametrize(
    ("offset_s", "off_by_s", "is_told"), [(-95.0, 0.1, True), (2.4, 0.5, False), (0.0, 9.0, False)]
)
def test_clocks_are_apart_only_for_certain(offset_s: float, off_by_s: float, is_told: bool) -> None:
    assert is_apart({"offset_s": offset_s, "off_by_s": off_by_s}) == is_told
    assert apart("w1", -95.0) == "the clock of w1 is 95 s behind this node's"
    assert apart("w1", 7200.0) == "the clock of w1 is 2 h ahead of this node's"


def test_many_lost_workers_are_one_short_line() -> None:
    found = verdict(master(workers=[worker(f"w{n}", "lost", 100.0 + n) for n in range(40)]))
    assert found.reason.startswith("w0, w1, w2 and 37 more are LOST for 100 s")


PLUGIN = re.compile(
    r"CLUSTERD (OK|WARNING|CRITICAL|UNKNOWN) - [^|\n]+( \| ([a-z]+=[0-9.]+s?;[0-9.]*;[0-9.]*;0(;\d+)? ?)+)?"
)


@pytest.mark.parametrize(
    ("facts", "options", "code", "begin"),
    [
        ({}, {}, 0, "CLUSTERD OK - 85 files, 2 workers connected | lag=0.0s;60;600;0 workers=2;;;0;2 files=85;;;0"),
        ({"workers": [worker("w1"), worker("w2", "lost", 9.0)]}, {}, 1, "CLUSTERD WARNING - w2 is LOST for 9 s"),
        ({}, {"expect": 3}, 2, "CLUSTERD CRITICAL - 2 of 3 workers are connected"),
        ({"results": {"w1": row(lag_s=700.0)}}, {}, 2, "CLUSTERD CRITICAL - w1 has been behind for 12 min"),
        ({"results": {"w1": row(lag_s=30.0)}}, {"warn_s": 20.0}, 1, "CLUSTERD WARNING - w1 has been behind for 30 s"),
        ({"results": {"w1": row(lag_s=100.0)}}, {"warn_s": 300.0}, 0, "CLUSTERD OK - 85 files, 2 workers connected"),
        (
            {"results": {"w1": row(lag_s=100.0)}, "problems": {"log": "etc/behind is full"}},
            {},
            1,
            "CLUSTERD WARNING - etc/behind is full",
        ),
        ({"running": False, "peers": None, "problem": "not running"}, {}, 2, "CLUSTERD CRITICAL - not running"),
        ({"problems": {"log": "a | b\nc"}}, {}, 1, "CLUSTERD WARNING - a / b c | "),
    ],
)
def test_plugin_line_and_code(facts: dict[str, Any], options: dict[str, Any], code: int, begin: str) -> None:
    found = check(master(**facts), **{"warn_s": 60.0, "crit_s": 600.0, "expect": None, **options})
    assert found.code == code
    assert found.line.startswith(begin)
    assert PLUGIN.fullmatch(found.line)


@pytest.mark.parametrize(("seconds", "text"), [(55.4, "55 s"), (720, "12 min"), (108000, "30 h"), (259200, "3 d")])
def test_span_is_short(seconds: float, text: str) -> None:
    assert span(seconds) == text
