"""Whether the store of a master writes at this moment: in an election only under the lease, and not while it hands over
(docs/ha.md). Without an election there is no gate."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from clusterd.leadership import CHANGE_S, NOT_LEADING
from clusterd.store.errors import NotLeading

LOOK_S = 0.05


class WriteGate:
    """Used on the store's loop; `check` by the writer thread, too."""

    def __init__(self, holds: Callable[[], bool]) -> None:
        self._holds = holds
        self._doors = {False: asyncio.Event(), True: asyncio.Event()}
        self._reopening: asyncio.TimerHandle | None = None
        self._without_since: float | None = time.monotonic()
        """Since when this node leads no more, or not yet; None: it led at the last look."""
        for door in self._doors.values():
            door.set()

    def check(self) -> None:
        """Raises NotLeading."""
        if not self._holds():
            raise NotLeading(NOT_LEADING)

    @property
    def holds(self) -> bool:
        return self._holds()

    @property
    def is_open(self) -> bool:
        """Whether nothing is handed over."""
        return all(door.is_set() for door in self._doors.values())

    async def enter(self, *, of_a_batch: bool = True) -> None:
        """Before a write is taken; waits while the store hands over, and for CHANGE_S after this node has lost the lead
        or was started: it has it again in a moment, as a rule. `of_a_batch` false: a new batch of registrations, which
        wait first, so that those under way can end. Raises NotLeading."""
        door = self._doors[of_a_batch]
        if not door.is_set():
            await door.wait()
        while not self._holds():
            now = time.monotonic()
            self._without_since = now if self._without_since is None else self._without_since
            if now >= self._without_since + CHANGE_S:
                break
            await asyncio.sleep(LOOK_S)
        else:
            self._without_since = None
        self.check()

    def close(self, for_s: float, *, writes: bool) -> None:
        """No new batch enters, and with `writes` no write, until `open` or for so many seconds."""
        for door in self._doors.values() if writes else (self._doors[False],):
            door.clear()
        if self._reopening is not None:
            self._reopening.cancel()
        self._reopening = asyncio.get_running_loop().call_later(for_s, self.open)

    def open(self) -> None:
        if self._reopening is not None:
            self._reopening.cancel()
            self._reopening = None
        for door in self._doors.values():
            door.set()


class Handover:
    """A master hands over: what was begun is ended and answered, everything else waits, for the next master if it
    comes in time."""

    def __init__(
        self,
        gate: WriteGate,
        settle: Callable[[bool], Awaitable[None]],
        is_idle: asyncio.Event,
        note_answered: Callable[[], Awaitable[None]],
    ) -> None:
        """`settle`: returns when all writes that were taken are committed; true: it marks the end of the log, so that
        who has all of it has also been told what else there was then (files of the REST API). `is_idle`: no batch of
        registrations is under way. `note_answered`: takes away the notes that those of before may be unanswered; the
        candidate gets that with the mark."""
        self._gate = gate
        self._settle = settle
        self._is_idle = is_idle
        self._note_answered = note_answered
        self._count = 0
        """Of drains that were asked for or taken back."""

    async def drain(self, for_s: float) -> None:
        """Takes no more writes, for so many seconds. Returns when those before are committed. Raises NotLeading;
        TimeoutError when that takes longer, or was taken back meanwhile."""
        self._count += 1
        count, is_first = self._count, self._gate.is_open
        self._gate.close(for_s, writes=False)
        async with asyncio.timeout(for_s):
            await self._is_idle.wait()
            await self._note_answered()
            if count != self._count:
                raise TimeoutError("the handover was taken back")  # whoever gave up does not open the gate again
            self._gate.close(for_s, writes=True)
            await self._settle(is_first)

    def undrain(self) -> None:
        self._count += 1
        self._gate.open()
