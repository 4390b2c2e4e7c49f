"""A package that was interrupted goes on where it stopped, and only that package."""

import asyncio
import os
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from clusterd.errors import ClusterError
from clusterd.messages.bodies import StoreChunk
from clusterd.settings import Limits
from clusterd.sync.links import partials
from clusterd.sync.links.incoming import Incoming, Refusal
from clusterd.sync.links.outgoing import Package, cut_package
from clusterd.sync.links.partials import KEPT, KEPT_S, Claim, Partial, Partials
from clusterd.sync.ports.spool import Spool
from clusterd.wire.transfer import chunk_bytes
from ipc.arena import Arena
from tests.sync.fake_pool import FakePool, port

PATH = "/queue/cluster/clusterd-1.zip"
DATA = bytes(range(256)) * 40
TASK = "7b0f3b8e-0000-4000-8000-000000000001"


class Worker:
    """A worker's sync with several links to its master, one after the other."""

    def __init__(self, root: Path) -> None:
        self.spool = Spool(str(root), 1)
        self.spool.prepare()
        self.now = 0.0
        self.pool = FakePool(str(root), Arena(0, 1, 65536))
        self.partials = Partials(self.spool, lambda: self.now)

    def link(self, *, resumes: bool = True) -> Incoming:
        incoming = Incoming(
            "w1",
            self.spool,
            port(self.pool),
            file_limit=1 << 20,
            limits=Limits(),
            now=lambda: self.now,
            partials=self.partials if resumes else None,
        )
        incoming.expect(TASK)
        return incoming

    @property
    def files(self) -> list[str]:
        return os.listdir(self.spool.directory)


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    return Worker(tmp_path)


def claim_of(data: bytes, size: int | None = None) -> bytes:
    return f"{sha256(data).hexdigest()} {len(data) if size is None else size}".encode()


async def send(link: Incoming, data: bytes, *, stop: int | None = None, claim: bytes | None = None) -> int:
    """Plays a master up to byte `stop`. Returns how many bytes it sent."""
    start = await link.resume_file(claim_of(data) if claim is None else claim)
    link.new_file(PATH.encode())
    end = len(data) if stop is None else stop
    for at in range(start, end, 1000):
        await link.file_chunk(f"{PATH} ".encode() + data[at : min(at + 1000, end)], None)
    if stop is None:
        await link.end_file(f"{PATH} ".encode() + sha256(data).digest())
    return end - start


def test_transfer_that_was_cut_off_sends_only_the_rest(worker: Worker) -> None:
    async def story() -> None:
        first, second = worker.link(), worker.link()
        await send(first, DATA, stop=7000)
        first.close()
        assert await send(second, DATA) == len(DATA) - 7000
        await second.end_task(f"{TASK} {PATH[1:]}".encode())
        awaited = second.awaited(TASK)
        assert awaited is not None
        file = awaited.file.result()
        assert Path(file.place).read_bytes() == DATA
        assert file.digest == sha256(DATA).digest()

    asyncio.run(story())


def test_package_that_is_named_while_its_digest_is_computed_is_taken(worker: Worker) -> None:
    """A busy node needs longer for that than a stock master waits: it goes on to its last command."""

    async def story() -> None:
        link = worker.link()
        await send(link, DATA, stop=len(DATA))
        worker.pool.gate.clear()
        ended = asyncio.create_task(link.end_file(f"{PATH} ".encode() + sha256(DATA).digest()))
        await asyncio.sleep(0)
        named = asyncio.create_task(link.end_task(f"{TASK} {PATH[1:]}".encode()))
        for _ in range(5):
            await asyncio.sleep(0)
        worker.pool.gate.set()
        await asyncio.gather(ended, named)
        awaited = link.awaited(TASK)
        assert awaited is not None
        assert awaited.file.result().complete

    asyncio.run(story())


def test_transfer_whose_sender_died_goes_on_on_the_same_link(worker: Worker) -> None:
    async def story() -> None:
        link = worker.link()
        await send(link, DATA, stop=5000)
        link.forget(TASK)  # what `syn_m_c_r` leads to
        link.expect(TASK)
        assert await send(link, DATA) == len(DATA) - 5000

    asyncio.run(story())


def test_whole_package_that_no_command_named_needs_nothing_more(worker: Worker) -> None:
    async def story() -> None:
        first = worker.link()
        await send(first, DATA)
        first.close()
        assert await send(worker.link(), DATA) == 0

    asyncio.run(story())


@pytest.mark.parametrize(
    "claim", [claim_of(DATA, 1), claim_of(DATA, len(DATA) + 1), claim_of(DATA[1:], len(DATA))], ids=str
)
def test_claim_of_another_package_gets_nothing(worker: Worker, claim: bytes) -> None:
    async def story() -> None:
        first = worker.link()
        await send(first, DATA, stop=7000)
        first.close()
        assert await worker.link().resume_file(claim) == 0
        assert await worker.link().resume_file(claim_of(DATA)) == 7000

    asyncio.run(story())


def test_claim_whose_transfer_ended_before_it_began_is_not_the_next_ones(worker: Worker) -> None:
    """A small package that follows makes none (`INLINE_CHUNK`)."""

    async def story() -> None:
        link = worker.link()
        await send(link, DATA, stop=3000)
        link.close()
        link = worker.link()
        assert await link.resume_file(claim_of(DATA)) == 3000
        link.forget(TASK)  # the master could not go on, and said so
        link.expect(TASK)
        link.new_file(PATH.encode())
        await link.file_chunk(f"{PATH} small".encode(), None)
        await link.end_file(f"{PATH} ".encode() + sha256(b"small").digest())
        link.forget(TASK)
        link.expect(TASK)
        assert await send(link, DATA) == len(DATA) - 3000

    asyncio.run(story())


