"""Long strings of one link, of a peer that mixes up their order or forgets them."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, cast

import pytest

from clusterd.errors import ClusterError
from clusterd.messages.bodies import ChunkStored, StoreChunk
from clusterd.settings import Limits
from clusterd.sync.links.incoming_strings import IncomingStrings
from clusterd.sync.ports.spool import Spool, SpoolRefused
from clusterd.sync.ports.troubles import Troubles
from ipc.descriptor import Descriptor
from tests.sync.scripted_node import turns

BODY = [Descriptor(0, 0, 1)]


class SlowPool:
    """Stores a chunk of the first string, when it is told to; what it could not store has a `problem`."""

    def __init__(self) -> None:
        self.goes_on = asyncio.Event()
        self.problem = ""

    async def run(self, job: StoreChunk, **_: Any) -> ChunkStored:
        await self.goes_on.wait()
        return ChunkStored(job.targets[0].name, 0 if self.problem else 5, self.problem)


class Link:
    def __init__(self, root: Path) -> None:
        self.troubles, self.pool, self.now = Troubles(), SlowPool(), 0.0
        self.spool = Spool(str(root), 1, self.troubles)
        self.spool.prepare()
        self.strings = IncomingStrings(
            "w1", self.spool, cast(Any, self.pool), asyncio.Lock(), Limits(string_idle_s=600.0), lambda: self.now
        )


def run(story: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await story

    asyncio.run(bounded())


def test_string_that_is_dropped_while_its_chunk_is_stored_is_no_trouble_of_the_disk(tmp_path: Path) -> None:
    async def story() -> None:
        link = Link(tmp_path)
        name = link.strings.begin(b"5")
        storing = asyncio.create_task(link.strings.chunk(b"", BODY))
        await turns()
        link.strings.drop(name)
        link.pool.problem = "No such file or directory"
        link.pool.goes_on.set()
        with pytest.raises(ClusterError) as refusal:
            await storing
        assert not isinstance(refusal.value, SpoolRefused)
        assert link.troubles.shown() == {}

    run(story())


def test_err_str_ends_the_string_that_was_not_begun_and_not_the_one_whose_chunk_is_being_stored(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        link = Link(tmp_path)
        first, second = link.strings.begin(b"5"), link.strings.begin(b"5")
        storing = asyncio.create_task(link.strings.chunk(b"", BODY))
        await turns()
        cancelling = asyncio.create_task(link.strings.cancel(b"5"))
        await turns()
        link.pool.goes_on.set()
        await storing
        assert await cancelling == second
        assert (await link.strings.take(first)).length == 5

    run(story())


def test_strings_take_the_room_that_has_come_of_them_and_give_it_back_by_themselves(tmp_path: Path) -> None:
    """A node announces 256 MiB over each of its links and sends nothing: the others would be refused."""

    async def story() -> None:
        link = Link(tmp_path)
        name = link.strings.begin(b"200000000")
        assert link.spool.ledger.used == 0
        await link.strings.chunk(f"{name} hello".encode(), None)
        assert link.spool.ledger.used == 5
        link.now = 600.0
        link.strings.tidy()
        assert link.spool.ledger.used == 5
        link.now = 601.0
        link.strings.tidy()
        assert link.spool.ledger.used == 0
        assert not list(Path(link.spool.directory).iterdir())

    run(story())


def test_string_that_is_used_before_anything_has_come_of_it_takes_no_room(tmp_path: Path) -> None:
    """Its file is as long as was announced, and without a block."""

    async def story() -> None:
        link = Link(tmp_path)
        segment = await link.strings.take(link.strings.begin(b"200000000"))
        link.spool.ledger.measure()
        assert link.spool.ledger.used == 0
        link.spool.remove(segment.path)
        assert link.spool.ledger.shown()["peers"] == {}

    run(story())


def test_chunk_of_a_string_for_which_there_is_no_room_any_more_is_refused(tmp_path: Path) -> None:
    async def story() -> None:
        link = Link(tmp_path)
        link.spool.ledger.limits = Limits(spool_bytes=8)
        names = [link.strings.begin(b"5") for _ in range(2)]
        await link.strings.chunk(f"{names[0]} hello".encode(), None)
        with pytest.raises(SpoolRefused):
            await link.strings.chunk(f"{names[1]} hello".encode(), None)
        with pytest.raises(SpoolRefused):
            await link.strings.chunk(b"", [Descriptor(0, 0, 100)])
        assert link.spool.ledger.used == 0

    run(story())


@pytest.mark.parametrize("sealed", [False, True])
def test_string_that_is_refused_on_its_way_gives_its_room_to_the_next_one(tmp_path: Path, *, sealed: bool) -> None:
    """Its sender gives up; it was kept for ten minutes, and with it what one link may announce."""

    async def story() -> None:
        link = Link(tmp_path)
        largest = Limits().string_bytes
        name = link.strings.begin(b"%d" % largest)
        await link.strings.chunk(f"{name} hello".encode(), None)
        link.spool.ledger.limits = Limits(spool_bytes=8)
        with pytest.raises(SpoolRefused):
            await link.strings.chunk(
                b"" if sealed else f"{name} hello".encode(), [Descriptor(0, 0, 8)] if sealed else None
            )
        assert link.spool.ledger.used == 0
        link.spool.ledger.limits = Limits()
        link.strings.begin(b"%d" % largest)

    run(story())
