"""Sync's side of the channel to the pool: a job in, its result out. Order, credits and retries are JobQueue's."""

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar, cast

from clusterd.clock import Clock
from clusterd.messages.base import Job, Result
from clusterd.messages.manifest import ScanShard
from clusterd.messages.pool import AnyJob, AnyResult, JobDone, JobFailed, PoolHello, StartJob
from clusterd.sync.ports.job_times import JobTimes
from ipc.board import Board
from ipc.errors import NoCredit
from ipc.job_queue import JobQueue, Lane

R = TypeVar("R", bound=Result)
SendToPool = Callable[[bytes, StartJob], Awaitable[None]]


LOST_AFTER_CLAIMS = 3
LOST_AFTER_S = 20.0
"""A process never got its job if it reports this many times that it is idle, this long after the job was sent."""
GAVE_WAY = "gave-way"
DIED = "died"
LATE = "late"
API_S = 30.0
"""Programs count as asking for so long after a request: a process stays free of long jobs."""
CLOCKS_S = 0.005
"""The loop's timers may be early by its resolution."""
OVERDUE_S = 10.0
"""A long job that has run for so long (a file of a GiB, or it hangs) no longer keeps others from that process."""
SHORT_ROWS = 5000
SHORT_BYTES = 16 << 20
"""A job that looks at more rows of a manifest, or reads more bytes, may take tenths of a second on a busy machine."""


