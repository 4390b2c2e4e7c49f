"""A pool process: asks sync for a job, runs it, answers, asks again. Owns nothing between two jobs."""

import signal
import time
from types import FrameType

from clusterd.leadership import Leadership
from clusterd.logs import Log
from clusterd.memory import MemoryGauge, trim_heap
from clusterd.messages.pool import AnyResult, JobDone, JobFailed, PoolHello, StartJob, SyncToPool
from clusterd.pool.jobs import JobRunner
from clusterd.reload import read_again
from clusterd.rounds import Rounds
from clusterd.rundir import jobs_socket
from clusterd.scheduling import compute, run_in_background
from clusterd.settings import Settings
from ipc.arena import Arena
from ipc.board import Board
from ipc.channel import WorkerSocket
from ipc.codec import Decoder
from ipc.errors import BadMessage, NoCredit
from ipc.job_queue import BACKGROUND_SLOT

IDLE_S = 1.0
"""Longest wait without a heartbeat."""

HELLO_AGAIN_S = 5.0
"""How often a free process repeats that it is free, so that a lost message cannot keep it idle for ever."""


class _Stopped(BaseException):
    """SIGTERM: the process stops where it is, as if killed, but runs its clean-up."""


def run(slot: int, settings: Settings, arena: Arena, board: Board, log: Log) -> int:
    """The child's main function. Returns the exit code."""
    process = _PoolProcess(slot, settings, arena, board, log)
    try:
        signal.signal(signal.SIGTERM, _stop)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, process.ask_for_reload)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
        process.run()
    except _Stopped:
        process.stopping()
    return 0


def _stop(number: int, frame: FrameType | None) -> None:
    # Once is enough: a second signal must not cut the clean-up short.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise _Stopped


class _PoolProcess:
    def __init__(self, slot: int, settings: Settings, arena: Arena, board: Board, log: Log) -> None:
        self._slot = slot
        self._settings = settings
        self._row = board.row(f"pool-{slot}")
        self._sync = board.row("sync")
        self._log = log
        self._incarnation = self._row.snapshot().incarnation
        leadership = Leadership(board, settings) if settings.is_master and settings.has_election else None
        self._workshop = JobRunner(
            settings, arena, self._row.stamp, lambda: self._sync.get("hurry"), leadership, self._tell_bug
        )
        self._gauge = MemoryGauge(self._row.set_own_bytes)
        self._greeted = 0
        self._greeted_at = 0.0
        self._reload_asked = False
        self._rounds = Rounds(lambda level, text: log.line(level, "Cluster", "Pool", f"pool-{slot}: {text}"))

    def run(self) -> None:
        """Until _Stopped."""
        if self._slot == BACKGROUND_SLOT:
            run_in_background()
        else:
            compute()
        socket: WorkerSocket[SyncToPool] = WorkerSocket(
            jobs_socket(self._settings.root), f"pool-{self._slot}".encode(), Decoder(SyncToPool)
        )
        try:
            self._row.set_ready()
            self._serve(socket)
        finally:
            socket.close()

    def stopping(self) -> None:
        self._row.set_stopping()

    def ask_for_reload(self, number: int, frame: FrameType | None) -> None:
        self._reload_asked = True

    def _serve(self, socket: WorkerSocket[SyncToPool]) -> None:
        worked = False
        while True:
            self._row.stamp()
            self._gauge.tick(time.monotonic())
            self._reload_if_asked()
            self._greet(socket)
            try:
                message = socket.recv(IDLE_S)
            except BadMessage as problem:
                self._say(f"pool-{self._slot}: a message from sync was not understood: {problem}")
                continue
            if message is not None:
                # A signal does not end the wait. The first job behind it may be the walk by the new rules.
                self._reload_if_asked()
                self._work(socket, message)
                worked = True
            elif worked:
                # Idle after work: give the memory that malloc keeps back to the system.
                trim_heap()
                worked = False

    def _greet(self, socket: WorkerSocket[SyncToPool]) -> None:
        """Tell a sync that is new, and now and then the same one, that this process is free."""
        sync, now = self._sync.snapshot(), time.monotonic()
        if sync.incarnation == self._greeted and (now - self._greeted_at < HELLO_AGAIN_S or sync.state != "ready"):
            return
        try:
            socket.send(PoolHello(self._slot, self._incarnation, now))
        except NoCredit:
            return
        self._greeted, self._greeted_at = sync.incarnation, now

    def _work(self, socket: WorkerSocket[SyncToPool], order: StartJob) -> None:
        employer = self._sync.snapshot().incarnation
        began = time.perf_counter_ns()
        result: AnyResult
        if order.begin_by is not None and time.monotonic() >= order.begin_by:
            result = JobFailed("late", "it could not begin before its asker gave up")
        else:
            result = self._workshop.do(order.job)
        self._row.add("busy_us", (time.perf_counter_ns() - began) // 1000)
        self._row.add("jobs_failed" if isinstance(result, JobFailed) else "jobs_done", 1)
        while self._sync.snapshot().incarnation == employer:
            # A new sync process did not give this job: it gets a hello instead.
            self._row.stamp()
            try:
                socket.send(JobDone(order.id, result))
            except NoCredit:
                continue
            self._greeted_at = time.monotonic()
            return

    def _reload_if_asked(self) -> None:
        if self._reload_asked:
            with self._rounds.survive("reloading the configuration"):
                self._reload()

    def _reload(self) -> None:
        """SIGHUP, between two jobs."""
        self._reload_asked = False
        self._settings = self._workshop.settings = read_again(self._settings, self._log)

    def _tell_bug(self, text: str) -> None:
        self._log.line("ERROR", "Cluster", "Pool", f"pool-{self._slot}: {text}")

    def _say(self, text: str) -> None:
        self._log.line("WARNING", "Cluster", "Pool", text)