@pytest.mark.parametrize("claim", [b"", b"x 1", b"0" * 64 + b" -1", b"0" * 63 + b"g 5", b"F" * 64 + b" 5"])
def test_invalid_claim_is_refused(worker: Worker, claim: bytes) -> None:
    async def story() -> None:
        with pytest.raises(ClusterError):
            await worker.link().resume_file(claim)

    asyncio.run(story())


def test_nothing_is_kept_for_a_link_that_may_not(worker: Worker) -> None:
    async def story() -> None:
        link = worker.link(resumes=False)
        with pytest.raises(ClusterError):
            await link.resume_file(claim_of(DATA))
        link.new_file(PATH.encode())
        await link.file_chunk(f"{PATH} data".encode(), None)
        link.close()
        assert not worker.files
        silent = worker.link()
        silent.forget(TASK)
        with pytest.raises(ClusterError):
            await silent.resume_file(claim_of(DATA))

    asyncio.run(story())


def test_sender_that_lies_about_the_beginning_fails_the_digest_and_has_to_restart(worker: Worker) -> None:
    async def story() -> None:
        first = worker.link()
        await send(first, b"x" * 7000, stop=7000, claim=claim_of(DATA))
        first.close()
        second = worker.link()
        with pytest.raises(Refusal):
            await send(second, DATA)
        assert not worker.files
        assert await send(second, DATA) == len(DATA)

    asyncio.run(story())


async def begin_storing(worker: Worker, link: Incoming) -> asyncio.Task[None]:
    """The next 1000 bytes have arrived, and their job ends only when the pool's gate is opened."""
    worker.pool.gate.clear()
    jobs = worker.pool.count(StoreChunk)
    storing = asyncio.create_task(link.file_chunk(f"{PATH} ".encode() + DATA[2000:3000], None))
    while worker.pool.count(StoreChunk) == jobs:
        await asyncio.sleep(0)
    return storing


@pytest.mark.parametrize("ends", ["with the link", "with its task"])
def test_chunk_that_is_being_stored_when_its_transfer_ends_counts(worker: Worker, ends: str) -> None:
    async def story() -> None:
        link = worker.link()
        await send(link, DATA, stop=2000)
        storing = await begin_storing(worker, link)
        if ends == "with the link":
            link.close()
        else:
            link.forget(TASK)
        again = asyncio.create_task(worker.link().resume_file(claim_of(DATA)))
        while (
            not again.done() and len(asyncio.all_tasks()) < 4
        ):  # this one, the chunk's, the one that keeps, the claim's
            await asyncio.sleep(0)
        assert not again.done()  # a job still writes to it
        worker.pool.gate.set()
        with pytest.raises(ClusterError):
            await storing
        assert await again == 3000

    asyncio.run(story())


def test_chunk_of_a_file_whose_name_was_begun_anew_is_not_counted_in_the_new_one(worker: Worker) -> None:
    async def story() -> None:
        link = worker.link()
        await send(link, DATA, stop=2000)
        storing = await begin_storing(worker, link)
        link.new_file(PATH.encode())
        worker.pool.gate.set()
        with pytest.raises(ClusterError):
            await storing
        await link.file_chunk(f"{PATH} whole".encode(), None)
        await link.end_file(f"{PATH} ".encode() + sha256(b"whole").digest())

    asyncio.run(story())


def test_transfer_restarts_when_a_job_does_not_end(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        monkeypatch.setattr(partials, "SETTLE_S", 0.01)
        link = worker.link()
        await send(link, DATA, stop=2000)
        storing = await begin_storing(worker, link)
        link.close()
        assert await worker.link().resume_file(claim_of(DATA)) == 0
        worker.pool.gate.set()
        with pytest.raises(ClusterError):
            await storing

    asyncio.run(story())


def test_only_few_are_kept_and_not_for_long(worker: Worker) -> None:
    async def story() -> None:
        claims = [Claim(bytes([number]) * 32, 10) for number in range(KEPT + 2)]
        for claim in claims:
            path = Path(worker.spool.new_path("package"))
            path.write_bytes(b"12345")
            worker.partials.keep(claim, Partial(str(path), 5))
        assert len(worker.files) == KEPT
        assert worker.partials.take(claims[0]) is None
        found = worker.partials.take(claims[-1])
        assert found is not None
        worker.now += KEPT_S
        assert worker.partials.take(claims[-2]) is None
        worker.partials.keep(claims[0], found)
        worker.partials.clear()
        assert not worker.files

    asyncio.run(story())


def test_rest_of_a_package_is_cut_like_the_whole_but_for_its_first_chunk() -> None:
    step = chunk_bytes(PATH)
    package = Package([], 3 * step + 500, b"", 3 * step - 7, PATH, (4, b"whole"))
    whole = cut_package(package, PATH)
    assert [(piece.offset, piece.length) for piece in whole] == [
        (0, step),
        (step, step),
        (2 * step, step - 7),
        (3 * step - 7, 507),
    ]
    assert cut_package(package, PATH, step) == whole[1:]
    rest = cut_package(package, PATH, step + 9)
    assert (rest[0].offset, rest[0].length, rest[0].key) == (step + 9, step - 9, None)
    assert rest[1:] == whole[2:]
    assert cut_package(package, PATH, package.size) == []
    keys = [piece.key for piece in whole]
    assert keys == [(4, b"", 0), (4, b"", step), (4, b"", 2 * step), (4, b"whole", 3 * step - 7)]
    assert all(piece.key is None for piece in cut_package(package, "/queue/cluster/w1/a.zip"))
