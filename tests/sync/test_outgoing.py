"""Chunks of a package on their way to a peer: in order, a few at a time; and what a cancelled transfer tells the
peer."""

import asyncio
import os
from collections.abc import Coroutine, Iterator
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from clusterd.errors import ClusterError
from clusterd.messages.bodies import SealChunk
from clusterd.messages.links import Request, Unanswered
from clusterd.settings import Communication
from clusterd.sync.links.caps import RESUME
from clusterd.sync.links.outgoing import (
    MOST_IN_FLIGHT,
    SLOW_LINE,
    SLOW_S,
    SMALL_CHUNK,
    ChunkWindow,
    Package,
    Progress,
    Sender,
)
from clusterd.sync.links.peer import Peer
from clusterd.sync.ports.net_port import Flight
from clusterd.sync.ports.slabs import SlabPool
from clusterd.sync.ports.tag_log import TagLog
from clusterd.sync.ports.zip_limit import ZipLimit
from clusterd.wire.commands import RESUME_FILE
from clusterd.wire.seal import Sealer
from clusterd.wire.transfer import chunk_bytes
from hashing.segment import Segment
from ipc.arena import Arena
from ipc.descriptor import Descriptor
from tests.fakes.clock import FakeClock
from tests.sync.fake_pool import KEY, FakePool, port
from tests.sync.scripted_node import WORKER, Node, on, turns

PATH = "/queue/cluster/clusterd-1.zip"
CHUNK = chunk_bytes(PATH)


class FakePeer:
    """A worker that keeps what it gets. After `cancels` chunks it cancels; `fails`: the number of the chunk that it
    refuses; `held`: how much of an interrupted package it claims to have. While `reads` is clear it reads nothing, and
    net keeps what is sent. `line`: bytes in a second that reach it, by the clock of the test."""

    def __init__(self, slabs: SlabPool, arena: Arena, name: str = "w") -> None:
        self.name = name
        self.info = SimpleNamespace(kind="worker")
        self.capabilities: frozenset[str] = frozenset()
        self.timeout_s = 20.0
        self.interrupted: set[str] = set()
        self.paths: set[str] = set()
        self.is_slow = False
        self.sizes: list[int] = []
        self.line = float("inf")
        self.clock = FakeClock()
        self.data = b""
        self.ends: list[bytes] = []
        self.asked: list[str] = []
        self.held = b"0"
        self.zip_limit = ZipLimit(Communication())
        self.in_flight = self.most = self.chunks = 0
        self.cancels = self.fails = 1000
        self.reads = asyncio.Event()
        self.reads.set()
        self.unwritten: list[int] = []
        self._slabs, self._arena = slabs, arena

    async def request(
        self, command: str, payload: bytes = b"", *, body: Descriptor | None = None, timeout_s: float = 20.0
    ) -> bytes:
        self.asked.append(command)
        if body is not None:
            self._slabs.sent(body.slab)
            await self._slabs.take_back([body.slab])
            self.sizes.append(len(Sealer(KEY).open(bytes(self._arena.slice(body)))) - len("7 "))
            self.clock.move(self.sizes[-1] / self.line)
        if command == "new_str":
            return b"7"
        if command == "syn_m_c":
            return b"task"
        if command == RESUME_FILE:
            return self.held
        if command == "file_end":
            self.ends.append(payload.split(b" ", 1)[1])
            assert timeout_s > self.timeout_s, "a busy peer reads all of it again"
        if command == "syn_m_c_e" and self.interrupted:
            raise ClusterError(3027, "task")
        return b""

    async def note_sending(self, command: str, task_id: str, *, is_open: bool) -> None:
        self.asked.append("opened" if is_open else "closed")

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self.told = asyncio.create_task(work)

    async def begin(self, command: str, *, body: Descriptor, timeout_s: float) -> Flight:
        self._slabs.sent(body.slab)
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        assert timeout_s == self.timeout_s * self.in_flight
        plain = Sealer(KEY).open(bytes(self._arena.slice(body)))
        assert plain.startswith(f"{PATH} ".encode())
        self.data += plain[len(PATH) + 1 :]
        self.sizes.append(len(plain) - len(PATH) - 1)
        if self.reads.is_set():
            await self._slabs.take_back([body.slab])
        else:
            self.unwritten.append(body.slab)
        self.chunks += 1
        if self.chunks >= self.cancels:
            self.interrupted.add("task")
        flight = SimpleNamespace(number=self.chunks, length=self.sizes[-1], forget=lambda: None)
        return cast(Flight, flight)

    async def response_of(self, command: str, flight: SimpleNamespace) -> bytes:
        await asyncio.sleep(0)
        await self.reads.wait()
        self.in_flight -= 1
        self.clock.move(flight.length / self.line)
        if flight.number == self.fails:
            raise ClusterError(1000, "disk full")
        return b"File updated"


