"""A pool process over its real channel: greets, works, survives its sync, ends when asked."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import psutil
import pytest
import zmq

from clusterd.messages.bodies import Digested, DigestSegments
from clusterd.messages.manifest import RotateLog, Swept
from clusterd.messages.pool import AnyJob, JobDone, JobFailed, PoolHello, PoolToSync, StartJob
from clusterd.pool import process
from clusterd.rounds import Rounds
from clusterd.rundir import board_path, jobs_socket, run_dir
from hashing.segment import Segment
from ipc.board import Board, RowSnapshot
from ipc.codec import Decoder, encode
from tests.supervisor.helpers import until

pytestmark = pytest.mark.slow
EMPTY_SHA256 = bytes.fromhex("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")


class FakeSync:
    """The other end of the pool's channel. `die` and `born` are lives of sync, on the board and on the socket."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._decoder: Decoder[PoolHello | JobDone] = Decoder(PoolToSync)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._bind()
        command = [sys.executable, "-m", "tests.pool.lone_pool", str(root)]
        self.keeper = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.keeper.stdout is not None
        self.pid = int(self.keeper.stdout.readline())

    def _bind(self) -> None:
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.set(zmq.LINGER, 0)
        self._socket.set(zmq.RCVTIMEO, 60_000)
        self._socket.set(zmq.ROUTER_MANDATORY, 1)
        Path(jobs_socket(str(self.root))).unlink(missing_ok=True)
        self._socket.bind(f"ipc://{jobs_socket(str(self.root))}")

    def hear(self) -> PoolHello | JobDone:
        identity, data = self._socket.recv_multipart()
        assert identity == b"pool-1"
        return self._decoder.decode(data)

    def hear_hello(self) -> PoolHello:
        """Equal except for the time in it."""
        hello = self.hear()
        assert isinstance(hello, PoolHello)
        assert 0 < hello.at <= time.monotonic()
        return msgspec.structs.replace(hello, at=0.0)

    def give(self, number: int, job: AnyJob, begin_by: float | None = None) -> None:
        self._socket.send_multipart([b"pool-1", encode(StartJob(number, job, begin_by))])

    def board_line(self, text: str) -> None:
        assert self.keeper.stdin is not None
        self.keeper.stdin.write(text + "\n")
        self.keeper.stdin.flush()

    def die(self) -> None:
        self._socket.close(0)
        self.board_line("gone")

    def born(self, incarnation: int) -> None:
        self._bind()
        self.board_line(f"sync {incarnation}")

    def row(self) -> RowSnapshot:
        board = Board.open(board_path(str(self.root)))
        try:
            return board.row("pool-1").snapshot()
        finally:
            board.close()

    def end(self) -> int:
        """Returns the pool's exit code after SIGTERM."""
        assert self.keeper.stdin is not None
        assert self.keeper.stdout is not None
        self.keeper.stdin.close()
        code = self.keeper.wait(60)
        self.keeper.stdout.close()
        return code

    def close(self) -> None:
        if self.keeper.poll() is None:
            self.end()
        self._socket.close(0)
        self._context.term()


@pytest.fixture
def sync(tmp_path: Path) -> Iterator[FakeSync]:
    Path(run_dir(str(tmp_path))).mkdir(parents=True)
    (tmp_path / "logs").mkdir()
    made = FakeSync(tmp_path)
    yield made
    made.close()


def test_process_says_hello_and_answers_each_job(sync: FakeSync) -> None:
    assert sync.hear_hello() == PoolHello(1, 7)
    for number in (1, 2, 3):
        sync.give(number, DigestSegments([]))
        assert sync.hear() == JobDone(number, Digested(EMPTY_SHA256))
    until(lambda: sync.row().counters["jobs_done"] == 3, "the jobs are counted")
    assert sync.row().state == "ready"


def test_failed_job_is_an_answer_and_the_process_lives_on(sync: FakeSync) -> None:
    sync.hear()
    sync.give(1, DigestSegments([Segment(str(sync.root / "missing"), 0, 10)]))
    answer = sync.hear()
    assert isinstance(answer, JobDone)
    assert isinstance(answer.result, JobFailed)
    assert answer.result.kind == "disk"
    assert str(sync.root / "missing") in answer.result.text
    sync.give(2, DigestSegments([]))
    assert sync.hear() == JobDone(2, Digested(EMPTY_SHA256))
    until(lambda: sync.row().counters["jobs_failed"] == 1, "the failure is counted")


def test_job_that_is_read_too_late_is_not_begun(sync: FakeSync) -> None:
    """The process was stopped, or its machine suspended, after it had said that it is free."""
    sync.hear()
    sync.give(1, DigestSegments([]), time.monotonic() + 600)
    assert sync.hear() == JobDone(1, Digested(EMPTY_SHA256))
    sync.give(2, DigestSegments([]), time.monotonic())
    answer = sync.hear()
    assert isinstance(answer, JobDone)
    assert isinstance(answer.result, JobFailed)
    assert answer.result.kind == "late"


