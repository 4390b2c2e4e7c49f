"""Sealed bodies: made once, kept while there is room, dropped when the room is needed."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from clusterd.clock import Clock
from clusterd.messages.bodies import SealChunk
from clusterd.sync.links.sealed_bodies import IDLE_S, SealedBodyCache
from clusterd.sync.ports.pool_port import JobError
from clusterd.sync.ports.slabs import SlabPool
from clusterd.wire.seal import Sealer
from hashing.segment import Segment
from ipc.arena import Arena
from tests.sync.fake_pool import KEY, FakePool, port


class Stage:
    """Two slabs, a file of ten bytes, and its sealed bodies."""

    def __init__(self, root: Path) -> None:
        self.arena = Arena(0, 2, 65536)
        self.pool = FakePool(str(root), self.arena)
        self.slabs = SlabPool(self.arena.sync_slabs)
        self.bodies = SealedBodyCache(port(self.pool), self.slabs, Clock())
        (root / "file").write_bytes(b"0123456789")
        self.path = str(root / "file")

    def part(self, offset: int, length: int = 2) -> list[Segment]:
        return [Segment(self.path, offset, length)]

    async def get(self, offset: int) -> int:
        """Returns the slab of a body, after a check of its content."""
        body = await self.bodies.get(offset, b"p ", self.part(offset))
        assert Sealer(KEY).open(bytes(self.arena.slice(body))) == b"p " + b"0123456789"[offset : offset + 2]
        return body.slab


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path)
    yield made
    made.arena.close()


def test_body_that_many_ask_for_is_sealed_once(stage: Stage) -> None:
    async def story() -> None:
        await stage.slabs.admit()
        stage.pool.gate.clear()
        askers = [asyncio.create_task(stage.get(0)) for _ in range(20)]
        await asyncio.sleep(0)
        stage.pool.gate.set()
        assert len(set(await asyncio.gather(*askers))) == 1
        assert stage.pool.count(SealChunk) == 1

    asyncio.run(story())


def test_body_that_is_no_longer_sent_makes_room_for_another(stage: Stage) -> None:
    async def story() -> None:
        await stage.slabs.admit()
        first = await stage.get(0)
        second = await stage.get(2)
        third = asyncio.create_task(stage.get(4))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not third.done()
        stage.slabs.sent(second)
        await stage.slabs.take_back([second])
        assert await third == second
        stage.slabs.drop(first)
        assert await stage.get(0) == first
        assert stage.pool.count(SealChunk) == 3

    asyncio.run(story())


def test_body_that_net_still_sends_survives_being_dropped(stage: Stage) -> None:
    async def story() -> None:
        await stage.slabs.admit()
        slab = await stage.get(0)
        stage.slabs.sent(slab)
        await stage.bodies.tidy(1e12)
        assert stage.slabs.free == 1
        assert await stage.get(0) != slab
        assert stage.pool.count(SealChunk) == 2
        await stage.slabs.take_back([slab])
        assert stage.slabs.free == 1

    asyncio.run(story())


def test_asker_that_gives_up_takes_nothing_away(stage: Stage) -> None:
    async def story() -> None:
        await stage.slabs.admit()
        stage.pool.gate.clear()
        askers = [asyncio.create_task(stage.get(0)) for _ in range(2)]
        await asyncio.sleep(0)
        askers[0].cancel()
        await asyncio.sleep(0)
        stage.pool.gate.set()
        slab = await askers[1]
        stage.slabs.drop(slab)
        assert stage.slabs.is_kept_only(slab)

    asyncio.run(story())


def test_failure_is_returned_and_not_kept(stage: Stage) -> None:
    async def story() -> None:
        await stage.slabs.admit()
        stage.pool.fails = SealChunk
        for _ in range(2):
            with pytest.raises(JobError):
                await stage.get(0)
        assert stage.slabs.free == 2
        stage.pool.fails = None
        await stage.get(0)

    asyncio.run(story())


def test_body_for_one_use_is_not_kept(stage: Stage) -> None:
    async def story() -> None:
        await stage.slabs.admit()
        body = await stage.bodies.once(b"x", stage.part(0))
        assert stage.slabs.free == 1
        stage.slabs.sent(body.slab)
        await stage.slabs.take_back([body.slab])
        assert stage.slabs.free == 2

    asyncio.run(story())


def test_bodies_are_dropped_when_no_link_asks_for_them(stage: Stage) -> None:
    async def story() -> None:
        await stage.slabs.admit()
        stage.slabs.drop(await stage.get(0))
        now = asyncio.get_running_loop().time()
        await stage.bodies.tidy(now)
        assert stage.slabs.free == 1
        await stage.bodies.tidy(now + IDLE_S + 1)
        assert stage.slabs.free == 2

    asyncio.run(story())


def test_nothing_is_prepared_when_slabs_are_short(stage: Stage) -> None:
    async def story() -> None:
        await stage.slabs.admit()
        stage.bodies.prepare(0, b"p ", stage.part(0))
        first, second = await stage.get(0), await stage.get(2)
        stage.bodies.prepare(4, b"p ", stage.part(4))
        await asyncio.sleep(0)
        assert stage.pool.count(SealChunk) == 2
        assert first != second

    asyncio.run(story())


@pytest.mark.parametrize("how", ["prepared", "given up"])
def test_waiting_for_a_slab_ends_with_an_unwanted_body_once_it_is_sealed(stage: Stage, how: str) -> None:
    async def story() -> None:
        await stage.slabs.admit()
        await stage.get(0)
        stage.pool.gate.clear()
        if how == "prepared":
            stage.bodies.prepare(2, b"p ", stage.part(2))
        else:
            unwanted = asyncio.create_task(stage.get(2))
        await asyncio.sleep(0)
        waiter = asyncio.create_task(stage.get(4))
        for _ in range(5):
            await asyncio.sleep(0)
        if how == "given up":
            unwanted.cancel()
        stage.pool.gate.set()
        async with asyncio.timeout(60):
            await waiter
        assert stage.pool.count(SealChunk) == 3

    asyncio.run(story())


def test_half_of_the_slabs_are_room_for_more_of_the_same_peer(stage: Stage) -> None:
    async def story() -> None:
        await stage.slabs.admit()
        assert stage.bodies.is_roomy
        slab = await stage.get(0)
        assert stage.bodies.is_roomy
        stage.bodies.prepare(2, b"p ", stage.part(2))
        assert not stage.bodies.is_roomy  # from its beginning
        stage.slabs.drop(await stage.get(2))
        assert stage.bodies.is_roomy
        stage.slabs.sent(slab)
        await stage.bodies.tidy(1e12)
        assert stage.slabs.free == 1
        assert stage.bodies.is_roomy
        await stage.get(4)
        assert not stage.bodies.is_roomy

    asyncio.run(story())
