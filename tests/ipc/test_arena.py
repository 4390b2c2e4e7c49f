"""Shared memory: all processes see it, the system gets it back, and nothing of it is left."""

import mmap
import os
import re
import signal
from pathlib import Path

import pytest
import xxhash

from clusterd.messages.bodies import SealChunk, Sealed
from clusterd.messages.pool import JobDone, PoolHello, PoolToSync, StartJob, SyncToPool
from ipc.arena import SLAB_BYTES, Arena
from ipc.channel import RouterChannel, WorkerSocket
from ipc.codec import Decoder
from ipc.descriptor import Descriptor
from ipc.job_queue import JobQueue
from ipc.lease import LeaseBook
from tests.ipc.processes import Child, in_loop, named_memory, until


def resident_bytes() -> int:
    """Returns the memory of the arena's mapping in this process: the only one that is shared and anonymous."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    for line in lines:
        if line.endswith("/dev/zero (deleted)"):
            found = next(match for match in (re.match(r"Rss: +(\d+) kB", line) for line in lines) if match)
            return int(found[1]) * 1024
    return 0


def test_a_child_and_its_parent_see_the_same_bytes() -> None:
    arena = Arena(2, 2)
    body = os.urandom(100_000)

    def write() -> None:
        arena.view(3)[7 : 7 + len(body)] = body

    with Child(write) as child:
        assert child.wait() == 0
    where = Descriptor(3, 7, len(body), xxhash.xxh3_64_intdigest(body))
    assert arena.slice(where) == body
    assert xxhash.xxh3_64_intdigest(arena.slice(where)) == where.checksum
    arena.close()


def test_a_slab_holds_the_largest_sealed_body() -> None:
    assert SLAB_BYTES >= 6_990_604
    assert SLAB_BYTES % mmap.PAGESIZE == 0


def test_slabs_do_not_overlap() -> None:
    arena = Arena(2, 3, mmap.PAGESIZE)
    for slab in range(5):
        arena.view(slab)[:] = bytes([slab + 1]) * mmap.PAGESIZE
    for slab in range(5):
        assert arena.slice(Descriptor(slab, 0, mmap.PAGESIZE)) == bytes([slab + 1]) * mmap.PAGESIZE
    assert [*arena.net_slabs, *arena.sync_slabs] == list(range(5))
    arena.close()


@pytest.mark.parametrize(
    "where",
    [(0, -1, 5), (0, 0, -1), (0, 1, mmap.PAGESIZE), (0, mmap.PAGESIZE + 1, 0), (2, 0, 1), (-1, 0, 1), (10**9, 0, 1)],
)
def test_a_descriptor_that_leaves_its_slab_is_refused(where: tuple[int, int, int]) -> None:
    arena = Arena(1, 1, mmap.PAGESIZE)
    with pytest.raises(ValueError):
        arena.slice(Descriptor(*where))
    arena.close()


@pytest.mark.parametrize("slab", [-1, 2])
def test_a_slab_that_does_not_exist_is_refused(slab: int) -> None:
    arena = Arena(1, 1, mmap.PAGESIZE)
    with pytest.raises(ValueError):
        arena.view(slab)
    with pytest.raises(ValueError):
        arena.free_pages(slab)
    arena.close()


@pytest.mark.parametrize("sizes", [(1, 1, 1000), (1, 1, 0), (-1, 2, 4096), (0, 0, 4096)])
def test_an_arena_that_cannot_be_is_refused(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError):
        Arena(*sizes)


@pytest.mark.slow
def test_memory_is_used_when_written_and_leaves_when_freed() -> None:
    """In the child that wrote it and in the parent, while both hold views."""
    arena = Arena(8, 8)
    assert resident_bytes() == 0
    told, tells = os.pipe()
    view = arena.view(1)

    def write() -> None:
        arena.view(1)[:] = b"x" * SLAB_BYTES
        os.write(tells, b"x")
        until(lambda: resident_bytes() == 0)

    with Child(write) as child:
        os.read(told, 1)
        assert view[SLAB_BYTES - 1] == ord("x")
        arena.view(2)[:] = b"y" * SLAB_BYTES
        assert resident_bytes() >= SLAB_BYTES
        arena.free_pages(1)
        arena.free_pages(2)
        assert resident_bytes() == 0
        assert child.wait() == 0
    assert bytes(view[:10]) == bytes(10)
    assert bytes(arena.view(3)[:10]) == bytes(10)
    os.close(told)
    os.close(tells)
    view.release()
    arena.close()


def test_freeing_a_slab_leaves_its_neighbours_alone() -> None:
    arena = Arena(2, 1, mmap.PAGESIZE)
    for slab in range(3):
        arena.view(slab)[:] = b"x" * mmap.PAGESIZE
    arena.free_pages(1)
    assert [arena.view(slab)[0] for slab in range(3)] == [ord("x"), 0, ord("x")]
    arena.close()


def test_nothing_appears_in_dev_shm_even_when_the_owner_is_killed() -> None:
    told, tells = os.pipe()
    stays, ends = os.pipe()

    def inherit(arena: Arena) -> None:
        os.close(ends)
        os.write(tells, bytes(arena.view(0)[:10]))
        os.read(stays, 1)

    def owner() -> None:
        arena = Arena(2, 2)
        arena.view(0)[:10] = b"0123456789"
        Child(lambda: inherit(arena))
        signal.pause()

    with Child(owner) as child:
        assert os.read(told, 10) == b"0123456789"
        assert named_memory(child.pid) == []
    # The heir lives until this end is closed, as it has no other end; then the other pipe has no writer either.
    os.close(ends)
    os.close(tells)
    assert os.read(told, 1) == b""
    os.close(told)
    os.close(stays)


def test_closing_while_a_view_is_held_is_an_error() -> None:
    arena = Arena(1, 1, mmap.PAGESIZE)
    view = arena.view(0)
    with pytest.raises(BufferError):
        arena.close()
    view.release()
    arena.close()


def test_slabs_come_back_when_their_holder_is_killed(tmp_path: Path) -> None:
    """The whole way: a job gives a slab to a pool process, which is killed while it writes. Its successor runs the job
    again with the same slab; in the end every slab is free and the bytes are whole."""
    arena = Arena(1, 2)
    book, queue = LeaseBook(arena.sync_slabs), JobQueue(10)
    told, tells = os.pipe()
    path = str(tmp_path / "s")

    def pool(incarnation: int) -> None:
        worker: WorkerSocket[SyncToPool] = WorkerSocket(path, b"pool-1", Decoder(SyncToPool))
        worker.send(PoolHello(1, incarnation))
        order: StartJob | None = None
        while order is None:
            order = worker.recv(10)
        assert isinstance(order.job, SealChunk)
        view = arena.view(order.job.slab)
        view[:1000] = bytes([incarnation]) * 1000
        if incarnation == 1:
            os.write(tells, b"x")
            signal.pause()
        view[:2000] = bytes([incarnation]) * 2000
        worker.send(JobDone(order.id, Sealed(Descriptor(order.job.slab, 0, 2000))))
        worker.recv(10)

    async def sync() -> None:
        router: RouterChannel[PoolToSync] = RouterChannel(path, Decoder(PoolToSync), 10)

        async def give() -> None:
            queue.ready(1)
            for slot, number, job in queue.next_assignments():
                await router.send(f"pool-{slot}".encode(), StartJob(number, job))

        slab = book.take("pool")
        queue.submit(SealChunk(b"", [], slab), "chunk")
        with Child(lambda: pool(1)) as first:
            await router.recv()
            await give()
            os.read(told, 1)
            first.kill()
        assert queue.lost(1) == []
        assert queue.waiting == 1
        with Child(lambda: pool(2)):
            assert await router.recv() == (b"pool-1", PoolHello(1, 2))
            await give()
            _, done = await router.recv()
        assert isinstance(done, JobDone)
        assert isinstance(done.result, Sealed)
        assert queue.done(1, done.id)
        assert arena.slice(done.result.body) == b"\2" * 2000
        book.hand_over(slab, "net")
        assert book.free == 1
        # Then net dies while it sends.
        assert book.holder(slab) == "net"
        book.give_back(slab)
        assert book.free == 2
        arena.free_pages(slab)
        router.close()

    in_loop(sync)
    assert resident_bytes() == 0
    os.close(told)
    os.close(tells)
    arena.close()