def test_new_sync_hears_a_hello_by_itself(sync: FakeSync) -> None:
    sync.hear()
    sync.die()
    sync.born(2)

    assert sync.hear_hello() == PoolHello(1, 7)
    sync.give(1, DigestSegments([]))
    assert sync.hear() == JobDone(1, Digested(EMPTY_SHA256))


def test_result_of_a_job_of_the_dead_sync_is_not_given_to_the_new_one(sync: FakeSync) -> None:
    """Its numbers mean nothing there."""
    sync.hear()
    (sync.root / "logs/cluster.log").write_text("a line\n")
    sync.give(1, RotateLog(str(sync.root), "2026-11-05"))
    until(lambda: not (sync.root / "logs/cluster.log").exists(), "the job runs")
    sync.die()
    sync.born(2)

    assert sync.hear_hello() == PoolHello(1, 7)


def test_process_stamps_during_a_long_job(sync: FakeSync) -> None:
    sync.hear()
    (sync.root / "logs/cluster.log").write_text("a line\n")
    sync.give(1, RotateLog(str(sync.root), "2026-11-05"))
    until(lambda: not (sync.root / "logs/cluster.log").exists(), "the job runs")
    stamp = sync.row().heartbeat_ns
    until(lambda: sync.row().heartbeat_ns > stamp, "it stamps", 1.0)
    until(lambda: sync.row().counters["jobs_done"] == 1, "the job is done")
    assert sync.hear() == JobDone(1, Swept(1))


def test_bytes_that_are_no_message_are_logged_and_skipped(sync: FakeSync) -> None:
    sync.hear()
    sync._socket.send_multipart([b"pool-1", b"\xc1garbage"])
    sync.give(1, DigestSegments([]))

    assert sync.hear() == JobDone(1, Digested(EMPTY_SHA256))
    assert (
        "WARNING: [Cluster] [Pool] pool-1: a message from sync was not understood"
        in (sync.root / "logs/cluster.log").read_text()
    )


def cpu_ns(pid: int) -> int:
    """Returns the CPU time of all its threads by the scheduler's count: times in ticks are guesses where the kernel
    counts ticks only."""
    return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat"))


def test_idle_process_uses_no_cpu_and_lets_those_in_that_wake_up(sync: FakeSync) -> None:
    sync.hear()
    stamp = until(lambda: sync.row().heartbeat_ns, "it stamps")
    before = cpu_ns(sync.pid)
    until(lambda: sync.row().heartbeat_ns >= stamp + 2_000_000_000, "two seconds of idling")

    assert cpu_ns(sync.pid) - before <= 20_000_000
    assert psutil.Process(sync.pid).nice() == psutil.Process().nice(), "somebody waits for what it does"
    assert os.sched_getscheduler(sync.pid) == os.SCHED_BATCH


def test_process_stops_at_once_between_jobs_and_in_one(sync: FakeSync) -> None:
    sync.hear()
    (sync.root / "logs/cluster.log").write_text("a line\n")
    sync.give(1, RotateLog(str(sync.root), "2026-11-05"))
    until(lambda: not (sync.root / "logs/cluster.log").exists(), "the job runs")

    assert sync.end() == 0
    assert sync.row().state == "stopping"
    assert sync.row().counters["jobs_done"] == 0


def test_killed_process_is_just_gone(sync: FakeSync) -> None:
    sync.hear()
    os.kill(sync.pid, signal.SIGKILL)
    assert sync.end() in (-9, 256 - 9)


def test_job_that_comes_behind_a_reload_is_done_with_the_new_settings() -> None:
    """It is most likely the walk by the new rules: with the old ones, files of a new directory would be found minutes
    later."""
    done: list[str] = []
    pool = process._PoolProcess.__new__(process._PoolProcess)

    class Socket:
        def recv(self, timeout_s: float) -> StartJob:
            if done:
                raise process._Stopped
            pool.ask_for_reload(signal.SIGHUP, None)  # in the middle of the wait
            return StartJob(1, RotateLog("/nowhere", "2026-11-30"))

    def reload() -> None:
        done.append("reload")
        pool._reload_asked = False

    parts: dict[str, Any] = {
        "_row": SimpleNamespace(stamp=lambda: None),
        "_gauge": SimpleNamespace(tick=lambda now: None),
        "_rounds": Rounds(lambda level, text: None),
        "_reload_asked": False,
        "_greet": lambda socket: None,
        "_reload": reload,
        "_work": lambda socket, order: done.append("work"),
    }
    vars(pool).update(parts)
    with pytest.raises(process._Stopped):
        pool._serve(cast(Any, Socket()))
    assert done == ["reload", "work"]
