"""Sync's share of the arena: slabs for sealed bodies on their way out. Waits when all are in use."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable

from ipc.errors import StaleLease

IDLE_S = 5.0
"""A slab that was not used for this time returns its memory to the system."""
FREED_AT_ONCE = 4
"""Most slabs that return their memory in one turn: 7 MiB take the kernel half a millisecond."""


class SlabPool:
    """How often each of sync's slabs is held: by sync (a job writes it, the cache of sealed bodies keeps it, a request
    is about to be sent) and by net (once for each message that it still sends from it). A slab without holds is free.

    After a restart of sync all slabs are unusable until `admit`: net has told from which ones it still sends, and every
    pool process has ended its job of the earlier sync."""

    def __init__(self, slabs: Iterable[int]) -> None:
        self._all = frozenset(slabs)
        self._free = sorted(self._all, reverse=True)
        self._ours: Counter[int] = Counter()
        self._nets: Counter[int] = Counter()
        self._freed_at: dict[int, float] = {}
        self._ready = False
        self._news = asyncio.Event()
        self.on_short: Callable[[], bool] | None = None
        """Called when no slab is free: drops a slab that is only kept for later use. Returns whether one became
        free."""
        self.free_pages: Callable[[int], object] | None = None

    def net_sends(self, slabs: Iterable[int]) -> None:
        """Takes the list of net's hello: net sends from these, and from some of them several messages."""
        self._nets = Counter(slab for slab in slabs if slab in self._all)
        self._free = [slab for slab in self._free if slab not in self._nets]

    async def admit(self) -> None:
        """Called when no job of an earlier sync process can write into a slab any more."""
        self._ready = True
        self.wake()

    async def admitted(self) -> None:
        """Waits until no job of an earlier sync process runs any more."""
        while not self._ready:
            await self._news.wait()

    async def take(self) -> int:
        """Waits for a slab and returns it, held once by us."""
        while (slab := self._take()) is None:
            await self._news.wait()
        return slab

    def _take(self) -> int | None:
        if not self._ready or not (self._free or (self.on_short is not None and self.on_short())):
            return None
        slab = self._free.pop()
        self._freed_at.pop(slab, None)
        self._ours[slab] = 1
        return slab

    def hold(self, slab: int) -> None:
        """Adds a hold. Raises StaleLease for a slab that we do not hold."""
        if not self._ours[slab]:
            raise StaleLease(f"slab {slab} is not held")
        self._ours[slab] += 1

    def drop(self, slab: int) -> bool:
        """Drops a hold. Returns whether the slab is free now; the caller then calls `wake`. Raises StaleLease."""
        return self._less(self._ours, slab)

    def sent(self, slab: int) -> None:
        """Passes one of our holds to net, with a message that uses the slab. Raises StaleLease."""
        if not self._ours[slab]:
            raise StaleLease(f"slab {slab} is not held")
        self._ours[slab] -= 1
        self._nets[slab] += 1

    async def take_back(self, slabs: Iterable[int]) -> None:
        """Called when net has written (or dropped) one message from each. Raises StaleLease."""
        for slab in slabs:
            self._less(self._nets, slab)
        self.wake()

    async def drop_now(self, slab: int) -> None:
        """Drops a hold and wakes tasks that wait for a slab."""
        self.drop(slab)
        self.wake()

    async def net_lost(self) -> None:
        """Called when net died: it sends nothing any more."""
        lost, self._nets = self._nets, Counter()
        for slab, count in lost.items():
            if count and not self._ours[slab]:
                self._free_now(slab)
        self.wake()

    def is_kept_only(self, slab: int) -> bool:
        """Returns whether the slab is only kept for later use."""
        return self._ours[slab] == 1 and not self._nets[slab]

    def free_idle(self, now: float) -> None:
        """Returns the memory of slabs that have long been free to the system, a few at a time. `now`: monotonic."""
        done = 0
        for slab in self._free:
            freed_at = self._freed_at.get(slab)
            if freed_at is None or done >= FREED_AT_ONCE:
                continue
            if freed_at < 0:
                self._freed_at[slab] = now
            elif now - freed_at >= IDLE_S and self.free_pages is not None:
                del self._freed_at[slab]
                self.free_pages(slab)
                done += 1

    @property
    def is_admitted(self) -> bool:
        """Whether all slabs are usable: no job of an earlier sync process runs any more."""
        return self._ready

    @property
    def total(self) -> int:
        return len(self._all)

    @property
    def free(self) -> int:
        return len(self._free) if self._ready else 0

    def _less(self, counts: "Counter[int]", slab: int) -> bool:
        if not counts[slab]:
            raise StaleLease(f"slab {slab} is not held")
        counts[slab] -= 1
        if self._ours[slab] or self._nets[slab]:
            return False
        self._free_now(slab)
        return True

    def _free_now(self, slab: int) -> None:
        self._free.append(slab)
        self._freed_at[slab] = -1.0  # `free_idle` writes when it first saw it free

    def wake(self) -> None:
        """Wakes waiting tasks: a slab is free, or `on_short` could free one."""
        self._news.set()
        self._news.clear()
