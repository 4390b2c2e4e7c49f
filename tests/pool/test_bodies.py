"""Jobs on sealed bodies: they round-trip, and every fault is named by its kind."""

import errno
import hashlib
import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterd.messages.bodies import ChunkStored, ChunkTarget, DigestSegments, OpenBody, SealChunk, StoreChunk
from clusterd.pool.bodies import NO_SPACE, digest_segments, open_body, seal_chunk, store_chunk
from clusterd.pool.failure import Failure
from clusterd.pool.jobs import JobRunner
from clusterd.settings import ClusterBlock, Secret, Settings
from clusterd.wire.seal import Sealer
from hashing.segment import Segment
from ipc.arena import Arena
from ipc.descriptor import Descriptor

SEALER = Sealer(b"k" * 32)
SLAB = 1024 * 1024


@pytest.fixture(scope="module")
def arena() -> Iterator[Arena]:
    made = Arena(2, 2, SLAB)
    yield made
    made.close()


def put(arena: Arena, slab: int, token: bytes, offset: int = 0) -> Descriptor:
    where = Descriptor(slab, offset, len(token))
    arena.slice(where)[:] = token
    return where


def target(path: Path, name: str = "a.zip", offset: int = 0, limit: int = 100, truncate: bool = False) -> ChunkTarget:
    path.touch()
    return ChunkTarget(name, str(path), offset, limit, truncate)


def kind_of(failed: pytest.ExceptionInfo[Failure]) -> str:
    return failed.value.kind


def test_sealed_chunk_opens_to_prefix_and_segments(arena: Arena, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"0123456789")
    two.write_bytes(b"abcdef")
    segments = [Segment(str(one), 2, 3), Segment(str(two), 0, 6), Segment(str(one), 9, 1)]

    sealed = seal_chunk(SealChunk(b"name ", segments, 3), SEALER, arena)

    assert sealed.body.slab == 3
    assert SEALER.open(bytes(arena.slice(sealed.body))) == b"name 234abcdef9"
    assert open_body(OpenBody([sealed.body], 15), SEALER, arena).payload == b"name 234abcdef9"


def test_segment_that_became_shorter_is_vanished(arena: Arena, tmp_path: Path) -> None:
    part = tmp_path / "part"
    part.write_bytes(b"12345")
    with pytest.raises(Failure, match="ends 3 bytes before it should") as failed:
        seal_chunk(SealChunk(b"", [Segment(str(part), 2, 6)], 3), SEALER, arena)
    assert kind_of(failed) == "vanished"


def test_divided_body_is_opened_from_its_fragments(arena: Arena) -> None:
    token = SEALER.seal(b"x" * 3000)
    body = [put(arena, 0, token[:1000], 50), put(arena, 1, token[1000:])]

    assert open_body(OpenBody(body, 3000), SEALER, arena).payload == b"x" * 3000
    checked = open_body(OpenBody(body, 3000, check_only=True), SEALER, arena)
    assert (checked.payload, checked.size) == (b"", 3000)


def test_body_above_the_limit_is_refused_by_its_length_before_it_is_opened(arena: Arena) -> None:
    garbage = put(arena, 0, b"g" * 5000)
    with pytest.raises(Failure) as failed:
        open_body(OpenBody([garbage], 1000), SEALER, arena)
    assert kind_of(failed) == "too-large"
    just_above = put(arena, 0, SEALER.seal(b"x" * 1001))
    with pytest.raises(Failure) as failed:
        open_body(OpenBody([just_above], 1000), SEALER, arena)
    assert kind_of(failed) == "too-large"


def test_body_of_the_local_socket_is_taken_unchanged(arena: Arena) -> None:
    body = [put(arena, 0, b"abc"), put(arena, 1, b"def")]
    assert open_body(OpenBody(body, 6, sealed=False), SEALER, arena).payload == b"abcdef"
    with pytest.raises(Failure) as failed:
        open_body(OpenBody(body, 5, sealed=False), SEALER, arena)
    assert kind_of(failed) == "too-large"


def test_foreign_key_is_a_bad_seal(arena: Arena) -> None:
    body = put(arena, 0, Sealer(b"z" * 32).seal(b"x"))
    with pytest.raises(Failure) as failed:
        open_body(OpenBody([body], 1000), SEALER, arena)
    assert kind_of(failed) == "bad-seal"


