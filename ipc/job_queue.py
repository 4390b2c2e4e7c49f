"""The queue of jobs: waiting, running, retried. No sockets and no clock: sync owns one and reports events to it."""

import itertools
import secrets
from collections import deque
from collections.abc import Collection
from typing import Generic, Literal, TypeVar

from ipc.credit import Credit

J = TypeVar("J")
Lane = Literal["chunk", "api", "long", "bulk", "background"]
TRIES = 2
BACKGROUND_SLOT = 0
"""The process for background work. It gets no other work, and no other process gets background work."""
SHARES: dict[Lane, int] = {"chunk": 16, "api": 4, "long": 2, "bulk": 2}
"""How many jobs of each lane are begun per round while other lanes wait, in this order: chunks of transfers and other
short jobs of syncs, API requests, long jobs that a whole sync or a peer waits for, the rest of a sync. No lane can
starve another. All processes but one may run API jobs at a time (one if there is only one), so a sync never waits for
the end of a long request. While programs ask, the same holds the other way round."""
MAY_TAKE_A_SECOND: frozenset[Lane] = frozenset({"long", "bulk"})


class _Entry(Generic[J]):
    __slots__ = ("is_wanted", "job", "lane", "most_tries", "number", "tries")

    def __init__(self, number: int, job: J, lane: Lane, most_tries: int) -> None:
        self.number = number
        self.job = job
        self.lane: Lane = lane
        self.most_tries = most_tries
        self.tries = 0
        self.is_wanted = True


class JobQueue(Generic[J]):
    """Each pool process has one credit: it gets a job only when it is free. Lanes share the processes by SHARES.

    A job whose process died is retried once, at the head of the queue, if it may be; then it has failed.

    Job numbers are unique across the lives of sync: a result for a job of an earlier sync is never mistaken for one of
    this sync."""

    def __init__(self, most_jobs: int) -> None:
        """`most_jobs`: limit for waiting and running jobs together."""
        self._credit = Credit(most_jobs)
        self._numbers = itertools.count(secrets.randbits(48) << 12)
        self._waiting: dict[Lane, deque[_Entry[J]]] = {lane: deque() for lane in (*SHARES, "background")}
        self._left = dict(SHARES)
        self._running: dict[int, _Entry[J]] = {}
        self._free: deque[int] = deque()
        self.finished = 0
        self.retried = 0

    def submit(self, job: J, lane: Lane, *, may_run_again: bool = True) -> int:
        """Queues a job; returns its number. Raises NoCredit when there are too many."""
        self._credit.take()
        entry = _Entry(next(self._numbers), job, lane, TRIES if may_run_again else 1)
        self._waiting[lane].append(entry)
        return entry.number

    def ready(self, slot: int) -> None:
        """The process of this slot is free. Saying so twice has no further effect."""
        if slot not in self._free and slot not in self._running:
            self._free.append(slot)

    def next_assignments(self, *, keeps_one: bool = False, overdue: Collection[int] = ()) -> list[tuple[int, int, J]]:
        """What to send now: (slot, job number, job). These jobs count as running from here on. `keeps_one`: of several
        processes one gets no job of MAY_TAKE_A_SECOND, so that a short job never waits for the end of one; jobs on the
        slots in `overdue` do not count for that, or one that hangs would hold up all others; slots that are free now
        may be in it."""
        overdue = self._running.keys() & overdue  # not what a process that is free did before
        assignments = []
        for slot in list(self._free):
            entry = self._next_background() if slot == BACKGROUND_SLOT else self._next(keeps_one, overdue)
            if entry is None:
                continue
            self._free.remove(slot)
            entry.tries += 1
            self._running[slot] = entry
            assignments.append((slot, entry.number, entry.job))
        return assignments

    def done(self, slot: int, number: int) -> bool:
        """The process of this slot has finished this job and is free. False if this queue had not given it that job."""
        entry = self._running.get(slot)
        known = entry is not None and entry.number == number
        if known:
            del self._running[slot]
            self._credit.give()
            self.finished += 1
        self.ready(slot)
        return known

    def lost(self, slot: int) -> list[tuple[int, str]]:
        """The process of this slot has died. Returns the jobs that have failed for good, including a cancelled one,
        which is not retried."""
        if slot in self._free:
            self._free.remove(slot)
        entry = self._running.pop(slot, None)
        if entry is None:
            return []
        if entry.is_wanted and entry.tries < entry.most_tries:
            self.retried += 1
            self._waiting[entry.lane].appendleft(entry)
            return []
        self._credit.give()
        name = type(entry.job).__name__
        often = "twice" if entry.most_tries > 1 else "and it may not run again"
        often = often if entry.is_wanted else "and nobody wants it any more"
        return [(entry.number, f"{name}: the process that ran it died, {often}")]

    def not_arrived(self, slot: int) -> None:
        """The process of this slot lives but does not know its job: the job waits again, and this does not count as a
        try."""
        entry = self._running.pop(slot, None)
        if entry is not None:
            entry.tries -= 1
            self._waiting[entry.lane].appendleft(entry)

    def withdraw(self, kind: type[J]) -> list[int]:
        """Removes waiting background jobs of this kind; returns their numbers."""
        waiting = self._waiting["background"]
        found = [entry for entry in waiting if isinstance(entry.job, kind)]
        for entry in found:
            waiting.remove(entry)
            self._credit.give()
        return [entry.number for entry in found]

    def cancel(self, number: int) -> bool:
        """Cancels a job. True if it had not begun; one that has begun runs to its end."""
        if self.drop_waiting(number):
            return True
        for entry in self._running.values():
            if entry.number == number:
                entry.is_wanted = False
        return False

    def drop_waiting(self, number: int) -> bool:
        """Removes a job that has not begun; False for any other, which does not change."""
        for queue in self._waiting.values():
            for entry in queue:
                if entry.number == number:
                    queue.remove(entry)
                    self._credit.give()
                    return True
        return False

    def is_running(self, slot: int) -> bool:
        return slot in self._running

    @property
    def waiting(self) -> int:
        return sum(len(queue) for queue in self._waiting.values())

    @property
    def running(self) -> int:
        return len(self._running)

    def _next_background(self) -> "_Entry[J] | None":
        waiting = self._waiting["background"]
        return waiting.popleft() if waiting else None

    def _next(self, keeps_one: bool, overdue: Collection[int]) -> "_Entry[J] | None":
        lanes = [lane for lane in SHARES if self._waiting[lane] and self._may_begin(lane, keeps_one, overdue)]
        if not lanes:
            return None
        if not any(self._left[lane] for lane in lanes):
            self._left = dict(SHARES)
        lane = next(lane for lane in lanes if self._left[lane])
        self._left[lane] -= 1
        return self._waiting[lane].popleft()

    def _may_begin(self, lane: Lane, keeps_one: bool, overdue: Collection[int]) -> bool:
        if lane == "chunk" or (lane in MAY_TAKE_A_SECOND and not keeps_one):
            return True
        processes = sum(slot != BACKGROUND_SLOT for slot in (*self._free, *self._running))
        is_long = lane in MAY_TAKE_A_SECOND
        together = MAY_TAKE_A_SECOND if is_long else {lane}
        counted = [entry for slot, entry in self._running.items() if not (is_long and slot in overdue)]
        running = sum(entry.lane in together for entry in counted)
        return running < max(1, processes - 1)
