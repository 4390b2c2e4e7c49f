"""The supervisor watches its children, with real forks: which are replaced, and which only wait for a core."""

import contextlib
import errno
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from clusterd.exits import ExitCode
from clusterd.logs import Log
from clusterd.supervisor.child import ChildSpec
from clusterd.supervisor.family import Family, Timing
from clusterd.supervisor.restart import LIVES_TO_TRY
from ipc.board import Board
from tests.supervisor.conftest import FakeNode, killed_and_back
from tests.supervisor.helpers import until

pytestmark = pytest.mark.slow
CONFIGURATION = (
    f"<ossec_config><cluster><node_name>fake</node_name><key>{'k' * 32}</key><nodes><node>10.0.0.1</node></nodes>"
    "</cluster></ossec_config>"
)


def test_each_killed_child_comes_back_with_a_new_incarnation(node: FakeNode) -> None:
    node.serve()

    for name in ("net", "sync", "pool-1", "pool-2"):
        killed_and_back(node, name)
        assert f"{name} (pid" in node.log
        assert f"up {name} 2" in node.story
    assert "ended by SIGKILL. It comes back now." in node.log


def test_child_that_was_ready_is_replaced_however_often_it_dies(node: FakeNode) -> None:
    node.serve()

    for _ in range(LIVES_TO_TRY):
        killed_and_back(node, "sync")

    assert node.process is not None
    assert node.process.poll() is None


def test_child_that_fails_to_start_again_is_tried_until_it_does(node: FakeNode) -> None:
    """Another program took the port between two lives of net."""
    node.serve()
    node.behave("net", "refuse port 1516 is taken")
    os.kill(node.row("net").pid, signal.SIGKILL)
    until(lambda: node.row("net").restarts >= 3, "net was tried again")
    assert node.row("net").state in ("down", "starting")
    assert "ended with exit code 3: port 1516 is taken. It comes back in" in node.log

    (node.root / "behave-net").unlink()
    until(lambda: node.row("net").state == "ready", "net serves again")


def test_one_that_is_asked_to_stop_behind_our_back_is_replaced(node: FakeNode) -> None:
    node.serve()
    os.kill(node.row("pool-2").pid, signal.SIGTERM)

    until(lambda: node.row("pool-2").incarnation == 2 and node.row("pool-2").state == "ready", "pool-2 is back")


def test_stopped_child_is_replaced_and_its_stack_written(node: FakeNode) -> None:
    node.serve(stuck_after_s=0.5)
    stuck = node.row("sync")
    os.kill(stuck.pid, signal.SIGSTOP)

    until(lambda: node.row("sync").incarnation == 2 and node.row("sync").state == "ready", "sync is replaced")

    assert f"sync (pid {stuck.pid}) gave no sign of life for" in node.log
    assert f"sync (pid {stuck.pid}, 1. life) gave no sign of life" in node.crash_log
    assert "fake_node.py" in node.crash_log
    assert "in live" in node.crash_log
    assert node.row("net").incarnation == 1


def test_busy_child_that_does_not_stamp_is_stuck(node: FakeNode) -> None:
    node.behave("pool-1", "mute")
    node.serve(stuck_after_s=0.5, stuck_busy_after_s=1.5)
    node.behave("pool-1", "")

    until(lambda: node.row("pool-1").incarnation == 2 and node.row("pool-1").state == "ready", "pool-1 is replaced")
    assert "ended by SIGABRT" in node.log
    assert re.search(r"pool-1 .* gave no sign of life for \d+ s \([12] s computing", node.log)


def test_reload_changes_how_long_a_child_may_be_silent(node: FakeNode) -> None:
    node.serve(stuck_after_s=3600.0)
    (node.root / "etc/ossec.conf").write_text(CONFIGURATION)
    (node.root / "etc/cluster.json").write_text('{"clusterd": {"stuck_after": 2}}')
    os.kill(node.pid, signal.SIGHUP)
    until(lambda: "hup sync" in node.story, "the children are told")
    os.kill(node.row("sync").pid, signal.SIGSTOP)

    until(lambda: node.row("sync").incarnation == 2 and node.row("sync").state == "ready", "sync is replaced")


def silence_s(node: FakeNode, name: str) -> float:
    return time.monotonic() - node.row(name).heartbeat_ns / 1e9


def test_child_that_waits_for_a_core_is_not_stuck(node: FakeNode) -> None:
    node.behave("pool-1", "starved")
    with its_core_busy():
        node.serve(stuck_after_s=0.3, stuck_busy_after_s=5.0)
        until(lambda: silence_s(node, "pool-1") > 1, "pool-1 gets no core", 60)
        seen = node.row("supervisor").heartbeat_ns
        until(lambda: node.row("supervisor").heartbeat_ns > seen + 500_000_000, "the supervisor looked again")

    assert node.row("pool-1").incarnation == 1
    assert "no sign of life" not in node.log