def test_wrong_checksum_of_a_descriptor_is_noticed(arena: Arena) -> None:
    body = put(arena, 0, SEALER.seal(b"x"))
    with pytest.raises(Failure, match="changed in the arena") as failed:
        open_body(OpenBody([Descriptor(body.slab, body.offset, body.length, 7)], 1000), SEALER, arena)
    assert kind_of(failed) == "bad-seal"


def test_chunk_is_written_at_its_offset(arena: Arena, tmp_path: Path) -> None:
    path = tmp_path / "spool"
    path.write_bytes(b"....")
    payload = b"a.zip data with spaces"

    for job in (
        StoreChunk([target(path, "b.zip"), target(path, offset=4)], payload=payload),
        StoreChunk([target(path, offset=20)], body=[put(arena, 0, SEALER.seal(payload))]),
    ):
        assert store_chunk(job, SEALER, arena).size == 16

    assert path.read_bytes() == b"....data with spacesdata with spaces"


def test_chunk_for_nobody_and_chunk_without_a_name(arena: Arena, tmp_path: Path) -> None:
    targets = [target(tmp_path / "spool")]
    with pytest.raises(Failure) as failed:
        store_chunk(StoreChunk(targets, payload=b"../../etc/passwd data"), SEALER, arena)
    assert (kind_of(failed), str(failed.value)) == ("unknown-name", "b'../../etc/passwd'")
    with pytest.raises(Failure) as failed:
        store_chunk(StoreChunk(targets, payload=b"nothing"), SEALER, arena)
    assert (kind_of(failed), str(failed.value)) == ("unknown-name", NO_SPACE)
    assert (tmp_path / "spool").read_bytes() == b""


def test_chunk_beyond_the_limit_writes_nothing_or_is_cut(arena: Arena, tmp_path: Path) -> None:
    path = tmp_path / "spool"
    with pytest.raises(Failure) as failed:
        store_chunk(StoreChunk([target(path, offset=96)], payload=b"a.zip 12345"), SEALER, arena)
    assert kind_of(failed) == "too-large"
    assert path.read_bytes() == b""

    cut = store_chunk(StoreChunk([target(path, limit=3, truncate=True)], payload=b"a.zip 12345"), SEALER, arena)
    assert (cut.size, path.read_bytes()) == (3, b"123")
    full = store_chunk(StoreChunk([target(path, offset=3, limit=3, truncate=True)], payload=b"a.zip 6"), SEALER, arena)
    assert (full.size, path.read_bytes()) == (0, b"123")


def test_chunk_is_never_written_through_a_link(arena: Arena, tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / "spool").symlink_to(tmp_path / "precious")
    stored = store_chunk(StoreChunk([target(tmp_path / "spool")], payload=b"a.zip 12345"), SEALER, arena)
    assert (stored.size, stored.problem) == (0, os.strerror(errno.ELOOP))
    assert (tmp_path / "precious").read_bytes() == b"precious"


@given(cuts=st.lists(st.integers(0, 5000), max_size=5))
def test_digest_of_segments_is_that_of_their_bytes(tmp_path_factory: pytest.TempPathFactory, cuts: list[int]) -> None:
    path = tmp_path_factory.getbasetemp() / "digest-me"
    data = bytes(range(256)) * 20
    path.write_bytes(data)
    marks = sorted({0, len(data), *(min(cut, len(data)) for cut in cuts)})
    segments = [Segment(str(path), a, b - a) for a, b in pairwise(marks)]

    assert digest_segments(DigestSegments(segments), lambda: None).sha256 == hashlib.sha256(data).digest()


def test_digest_of_a_large_file_stamps_as_it_goes(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with open(path, "wb") as file:
        os.truncate(file.fileno(), 5_000_000)
    steps: list[int] = []

    digest_segments(DigestSegments([Segment(str(path), 0, 5_000_000)]), lambda: steps.append(1))

    assert len(steps) >= 5


def test_full_disk_names_the_file_that_was_written(
    arena: Arena, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.pwrite", refuse)
    workshop = JobRunner(Settings("/", cluster=ClusterBlock(key=Secret(b"k" * 32))), arena, lambda: None)
    where = target(tmp_path / "spooled")
    result = workshop.do(StoreChunk([where], b"a.zip content"))
    assert result == ChunkStored(where.name, 0, "No space left on device")
