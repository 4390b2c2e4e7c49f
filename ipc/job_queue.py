"""Jobs waiting, running and tried again. No sockets and no clock: sync owns one and tells it what happened."""

import itertools
from collections import deque
from typing import Literal

from ipc.errors import NoCredit
from ipc.messages import AnyJob, JobFailed

Priority = Literal["chunk", "bulk"]
TRIES = 2


class _Entry:
    __slots__ = ("job", "number", "priority", "tries")

    def __init__(self, number: int, job: AnyJob, priority: Priority) -> None:
        self.number = number
        self.job = job
        self.priority: Priority = priority
        self.tries = 0


class JobQueue:
    """A pool process has one credit: it gets a job only when it is free. Chunks of transfers go before everything else.

    A job whose process died is tried once more, ahead of the queue, then it has failed."""

    def __init__(self, max_waiting: int) -> None:
        self._max_waiting = max_waiting
        self._numbers = itertools.count(1)
        self._waiting: dict[Priority, deque[_Entry]] = {"chunk": deque(), "bulk": deque()}
        self._running: dict[int, _Entry] = {}
        self._free: deque[int] = deque()
        self.finished = 0
        self.retried = 0

    def submit(self, job: AnyJob, priority: Priority) -> int:
        """Queue a job; returns its number. Raises NoCredit when too many wait."""
        if self.waiting >= self._max_waiting:
            raise NoCredit(f"{self._max_waiting} jobs wait already")
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
            entry = (self._waiting["chunk"] or self._waiting["bulk"]).popleft()
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
            self.finished += 1
        self.ready(slot)
        return known

    def lost(self, slot: int) -> list[tuple[int, JobFailed]]:
        """The process of this slot is dead. Returns the jobs that failed by it for good."""
        if slot in self._free:
            self._free.remove(slot)
        entry = self._running.pop(slot, None)
        if entry is None:
            return []
        if entry.tries >= TRIES:
            name = type(entry.job).__name__
            return [(entry.number, JobFailed("bug", f"{name}: the process that ran it died, twice"))]
        self.retried += 1
        self._waiting[entry.priority].appendleft(entry)
        return []

    def cancel(self, number: int) -> bool:
        """Nobody wants this job any more. True if it had not begun."""
        for queue in self._waiting.values():
            for entry in queue:
                if entry.number == number:
                    queue.remove(entry)
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
