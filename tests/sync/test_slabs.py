"""Which task holds which of sync's slabs, and when a slab is free."""

import asyncio

import pytest

from clusterd.sync.ports.slabs import IDLE_S, SlabPool
from ipc.errors import StaleLease


async def admitted(count: int) -> SlabPool:
    slabs = SlabPool(range(count))
    await slabs.admit()
    return slabs


def test_slab_sent_to_three_links_is_free_when_the_last_has_written_it() -> None:
    async def story() -> None:
        slabs = await admitted(1)
        slab = await slabs.take()
        for _ in range(2):
            slabs.hold(slab)
        for _ in range(3):
            slabs.sent(slab)
        await slabs.take_back([slab])
        await slabs.take_back([slab])
        assert slabs.free == 0
        await slabs.take_back([slab])
        assert slabs.free == 1
        with pytest.raises(StaleLease):
            await slabs.take_back([slab])

    asyncio.run(story())


def test_death_of_net_frees_what_only_it_held() -> None:
    async def story() -> None:
        slabs = await admitted(2)
        kept, gone = await slabs.take(), await slabs.take()
        slabs.hold(kept)
        slabs.sent(kept)
        slabs.sent(gone)
        await slabs.net_lost()
        assert slabs.free == 1
        assert slabs.is_kept_only(kept)
        slabs.drop(kept)
        assert slabs.free == 2

    asyncio.run(story())


def test_new_sync_waits_for_every_message_that_net_still_sends() -> None:
    async def story() -> None:
        slabs = SlabPool(range(2))
        slabs.net_sends([0, 0, 7])
        assert slabs.free == 0
        await slabs.take_back([0])  # may come before the pool is known
        await slabs.admit()
        assert slabs.free == 1
        assert await slabs.take() == 1
        waiter = asyncio.create_task(slabs.take())
        await asyncio.sleep(0)
        await slabs.take_back([0])
        assert await waiter == 0

    asyncio.run(story())


def test_memory_of_slabs_that_are_long_free_goes_back_once() -> None:
    async def story() -> None:
        slabs = await admitted(3)
        removed: list[int] = []
        slabs.free_pages = removed.append
        slab = await slabs.take()
        slabs.free_idle(100.0)
        slabs.drop(slab)
        slabs.free_idle(101.0)
        slabs.free_idle(100.9 + IDLE_S)
        assert not removed
        slabs.free_idle(101.0 + IDLE_S)
        slabs.free_idle(200.0)
        assert removed == [slab]

    asyncio.run(story())
