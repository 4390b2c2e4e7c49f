"""Health from the board and the system alone, and the node as it is shown while sync hangs: scripted rows and
answers."""

import asyncio
import itertools
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from clusterd.monitor.live import SILENT_S, START_S, HealthCheck, check_processes, check_readiness, told
from clusterd.monitor.service import OLD_S, level_of
from clusterd.monitor.source import FRESH_S, NodeSeen, StatusSource
from clusterd.rounds import Rounds
from clusterd.rundir import problem_path, run_dir
from clusterd.status.status import StatusReader, child_problems
from clusterd.vitals import Sample
from ipc.board import RowSnapshot
from tests.monitor.fake_status import board_of_node

NOW = 1000.0


def row(name: str = "sync", state: str = "ready", silent_s: float = 0.1, begun_s: float = 500.0) -> RowSnapshot:
    """Of a process that was started while the wall clock showed 1970: nothing is judged by that."""
    begun_ns = int((NOW - begun_s) * 1e9)
    return RowSnapshot(name, 42, 1, state, 0, int((NOW - silent_s) * 1e9), 1, {}, begun_ns=begun_ns)


@pytest.mark.parametrize(
    ("facts", "state", "problem"),
    [
        ({}, "S", ""),
        ({"state": "failed"}, "S", "cannot be kept running"),
        ({"state": "down"}, "S", "is being started again"),
        ({"silent_s": 0.4}, "T", "stopped by a signal, silent for 0.4 s"),
        ({"silent_s": 0.4}, "t", "stopped by a debugger"),
        ({}, "Z", "has ended"),
        ({"silent_s": SILENT_S - 0.1}, "S", ""),
        ({"silent_s": SILENT_S}, "S", "no sign of life for 10 s"),
        ({"silent_s": SILENT_S}, "R", ""),
        ({"silent_s": 500}, "R", "computes and has given no sign of life for 500 s"),
        ({"silent_s": 500}, "D", "waits for the disk and has given no sign"),
        ({"state": "starting", "begun_s": START_S - 5}, "S", ""),
        ({"state": "starting", "begun_s": START_S + 5}, "S", "has been starting for"),
        ({"state": "stopping"}, "S", ""),
    ],
)
def test_process_is_judged_by_its_row_and_what_the_system_says(facts: dict[str, Any], state: str, problem: str) -> None:
    (check,) = check_processes([row(**facts)], NOW, lambda pid: Sample(1.0, 0.0, state))
    assert check.name == "sync"
    assert problem in check.problem
    assert bool(problem) == bool(check.problem)


def test_process_that_the_system_hides_is_judged_by_its_heartbeat() -> None:
    fresh, silent = check_processes([row(), row(silent_s=60)], NOW, lambda pid: None)
    assert (fresh.problem, bool(silent.problem)) == ("", True)


def test_answers_are_written_as_etcd_writes_them() -> None:
    well, ill = HealthCheck("net"), HealthCheck("sync", "it has ended")
    assert told("livez", [well], verbose=False) == (True, "ok\n")
    assert told("livez", [well], verbose=True) == (True, "[+]net ok\nlivez check passed\n")
    assert told("readyz", [well, ill], verbose=False) == (
        False,
        "[-]sync failed: it has ended\nreadyz check failed\n",
    )


def status(**given: Any) -> dict[str, Any]:
    ready = [{"name": "sync", "state": "ready"}]
    return {"problem": "", "manifest": {"files": 3}, "agents": {"problem": None}, "processes": ready} | given


@pytest.mark.parametrize(
    ("facts", "failed"),
    [
        ({}, []),
        ({"problem": "The master is not connected: no answer yet."}, ["link"]),
        ({"manifest": {"state": "scanning"}}, ["manifest"]),
        ({"agents": {"problem": "no answer within 0.8 s"}}, ["agents"]),
        ({"processes": [{"name": "pool-1", "state": "starting"}]}, ["processes"]),
    ],
)
def test_node_is_ready_when_it_does_its_work(facts: dict[str, Any], failed: list[str]) -> None:
    checks = check_readiness(status(**facts), is_fresh=True, silent_s=0.1)
    assert [check.name for check in checks if check.problem] == failed


def test_node_whose_sync_is_silent_is_not_ready_whatever_it_said_last() -> None:
    (check,) = check_readiness(status(), is_fresh=False, silent_s=7.0)
    assert str(check) == "[-]answers failed: sync does not answer; its last answer is 7 s old"


# ---- the source ------------------------------------------------------------------------------------------------------


class ScriptedNode:
    """The result of StatusReader.read, and a clock."""

    def __init__(self) -> None:
        self.now = 100.0
        self.reads = 0
        self.answers = True
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.said: list[str] = []

    def read(self) -> dict[str, Any]:
        self.reads += 1
        assert self.may_go_on.wait(60)
        found = StatusReader("/nowhere").read() | {"running": True, "problem": "", "processes": []}
        found["node"] = {"name": "m", "type": "master"}
        if self.answers:
            found |= {"peers": [], "manifest": {"files": self.reads}, "workers": [{"name": "w", "state": "connected"}]}
        else:
            found["problem"] = "The node does not answer: nobody listens"
        return found