class JobError(Exception):
    """A job failed. `kind` is the word of JobFailed, the text is for people."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


def lane_for(*, rows: int = 0, size: int = 0) -> Lane:
    """Returns the lane of a job that a sync or a peer waits for, by what it looks at."""
    return "chunk" if rows <= SHORT_ROWS and size <= SHORT_BYTES else "long"


async def all_of(running: Iterable[Awaitable[R]]) -> list[R]:
    """Returns the results of jobs that run side by side. When one fails, waits for the others before raising its
    JobError: no job may still write while the caller cleans up or starts again."""
    outcomes = await asyncio.gather(*running, return_exceptions=True)
    results: list[R] = []
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
        results.append(outcome)
    return results


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


class PoolPort:
    """Runs jobs on `size` processes, and one more for the lane `background`. Cancelling a waiter removes its job from
    the queue; a job that runs already goes on and its result is dropped."""

    def __init__(
        self,
        send: SendToPool,
        queue: JobQueue[AnyJob],
        size: int,
        clock: Clock,
        remove: Callable[[str], None] = _remove,
        tell_hurry: Callable[[int], None] = lambda count: None,
    ) -> None:
        """`remove`: gets files made by jobs that are no longer needed; must not raise. `tell_hurry` shows the pool how
        often `hurry` was called."""
        self.size = size
        self._clock = clock
        self._remove = remove
        self.hurries = 0
        self.losses = 0
        self._tell_hurry = tell_hurry
        self._send = send
        self._queue = queue
        self._waiting: dict[int, asyncio.Future[AnyResult]] = {}
        self._slots: dict[int, int] = {}
        self._idle_claims: dict[int, int] = {}
        self._given_at: dict[int, float] = {}
        self._given: dict[int, str] = {}
        self._api_until = 0.0
        self.times = JobTimes()
        self._unwanted: dict[int, list[str]] = {}
        self._begin_by: dict[int, float] = {}

    async def run(self, job: Job[R], *, urgent: bool = False, lane: Lane = "bulk", begin_by: float | None = None) -> R:
        """Runs a job and returns its result, of the type that the job names. `urgent` is the lane of chunks of a
        transfer; see SHARES for the others. `begin_by`: monotonic seconds; a job that has not begun by then never
        does.

        Raises JobError, LATE for that. If the caller is cancelled, a running job goes on; use `start` when that
        matters."""
        return await self._run(job, "chunk" if urgent else lane, begin_by)

    def start(self, job: Job[R], *, urgent: bool = False) -> "asyncio.Task[R]":
        """Works like `run`, as a task that goes on when the caller is cancelled (shield it)."""
        return asyncio.create_task(self._run(job, "chunk" if urgent else "bulk"))

    def hurry(self) -> None:
        """Makes a walk in the background end at once with JobError "gave-way", because something waits for its
        result."""
        self.hurries += 1
        self._tell_hurry(self.hurries)
        for number in self._queue.withdraw(ScanShard):
            self._settle(number, JobFailed(GAVE_WAY, "somebody waits for it"))

    async def _run(self, job: Job[R], lane: Lane, begin_by: float | None = None) -> R:
        if lane == "api":
            self._api_until = self._clock.monotonic() + API_S
        try:
            number = self._queue.submit(job, lane, may_run_again=job.may_run_again)
        except NoCredit as refusal:
            raise JobError("busy", f"{type(job).__name__}: too many jobs wait already") from refusal
        future: asyncio.Future[AnyResult] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        timer: asyncio.TimerHandle | None = None
        if begin_by is not None:
            self._begin_by[number] = begin_by
            left_s = max(0.0, begin_by - self._clock.monotonic())
            timer = asyncio.get_running_loop().call_later(left_s + CLOCKS_S, self._drop_late)
        try:
            await self._assign()
            outcome = await future
        except asyncio.CancelledError:
            if not self._queue.cancel(number) and (future.cancelled() or not future.done()):
                self._unwanted[number] = [path for path in (getattr(job, name) for name in job.makes) if path]
            raise
        finally:
            self._waiting.pop(number, None)
            if timer is not None:
                timer.cancel()
                del self._begin_by[number]
        if isinstance(outcome, JobFailed):
            raise JobError(outcome.kind, outcome.text)
        if not isinstance(outcome, job.result_type()):
            raise JobError("bug", f"{type(job).__name__} returned {type(outcome).__name__}")
        return cast(R, outcome)

    async def hello(self, message: PoolHello) -> None:
        """Called when a pool process is free. A new incarnation means that the earlier process of its slot is dead."""
        if self._slots.get(message.slot) != message.incarnation:
            self.lost(message.slot)
            self._slots[message.slot] = message.incarnation
        elif self._queue.is_running(message.slot):
            # Idle processes repeat their hello. A hello may cross a job on its way; so may several that were sent
            # before the job or soon after, because on a busy machine they wait together and the job may be just as
            # late.
            if message.at and message.at < self._given_at.get(message.slot, 0.0) + LOST_AFTER_S:
                return
            self._idle_claims[message.slot] = self._idle_claims.get(message.slot, 0) + 1
            if self._idle_claims[message.slot] < LOST_AFTER_CLAIMS:
                return
            self._queue.not_arrived(message.slot)
        self._idle_claims.pop(message.slot, None)
        self._queue.ready(message.slot)
        await self._assign()

    async def done(self, slot: int, message: JobDone) -> None:
        if slot not in self._slots:
            return  # a job of an earlier sync process; the process counts as free when its hello to this one arrives
        self._idle_claims.pop(slot, None)
        if self._queue.done(slot, message.id):
            kind, took_s = self._given.pop(slot, "unknown"), self._clock.monotonic() - self._given_at.get(slot, 0.0)
            self.times.took(kind, took_s, failed=isinstance(message.result, JobFailed))
            self._settle(message.id, message.result)
        await self._assign()

    def lost(self, slot: int) -> None:
        """Called when the process of this slot is dead: its job is tried once more on another process if it may be, or
        fails."""
        self.losses += self._slots.pop(slot, None) is not None
        for number, failure in self._queue.lost(slot):
            self._settle(number, JobFailed(DIED, failure))

    def watch(self, board: Board) -> None:
        """Looks at the board for pool processes that died (the supervisor notices before a successor says hello)."""
        for slot, incarnation in list(self._slots.items()):
            row = board.row(f"pool-{slot}").snapshot()
            if row.incarnation != incarnation or row.state == "down":
                self.lost(slot)

    @property
    def known_slots(self) -> frozenset[int]:
        """Returns the pool processes that have said hello to this sync process."""
        return frozenset(self._slots)

    def _settle(self, number: int, outcome: AnyResult) -> None:
        # The cancelled caller has removed the file already, perhaps before the job made it.
        for unwanted in self._unwanted.pop(number, ()):
            self._remove(unwanted)
        future = self._waiting.get(number)
        if future is not None and not future.done():
            future.set_result(outcome)

    def _drop_late(self) -> None:
        """What is to begin now, or never, and still waits."""
        now = self._clock.monotonic()
        for number, begin_by in list(self._begin_by.items()):
            if now >= begin_by and self._queue.drop_waiting(number):
                self._settle(number, JobFailed(LATE, "no process was free before its asker gave up"))

    async def _assign(self) -> None:
        self._drop_late()
        now = self._clock.monotonic()
        overdue = {slot for slot, given_at in self._given_at.items() if now - given_at > OVERDUE_S}
        for slot, number, job in self._queue.next_assignments(keeps_one=now < self._api_until, overdue=overdue):
            self._given_at[slot] = self._clock.monotonic()
            self._given[slot] = type(job).__name__
            await self._send(f"pool-{slot}".encode(), StartJob(number, job, self._begin_by.get(number)))