class Stage:
    def __init__(self, root: Path, slabs: int = 6) -> None:
        self.arena = Arena(0, slabs)
        self.pool = FakePool(str(root), self.arena)
        self.slabs = SlabPool(self.arena.sync_slabs)
        self.clock = FakeClock()
        self.sender = Sender(port(self.pool), self.slabs, self.clock)
        self.data = os.urandom(CHUNK // 2) * 7 + b"the tail"
        (root / "package").write_bytes(self.data)
        shared = len(self.data) - 8
        digest = sha256(self.data).digest()
        segments = [Segment(str(root / "package"), 0, len(self.data))]
        self.package = Package(segments, len(self.data), digest, shared, PATH, (1, b"whole"))

    def peer(self, name: str = "w") -> FakePeer:
        peer = FakePeer(self.slabs, self.arena, name)
        peer.clock = self.clock
        return peer

    async def quiet(self) -> int:
        """Returns how many slabs are free when all sealing has ended and no body is kept."""
        while any(not body.sealing.done() for body in self.sender.bodies._bodies.values()):
            await asyncio.sleep(0)
        await self.sender.bodies.tidy(1e12)
        return self.slabs.free

    async def send(self, peer: FakePeer, number: int = 1) -> int:
        """`number`: the same for links that share sealed bodies."""
        progress = Progress(peer.name, "integrity", "sending", 0.0)
        package = msgspec.structs.replace(self.package, build=(number, b"whole"))
        return await self.sender._transfer(cast(Peer, peer), PATH, package, "task", progress)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path)
    yield made
    made.arena.close()


@pytest.mark.slow
def test_three_workers_get_the_same_bytes_from_one_sealing(stage: Stage) -> None:
    async def story() -> None:
        await stage.slabs.admit()
        peers = [stage.peer(str(number)) for number in range(3)]
        assert await asyncio.gather(*map(stage.send, peers)) == [len(stage.data)] * 3
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


def test_a_peer_that_gives_up_during_the_last_chunk_gets_a_smaller_package_next(stage: Stage) -> None:
    """wire.md 5.7: its wait is over and it must be sent less, or it would get the same package for ever."""

    async def story() -> None:
        await stage.slabs.admit()
        peer, lines = stage.peer(), list[str]()
        peer.cancels = 5
        log = SimpleNamespace(debug=lines.append, error=lines.append)
        progress = Progress(peer.name, "integrity", "sending", 0.0)
        with pytest.raises(ClusterError) as cut:
            await stage.sender.send(cast(Peer, peer), "w", "syn_m_c", stage.package, cast(TagLog, log), progress)
        assert peer.data == stage.data
        assert cut.value.code == 3039
        assert lines == ["Sending zip file.", "Decreasing sync size limit to 30.00 MB."]
        assert peer.asked == ["syn_m_c", "opened", "new_file", "file_end", "syn_m_c_e", "closed"]

    asyncio.run(story())


def test_refused_chunk_ends_the_sending_and_loses_no_slab(stage: Stage) -> None:
    async def story() -> None:
        await stage.slabs.admit()
        peer = stage.peer()
        peer.fails = 2
        with pytest.raises(ClusterError, match="disk full"):
            await stage.send(peer)
        assert await stage.quiet() == stage.slabs.total

    asyncio.run(story())


