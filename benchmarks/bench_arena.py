"""A sealed chunk handed from one process to another through the arena: bytes into a slab, the lease, a checked view of
it. Compared with its limit: the same bytes copied in memory."""

import os
from collections.abc import Iterator

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from xxhash import xxh3_64_intdigest

from ipc.arena import Arena
from ipc.codec import Decoder, encode
from ipc.descriptor import Descriptor
from ipc.lease import LeaseBook

BODY_BYTES = 6_990_604
GROUP = "hand over 7 MB"


@pytest.fixture
def arena() -> Iterator[Arena]:
    made = Arena(2, 2)
    yield made
    made.close()


@pytest.mark.benchmark(group=GROUP)
def test_hand_over(benchmark: BenchmarkFixture, arena: Arena) -> None:
    body = os.urandom(BODY_BYTES)
    book = LeaseBook(arena.net_slabs)
    decoder: Decoder[Descriptor] = Decoder(Descriptor)

    def hand_over() -> int:
        slab = book.take("net")
        view = arena.view(slab)
        view[:BODY_BYTES] = body
        said = encode(Descriptor(slab, 0, BODY_BYTES, xxh3_64_intdigest(body)))
        view.release()
        book.hand_over(slab, "pool-1")
        where = decoder.decode(said)
        seen = arena.slice(where)
        is_whole = xxh3_64_intdigest(seen) == where.checksum
        seen.release()
        book.give_back(slab)
        assert is_whole
        return where.length

    assert benchmark(hand_over) == BODY_BYTES


@pytest.mark.benchmark(group=GROUP)
def test_limit_memcpy(benchmark: BenchmarkFixture) -> None:
    body, target = os.urandom(BODY_BYTES), memoryview(bytearray(BODY_BYTES))

    def copy() -> None:
        target[:] = body

    benchmark(copy)
    assert target == body
