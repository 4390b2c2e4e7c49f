"""Responses of peers in sync: the room of a large one is given back, whatever became of whoever asked."""

import asyncio

import pytest

from clusterd.messages.links import Answered, Release, Request, SyncToNet
from clusterd.sync.ports.net_port import NetPort, Response
from clusterd.sync.ports.slabs import SlabPool
from ipc.descriptor import Descriptor

BODY = [Descriptor(3, 0, 70_000), Descriptor(4, 0, 9)]


class Net:
    def __init__(self) -> None:
        self.sent: list[SyncToNet] = []
        self.port = NetPort(self._send, SlabPool([]))

    async def _send(self, message: SyncToNet) -> None:
        self.sent.append(message)

    async def answers(self) -> None:
        await self.port.answered(Answered(1, "ok", b"", BODY))

    @property
    def released(self) -> list[list[int]]:
        return [sent.slabs for sent in self.sent if isinstance(sent, Release)]


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_large_response_belongs_to_whoever_asked() -> None:
    async def story() -> None:
        net = Net()
        asking = asyncio.create_task(net.port.request(1, "get_nodes", timeout_s=20.0))
        await turns()
        assert isinstance(net.sent[0], Request)
        await net.answers()
        assert await asking == Response("ok", b"", BODY)
        await turns()
        assert net.released == []

    asyncio.run(story())


@pytest.mark.parametrize("is_first", [True, False], ids=["cancelled before", "cancelled in the same moment"])
def test_large_response_of_a_request_that_was_cancelled_gives_its_room_back(is_first: bool) -> None:
    """A link that ends behind a response: both are read in one turn of the loop."""

    async def story() -> None:
        net = Net()
        asking = asyncio.create_task(net.port.request(1, "get_changes", timeout_s=20.0))
        await turns()
        if is_first:
            asking.cancel()
            await turns()
        await net.answers()
        asking.cancel()
        await turns()
        assert (asking.cancelled(), net.released) == (True, [[3, 4]])

    asyncio.run(story())


def test_slabs_that_a_dead_net_process_has_lent_are_not_returned_to_its_successor() -> None:
    """The successor lends slabs of the same numbers: it would give one to two links at a time."""

    async def story() -> None:
        net = Net()
        for life in (1, 2):
            await net.port.net_lost()
            net.port.life = life
            await net.port.release([Descriptor(3, 0, 9, life=1)])
            await net.port.reply(1, 1, "ok", body=[Descriptor(4, 0, 9, life=1)])
            assert len(net.sent) == 2

    asyncio.run(story())


def test_large_response_of_a_request_that_was_forgotten_gives_its_room_back() -> None:
    """A peer that answers a chunk with a megabyte, and refuses the chunk before it."""

    async def story() -> None:
        net = Net()
        flight = await net.port.begin(1, "file_upd", timeout_s=20.0)
        await net.answers()
        flight.forget()
        flight.forget()
        await turns()
        assert net.released == [[3, 4]]

    asyncio.run(story())
