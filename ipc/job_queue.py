"""Jobs waiting, running and tried again. No sockets and no clock: sync owns one and tells it what happened."""

import itertools
import secrets
from collections import deque
from typing import Literal

from ipc.credit import Credit
from ipc.messages import AnyJob, JobFailed

Priority = Literal["chunk", "bulk"]
TRIES = 2
CHUNKS_IN_A_ROW = 16
"""So many chunks are begun while bulk waits; then one of bulk gets its turn, so that transfers never stop a scan."""


class _Entry:
    __slots__ = ("is_wanted", "job", "number", "priority", "tries")

    def __init__(self, number: int, job: AnyJob, priority: Priority) -> None:
        self.number = number
        self.job = job
        self.priority: Priority = priority
        self.tries = 0
        self.is_wanted = True


class JobQueue:
    """A pool process has one credit: it gets a job only when it is free. Chunks of transfers go before everything else.

    A job whose process died is tried once more, ahead of the queue, then it has failed.

    Numbers of jobs are unique across the lives of sync: a result for a job that an earlier sync gave is never mistaken
    for that of one given here."""

    def __init__(self, most_jobs: int) -> None:
        """`most_jobs`: how many may wait and run together."""
        self._credit = Credit(most_jobs)
        self._numbers = itertools.count(secrets.randbits(48) << 12)
        self._waiting: dict[Priority, deque[_Entry]] = {"chunk": deque(), "bulk": deque()}
        self._running: dict[int, _Entry] = {}
        self._free: deque[int] = deque()
        self._chunks_in_a_row = 0
        self.finished = 0
        self.retried = 0

    def submit(self, job: AnyJob, priority: Priority) -> int:
        """Queue a job; returns its number. Raises NoCredit when there are too many."""
        self._credit.take()
        entry = _Entry(next(self._numbers), job, priority)
        self._waiting[priority].append(entry)
        return entry.number

    def ready(self, slot: int) -> None:
        """The process of this slot is free. Saying so twice is the same as once."""
        if slot not in self._free and slot not in self._running:
            self._free.append(slot)

    def next_assignments(self) -> list[tuple[int, int, AnyJob]]:
        """What to send now: (slot, job number, job). These jobs count as running from here on."""
        assignments = []
        while self._free and self.waiting:
            entry = self._next()
            slot = self._free.popleft()
            entry.tries += 1
            self._running[slot] = entry
            assignments.append((slot, entry.number, entry.job))
        return assignments

    def done(self, slot: int, number: int) -> bool:
        """The process of this slot ended this job and is free. False when it was not given that job by us."""
        entry = self._running.get(slot)
        known = entry is not None and entry.number == number
        if known:
            del self._running[slot]
            self._credit.give()
            self.finished += 1
        self.ready(slot)
        return known

    def lost(self, slot: int) -> list[tuple[int, JobFailed]]:
        """The process of this slot is dead. Returns the jobs that failed by it for good: also one that was cancelled, which
        is not tried again."""
        if slot in self._free:
            self._free.remove(slot)
        entry = self._running.pop(slot, None)
        if entry is None:
            return []
        if entry.is_wanted and entry.tries < TRIES:
            self.retried += 1
            self._waiting[entry.priority].appendleft(entry)
            return []
        self._credit.give()
        name = type(entry.job).__name__
        often = "twice" if entry.is_wanted else "and nobody wants it any more"
        return [(entry.number, JobFailed("bug", f"{name}: the process that ran it died, {often}"))]

    def cancel(self, number: int) -> bool:
        """Nobody wants this job any more. True if it had not begun; one that has begun runs to its end."""
        for queue in self._waiting.values():
            for entry in queue:
                if entry.number == number:
                    queue.remove(entry)
                    self._credit.give()
                    return True
        for entry in self._running.values():
            if entry.number == number:
                entry.is_wanted = False
        return False

    def is_running(self, slot: int) -> bool:
        return slot in self._running

    @property
    def waiting(self) -> int:
        return sum(len(queue) for queue in self._waiting.values())

    @property
    def running(self) -> int:
        return len(self._running)

    def _next(self) -> _Entry:
        chunks, bulk = self._waiting["chunk"], self._waiting["bulk"]
        if chunks and (not bulk or self._chunks_in_a_row < CHUNKS_IN_A_ROW):
            self._chunks_in_a_row = self._chunks_in_a_row + 1 if bulk else 0
            return chunks.popleft()
        self._chunks_in_a_row = 0
        return bulk.popleft()