def test_window_grows_while_answers_are_quick_and_falls_to_one_for_a_slow_peer() -> None:
    window = ChunkWindow()
    for _ in range(5):
        window.answered(0.01)
    assert window.size == MOST_IN_FLIGHT
    window.answered(SLOW_S + 1)
    assert window.size == 1


# ---- peers on a slow line --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_peer_on_a_slow_line_gets_small_chunks_as_soon_and_as_long_as_that_is_known(stage: Stage) -> None:
    """Keepalives and answers wait for the end of a chunk: behind whole ones they would be given up."""

    async def story() -> None:
        await stage.slabs.admit()
        peer, size = stage.peer(), len(stage.data)
        peer.line = SLOW_LINE * 0.9
        assert await stage.send(peer) == size
        assert peer.data == stage.data
        assert peer.sizes[:2] == [CHUNK, CHUNK]
        assert set(peer.sizes[3:-1]) == {SMALL_CHUNK}
        again = len(peer.sizes)
        peer.line = float("inf")
        assert await stage.send(peer, 2) == size
        assert peer.sizes[again] == SMALL_CHUNK
        once_more = len(peer.sizes)
        assert await stage.send(peer, 3) == size
        assert peer.sizes[once_more] == CHUNK
        assert peer.ends == [stage.package.sha256] * 3
        assert await stage.quiet() == stage.slabs.total

    asyncio.run(story())


def test_a_long_string_on_a_slow_line_goes_in_small_chunks_after_the_first(stage: Stage) -> None:
    async def story() -> None:
        await stage.slabs.admit()
        peer = stage.peer()
        peer.line = SLOW_LINE * 0.9
        assert await stage.sender.send_string(cast(Peer, peer), stage.package.segments) == "7"
        assert peer.sizes[0] == chunk_bytes("7")
        assert set(peer.sizes[1:-1]) == {SMALL_CHUNK}
        assert sum(peer.sizes) == len(stage.data)

    asyncio.run(story())


# ---- peers that take nothing -----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("number", ["same", "own"])
def test_peers_that_read_nothing_leave_slabs_for_those_that_do(tmp_path: Path, number: str) -> None:
    async def story() -> None:
        await stage.slabs.admit()
        silent = [stage.peer(f"silent {place}") for place in range(5)]
        for peer in silent:
            peer.reads.clear()
        sendings = [
            asyncio.create_task(stage.send(peer, 100 + place if number == "own" else 1))
            for place, peer in enumerate(silent)
        ]
        while not all(peer.unwritten for peer in silent):
            await asyncio.sleep(0)
        for place in range(3):
            moving = stage.peer("moving")
            async with asyncio.timeout(60):
                assert await stage.send(moving, 200 + place) == len(stage.data)
            assert moving.data == stage.data
        assert max(len(peer.unwritten) for peer in silent) <= 2
        for peer in silent:
            peer.reads.set()
            await stage.slabs.take_back(peer.unwritten)
        assert await asyncio.gather(*sendings) == [len(stage.data)] * 5
        assert all(peer.data == stage.data for peer in silent)
        assert await stage.quiet() == stage.slabs.total

    stage = Stage(tmp_path, slabs=12)
    asyncio.run(story())
    stage.arena.close()


# ---- a package that was cut off --------------------------------------------------------------------------------------


def resuming(stage: Stage, held: int | bytes, name: str = "w") -> FakePeer:
    peer = stage.peer(name)
    peer.capabilities = frozenset({RESUME})
    peer.held = str(held).encode() if isinstance(held, int) else held
    return peer


@pytest.mark.parametrize("held", [0, 1, CHUNK - 1, CHUNK, CHUNK + 4711, 3 * CHUNK, "all but the tail", "all"])
def test_worker_that_has_the_beginning_gets_the_rest_and_the_digest_of_all(stage: Stage, held: int | str) -> None:
    async def story() -> None:
        await stage.slabs.admit()
        size = len(stage.data)
        start = {"all but the tail": size - 8, "all": size}.get(held, held) if isinstance(held, str) else held
        assert isinstance(start, int)
        peer = resuming(stage, start)
        assert await stage.send(peer) == size - start
        assert peer.asked == [RESUME_FILE, "new_file", "file_end"]
        assert peer.data == stage.data[start:]
        assert peer.ends == [stage.package.sha256]
        assert await stage.quiet() == stage.slabs.total

    asyncio.run(story())