def run(node: ScriptedNode, work: Any) -> None:
    async def with_source() -> None:
        source = StatusSource(node.read, Rounds(lambda level, text: node.said.append(text)), lambda: node.now)
        try:
            await work(source)
        finally:
            source.close()

    asyncio.run(with_source())


def files_of(seen: NodeSeen | None) -> int:
    assert seen is not None
    return int(seen.status["manifest"]["files"])


def test_many_viewers_are_one_question_a_second() -> None:
    node = ScriptedNode()

    async def work(source: StatusSource) -> None:
        seen = await asyncio.gather(*(source.current(60) for _ in range(20)))
        assert {files_of(one) for one in seen} == {1}
        assert files_of(await source.current(60)) == 1
        node.now += 1.0
        assert files_of(await source.current(60)) == 2
        assert node.reads == 2

    run(node, work)


def test_when_sync_hangs_its_last_answer_is_shown_with_its_age() -> None:
    node = ScriptedNode()

    async def work(source: StatusSource) -> None:
        first = await source.current(60)
        assert first is not None
        assert (first.is_fresh, first.status["verdict"]["level"]) == (True, "OK")
        node.answers = False
        for passed_s, is_fresh in ((FRESH_S - 1, True), (2.0, False)):
            node.now += passed_s
            seen = await source.current(60)
            assert seen is not None
            assert seen.is_fresh is is_fresh
            assert files_of(seen) == 1
            assert seen.status["workers"] == first.status["workers"]
        assert seen.status["verdict"] == {"level": "DOWN", "reason": "The node does not answer: nobody listens"}

    run(node, work)


def test_a_hanging_read_delays_no_request_beyond_its_own_time() -> None:
    node = ScriptedNode()

    async def work(source: StatusSource) -> None:
        await source.current(60)
        node.may_go_on.clear()
        node.now += 2.0
        assert files_of(await source.current(0.01)) == 1, "it hangs until the next line"
        node.may_go_on.set()
        assert files_of(await source.current(60)) == 2

    run(node, work)


def test_failed_reading_is_logged_once_and_tried_again() -> None:
    node = ScriptedNode()

    async def work(source: StatusSource) -> None:
        source._read = lambda: {}
        for _ in range(3):
            await source.current(60)
            node.now += 1.0
        source._read = node.read
        assert files_of(await source.current(60)) == 1

    run(node, work)
    assert len(node.said) == 2
    assert "Unexpected failure" in node.said[0]


def test_node_that_could_never_be_read_is_nothing() -> None:
    node = ScriptedNode()
    node.may_go_on.clear()

    async def work(source: StatusSource) -> None:
        assert await source.current(0.0) is None
        node.may_go_on.set()

    run(node, work)


# ---- lags ------------------------------------------------------------------------------------------------------------


def lags(**given: float | None) -> dict[str, Any]:
    return {
        "workers": [{"name": name, "state": "lost" if lag_s is None else "connected"} for name, lag_s in given.items()],
        "results": {name: {"lag_s": lag_s or None} for name, lag_s in given.items()},
    }


def test_lags_of_the_last_hour_are_kept_by_worker() -> None:
    from clusterd.monitor.lag import STEP_S, STEPS, LagHistory

    history = LagHistory()
    moments = itertools.count(1_000_000, STEP_S)
    for facts in (lags(w1=0.0), lags(w1=3.0, w2=None), None, lags(w1=0.0, w2=1.5)):
        now = next(moments)
        history.record(now, now, facts)
    shown = history.shown(1)
    assert shown["step_s"] == STEP_S
    assert shown["workers"] == {"w1": [0.0, 3.0, None, 0.0], "w2": [None, None, None, 1.5]}
    history.record(now + 3 * STEP_S, now, lags(w2=2.0))
    assert history.shown(1)["workers"] == {"w2": [1.5, None, None, 2.0]}, "w1 is forgotten; nobody looked in between"
    history.record(now + 100 * STEPS * STEP_S, now, lags(w2=4.0))
    values = history.shown(60)["workers"]["w2"]
    assert (len(values), values[-1], set(values[:-1])) == (STEPS, 4.0, {None})


def test_problem_that_found_no_room_on_the_disk_is_no_empty_line(tmp_path: Path) -> None:
    board = board_of_node(tmp_path)
    os.makedirs(run_dir(str(tmp_path)))
    try:
        Path(problem_path(str(tmp_path), "monitor")).touch()
        Path(problem_path(str(tmp_path), "store")).write_text("no agents\n")
        assert child_problems(str(tmp_path), board.rows()) == {
            "store": "no agents",
            "monitor": "monitor has a problem that it could not write down: see logs/cluster.log",
        }
    finally:
        board.close()


def test_verdict_of_a_reading_that_hangs_is_none() -> None:
    """systemd showed OK for as long as the disk hung."""
    seen = NodeSeen({"verdict": {"level": "OK"}}, False, NOW, 100.0)
    assert [level_of(seen, NOW + after) for after in (0.0, OLD_S, OLD_S + 1)] == ["OK", "OK", ""]
    assert level_of(None, NOW) == ""
