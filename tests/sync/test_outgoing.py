"""Chunks of a package in flight to a peer: in order, a few at a time, and what a cancelled sending says."""

import asyncio
import os
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from clusterd.errors import ClusterError
from clusterd.sync.net_port import Flight
from clusterd.sync.outgoing import MOST_IN_FLIGHT, SLOW_S, Package, Progress, Sender, Window
from clusterd.sync.peer import Peer
from clusterd.sync.slabs import SlabPool
from clusterd.wire.seal import Sealer
from clusterd.wire.transfer import chunk_bytes
from ipc.arena import Arena
from ipc.descriptor import Descriptor
from ipc.messages import SealChunk, Segment
from tests.sync.fake_pool import KEY, FakePool, port

PATH = "/queue/cluster/clusterd-1.zip"
CHUNK = chunk_bytes(PATH)


class FakePeer:
    """A worker that keeps what it gets. After `cancels` chunks it cancels; `fails`: the number of the chunk it refuses."""

    def __init__(self, slabs: SlabPool, arena: Arena, name: str = "w") -> None:
        self.name = name
        self.info = SimpleNamespace(kind="worker")
        self.capabilities: frozenset[str] = frozenset()
        self.timeout_s = 20.0
        self.interrupted: set[str] = set()
        self.paths: set[str] = set()
        self.data = b""
        self.ends: list[bytes] = []
        self.in_flight = self.most = self.chunks = 0
        self.cancels = self.fails = 1000
        self._slabs, self._arena = slabs, arena

    async def request(self, command: str, payload: bytes = b"") -> bytes:
        if command == "file_end":
            self.ends.append(payload.split(b" ", 1)[1])
        return b""

    async def begin(self, command: str, *, body: Descriptor, timeout_s: float) -> Flight:
        self._slabs.sent(body.slab)
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        assert timeout_s == self.timeout_s * self.in_flight
        plain = Sealer(KEY).open(bytes(self._arena.slice(body)))
        assert plain.startswith(f"{PATH} ".encode())
        self.data += plain[len(PATH) + 1 :]
        await self._slabs.give_back([body.slab])
        self.chunks += 1
        if self.chunks >= self.cancels:
            self.interrupted.add("task")
        return cast(Flight, SimpleNamespace(number=self.chunks, forget=lambda: None))

    async def ended(self, command: str, flight: SimpleNamespace) -> bytes:
        await asyncio.sleep(0)
        self.in_flight -= 1
        if flight.number == self.fails:
            raise ClusterError(1000, "disk full")
        return b"File updated"


class Stage:
    def __init__(self, root: Path) -> None:
        self.arena = Arena(0, 6)
        self.pool = FakePool(str(root), self.arena)
        self.slabs = SlabPool(self.arena.sync_slabs)
        self.sender = Sender(port(self.pool), self.slabs)
        self.data = os.urandom(CHUNK // 2) * 7 + b"the tail"
        (root / "package").write_bytes(self.data)
        shared = len(self.data) - 8
        digest = sha256(self.data).digest()
        segments = [Segment(str(root / "package"), 0, len(self.data))]
        self.package = Package(segments, len(self.data), digest, shared, PATH, (1, b"whole"))

    def peer(self, name: str = "w") -> FakePeer:
        return FakePeer(self.slabs, self.arena, name)

    async def send(self, peer: FakePeer) -> int | None:
        progress = Progress(peer.name, "integrity", "sending", 0.0)
        return await self.sender._transfer(cast(Peer, peer), PATH, self.package, "task", progress)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path)
    yield made
    made.arena.close()


def test_three_workers_get_the_same_bytes_from_one_sealing(stage: Stage) -> None:
    async def story() -> None:
        await stage.slabs.admit()
        peers = [stage.peer(str(number)) for number in range(3)]
        assert await asyncio.gather(*map(stage.send, peers)) == [None] * 3
        for peer in peers:
            assert peer.data == stage.data
            assert peer.ends == [stage.package.sha256]
            assert 1 < peer.most <= MOST_IN_FLIGHT
        assert stage.pool.count(SealChunk) == 5
        await stage.sender.bodies.tidy(1e12)
        assert stage.slabs.free == stage.slabs.total

    asyncio.run(story())


def test_cancelled_sending_ends_with_the_digest_of_what_was_sent(stage: Stage) -> None:
    async def story() -> None:
        await stage.slabs.admit()
        peer = stage.peer()
        peer.cancels = 2
        assert await stage.send(peer) == len(peer.data) == 2 * CHUNK
        assert peer.ends == [sha256(stage.data[: 2 * CHUNK]).digest()]
        await stage.sender.bodies.tidy(1e12)
        assert stage.slabs.free == stage.slabs.total

    asyncio.run(story())


def test_refused_chunk_ends_the_sending_and_loses_no_slab(stage: Stage) -> None:
    async def story() -> None:
        await stage.slabs.admit()
        peer = stage.peer()
        peer.fails = 2
        with pytest.raises(ClusterError, match="disk full"):
            await stage.send(peer)
        while stage.pool.count(SealChunk) and any(
            not body.sealing.done() for body in stage.sender.bodies._bodies.values()
        ):
            await asyncio.sleep(0)
        await stage.sender.bodies.tidy(1e12)
        assert stage.slabs.free == stage.slabs.total

    asyncio.run(story())


def test_window_grows_while_answers_are_quick_and_falls_to_one_for_a_slow_peer() -> None:
    window = Window()
    for _ in range(5):
        window.answered(0.01)
    assert window.size == MOST_IN_FLIGHT
    window.answered(SLOW_S + 1)
    assert window.size == 1