@pytest.mark.slow
def test_rest_is_sent_from_what_is_sealed_for_others_but_for_its_first_chunk(stage: Stage) -> None:
    async def story() -> None:
        await stage.slabs.admit()
        fresh, other = stage.peer("fresh"), resuming(stage, CHUNK + 5, "other")
        await asyncio.gather(stage.send(fresh), stage.send(other))
        assert fresh.data == stage.data
        assert other.data == stage.data[CHUNK + 5 :]
        assert stage.pool.count(SealChunk) == 5 + 1

    asyncio.run(story())


def test_cancelled_rest_ends_with_the_digest_of_what_is_there(stage: Stage) -> None:
    async def story() -> None:
        await stage.slabs.admit()
        peer = resuming(stage, 1000)
        peer.cancels = 1
        assert await stage.send(peer) == CHUNK - 1000
        assert peer.ends == [sha256(stage.data[:CHUNK]).digest()]

    asyncio.run(story())


LIES = [
    b"",
    b"-1",
    b"+1",
    b" 1",
    b"1 ",
    b"1.5",
    b"1e3",
    b"0x10",
    b"none",
    "٣".encode(),
    b"\xff\xfe",
    b"9" * 5000,
    b"more",
]


@pytest.mark.slow
@pytest.mark.parametrize("lie", LIES, ids=lambda lie: repr(lie[:8]))
def test_worker_that_lies_about_what_it_has_gets_nothing_and_costs_nothing(stage: Stage, lie: bytes) -> None:
    async def story() -> None:
        await stage.slabs.admit()
        peer = resuming(stage, len(stage.data) + 1 if lie == b"more" else lie)
        log = SimpleNamespace(debug=lambda text: None, error=errors.append)
        progress = Progress(peer.name, "integrity", "sending", 0.0)
        with pytest.raises(ClusterError):
            await stage.sender.send(cast(Peer, peer), "w", "syn_m_c", stage.package, cast(TagLog, log), progress)
        await peer.told
        assert peer.asked[:3] == ["syn_m_c", "opened", RESUME_FILE]
        assert sorted(peer.asked[3:]) == ["closed", "syn_m_c_r"]
        assert not stage.pool.jobs
        assert not peer.paths
        assert stage.slabs.free == stage.slabs.total
        assert len(errors) == 1
        assert len(errors[0]) < 300
        if lie in (b"", b"more"):  # for one that is no number, and one that is; sealing a package takes a while
            peer.held = b"0"
            assert await stage.send(peer) == len(stage.data)
            assert peer.data == stage.data

    errors: list[str] = []
    asyncio.run(story())


def test_worker_without_the_capability_is_not_asked_what_it_has(stage: Stage) -> None:
    async def story() -> None:
        await stage.slabs.admit()
        peer = stage.peer()
        await stage.send(peer)
        assert peer.asked == ["new_file", "file_end"]
        assert peer.data == stage.data

    asyncio.run(story())


@pytest.mark.parametrize("is_silent", [True, False])
def test_string_whose_beginning_was_not_answered_is_taken_back(tmp_path: Path, is_silent: bool) -> None:
    """A peer that reads again after a while would keep it until the link ends (wire.md 4.4)."""
    node = Node(tmp_path, "master")

    async def story() -> None:
        peer = await node.up(WORKER)
        sending = asyncio.create_task(node.context.sender.send_string(peer, b"x" * 12))
        asked = await node.request(1, "new_str")
        if is_silent:
            await node.core.handle(Unanswered(asked.id, "timeout"))
        else:
            await node.says(asked, b"no room", "err")
        with pytest.raises(ClusterError, match="3016"):
            await sending
        await turns()
        assert [sent.payload for sent in node.sent if isinstance(sent, Request)][1:] == [b"12"] * is_silent
        assert node.asked(1)[1:] == ["err_str"] * is_silent

    on(node, story())