def test_child_that_waits_for_a_core_may_start_late(node: FakeNode) -> None:
    node.behave("pool-1", "starved-birth")
    with its_core_busy():
        # Only what the children wait for a core is not counted: on a busy machine the supervisor waits, too.
        node.start(stuck_after_s=0.3, start_s=4.0)
        until(lambda: "up pool-1 1" in node.story, "pool-1 is born")
        until(lambda: silence_s(node, "pool-1") > 6, "pool-1 gets no core", 60)
    give_it_a_core(node.row("pool-1").pid)
    until(lambda: node.row("pool-1").state == "ready", "pool-1 is ready")

    assert node.row("pool-1").incarnation == 1
    until(lambda: node.row("supervisor").state == "ready", "the node serves")


def give_it_a_core(pid: int) -> None:
    """The test takes the same share of CPU as other processes, because the machine may have other work. Only root may
    do this."""
    with contextlib.suppress(OSError):
        os.sched_setscheduler(pid, os.SCHED_OTHER, os.sched_param(0))
        Path(f"/proc/{pid}/autogroup").write_text("0")


@contextlib.contextmanager
def its_core_busy() -> Iterator[None]:
    """The core of a starved child has two processes that compute and never stop."""
    line = [sys.executable, "-ISc", "while True: pass"]
    busy = [subprocess.Popen(line) for _ in range(2)]
    try:
        for process in busy:
            os.sched_setaffinity(process.pid, {min(os.sched_getaffinity(0))})
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def test_no_process_counts_as_stuck_after_the_whole_node_was_stopped(node: FakeNode) -> None:
    """After the machine has slept or was migrated all children were silent, but none is stuck."""
    node.serve(stuck_after_s=1.0)
    pids = [node.pid, *(node.row(name).pid for name in ("net", "sync", "pool-1", "pool-2"))]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(2)
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    seen = node.row("supervisor").heartbeat_ns
    until(lambda: node.row("supervisor").heartbeat_ns > seen + 500_000_000, "the supervisor looked again")

    assert [node.row(name).incarnation for name in ("net", "sync", "pool-1", "pool-2")] == [1, 1, 1, 1]


def test_crash_loop_is_given_up_loudly(node: FakeNode) -> None:
    node.behave("sync", "crash")
    node.start()

    assert node.wait() == ExitCode.COULD_NOT_START
    assert f"sync ended {LIVES_TO_TRY} times before it was ready, the last time with exit code 1" in node.log
    assert "RuntimeError: a bug of the fake" in node.log
    assert node.story.count("up net 1") == 1
    assert len([line for line in node.story if line.startswith("up sync")]) == LIVES_TO_TRY
    assert node.left() == []


def family_that_cannot_fork(
    root: Path, monkeypatch: pytest.MonkeyPatch, worked: tuple[str, ...] | None = None
) -> Family:
    def fork(*_: object) -> None:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr("clusterd.supervisor.family.fork", fork)
    return Family(
        [ChildSpec("net", lambda: 0)],
        Board.create(str(root / "board")),
        Log(str(root / "log")),
        Timing(),
        crash_log=str(root / "crash.log"),
        reason=str,
        spread=lambda: 0.0,
        not_for_child=lambda name: (),
        tell=lambda event: None,
        worked=worked,
    )


def test_stacks_of_a_child_that_dies_for_ever_do_not_fill_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clusterd.supervisor.family.MOST_CRASH_LOG", 10)
    with open(tmp_path / "crash.log", "a") as child:
        child.write("0123456789")
        child.flush()
        family = family_that_cannot_fork(tmp_path, monkeypatch)
        family.start(0.0)
        assert (tmp_path / "crash.log").read_text() == "0123456789"
        child.write("!")
        child.flush()
        family.look(10.0)
        child.write("what comes then")
    assert (tmp_path / "crash.log").read_text() == "what comes then"
    assert (tmp_path / "crash.log.1").read_text() == "0123456789!"


@pytest.mark.parametrize("worked", [None, ()])
def test_node_that_may_start_no_process_says_why_and_goes_on_if_its_role_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, worked: tuple[str, ...] | None
) -> None:
    family = family_that_cannot_fork(tmp_path, monkeypatch, worked)
    family.start(0.0)
    for moment in range(1, LIVES_TO_TRY):
        family.look(10.0 * moment)
    text = "net could not be forked: Resource temporarily unavailable"
    assert family.failure == (text if worked is None else "")
    assert text in (tmp_path / "log").read_text()
    assert (family.next_moment() is None) == (worked is None)
