"""Sync's share of the arena: slabs for sealed bodies on their way out. Waits when all are in use."""

import asyncio
from collections.abc import Iterable

from ipc.errors import ArenaFull
from ipc.lease import LeaseBook


class SlabPool:
    """Who holds which of sync's slabs: "pool" while a job writes it, "net" while it is being sent.

    After a restart of sync all slabs are unusable until `admit` says which ones net still sends from and every pool
    process has ended the job of the earlier sync."""

    def __init__(self, slabs: Iterable[int]) -> None:
        self._all = frozenset(slabs)
        self._book = LeaseBook(self._all)
        self._ready = False
        self._waiters: asyncio.Condition = asyncio.Condition()

    async def admit(self, held_by_net: Iterable[int]) -> None:
        """Everything is known: what net holds comes back by `returned`, the rest is free."""
        held = self._all.intersection(held_by_net)
        self._book = LeaseBook(self._all)
        for slab in sorted(self._all):
            if slab in held:
                self._book.take_slab(slab, "net")
        self._ready = True
        await self._wake()

    async def take(self) -> int:
        """A slab for a seal job; waits for one."""
        async with self._waiters:
            while True:
                if self._ready:
                    try:
                        return self._book.take("pool")
                    except ArenaFull:
                        pass
                await self._waiters.wait()

    def sent(self, slab: int) -> None:
        """The slab was handed to net."""
        self._book.hand_over(slab, "net")

    async def give_back(self, slabs: Iterable[int]) -> None:
        for slab in slabs:
            self._book.give_back(slab)
        await self._wake()

    async def net_lost(self) -> None:
        """net died: what it was sending is free."""
        self._book.return_all("net")
        await self._wake()

    @property
    def is_admitted(self) -> bool:
        """Whether all of it is known: no job of an earlier sync process is running any more."""
        return self._ready

    @property
    def total(self) -> int:
        return len(self._all)

    @property
    def free(self) -> int:
        return self._book.free if self._ready else 0

    async def _wake(self) -> None:
        async with self._waiters:
            self._waiters.notify_all()
