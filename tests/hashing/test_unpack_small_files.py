"""Small files of a package are read in one step, with the same result as in pieces."""

import os
import random
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path

import lz4.frame
import pytest

from hashing.package import CHUNK_BYTES, FEED_BYTES, FILE_SEP, PATH_SEP, PackageReader
from hashing.plan import PlanFile
from tests.hashing.packages import GIB, Receiver, build_as_stock, read_tree, wire_of
from tests.hashing.received import metadata


def frame_of(data: bytes) -> bytes:
    return lz4.frame.compress(data)


def stored_frame_of(data: bytes) -> bytes:
    """Returns a frame that stores `data` unchanged, also a separator."""
    return lz4.frame.compress(b"")[:7] + (len(data) | 1 << 31).to_bytes(4, "little") + data + bytes(4)


GOOD = b"good" * 50
MAX_SMALL = 100_000
LARGE = random.Random(4).randbytes(FEED_BYTES)
DECOY = GOOD + FILE_SEP + b"etc/lists/c" + PATH_SEP + zlib.compress(b"evil")
SMALL_STREAMS = {
    "zlib": (zlib.compress(GOOD), GOOD),
    "lz4": (frame_of(GOOD), GOOD),
    "empty_zlib": (zlib.compress(b""), b""),
    "empty_lz4": (frame_of(b""), b""),
    "wrong_zlib": (zlib.compress(b"evil"), GOOD),
    "wrong_lz4": (frame_of(b"evil"), GOOD),
    "cut_zlib": (zlib.compress(GOOD)[:-1], GOOD),
    "cut_lz4": (frame_of(GOOD)[:-1], GOOD),
    "longer_zlib": (zlib.compress(GOOD) + b"x", GOOD),
    "longer_lz4": (frame_of(GOOD) + b"x", GOOD),
    "two_frames": (frame_of(GOOD) * 2, GOOD),
    "damaged_zlib": (zlib.compress(GOOD)[:8] + b"xyz" + zlib.compress(GOOD)[11:], GOOD),
    "damaged_lz4": (frame_of(GOOD)[:15] + bytes(9) + frame_of(GOOD)[24:], GOOD),
    "only_magic": (frame_of(GOOD)[:4], GOOD),
    "nothing": (b"", GOOD),
    "separator_in_zlib": (zlib.compress(DECOY, 0), DECOY),
    "separator_in_lz4": (stored_frame_of(DECOY), DECOY),
    "separator_first": (FILE_SEP + zlib.compress(GOOD), GOOD),
    "long_zlib": (zlib.compress(LARGE), LARGE),
    "long_lz4": (frame_of(LARGE), LARGE),
    "at_the_limit_zlib": (zlib.compress(bytes(MAX_SMALL)), bytes(MAX_SMALL)),
    "at_the_limit_lz4": (frame_of(bytes(MAX_SMALL)), bytes(MAX_SMALL)),
    "above_the_limit_zlib": (zlib.compress(bytes(MAX_SMALL + 1)), bytes(MAX_SMALL + 1)),
    "above_the_limit_lz4": (frame_of(bytes(MAX_SMALL + 1)), bytes(MAX_SMALL + 1)),
    "bomb_zlib": (zlib.compress(bytes(16 << 20)), bytes(16 << 20)),
    "bomb_lz4": (frame_of(bytes(8 << 20)), bytes(8 << 20)),
}


@pytest.mark.parametrize("max_total", [16 << 20, MAX_SMALL + 300, 2 * len(GOOD), 2 * len(GOOD) - 1, 3])
@pytest.mark.parametrize("name", SMALL_STREAMS)
def test_file_read_at_once_has_the_same_result_as_one_read_in_pieces(
    name: str, max_total: int, root: Path, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is between good ones, which follow whatever may have upset the reader; the last one is empty, and fits
    any bound."""
    stream, announced = SMALL_STREAMS[name]
    metas = {"etc/lists/a": GOOD, "etc/lists/b": announced, "etc/lists/c": GOOD, "etc/lists/d": b""}
    package = FILE_SEP.join(
        [
            b"etc/lists/a" + PATH_SEP + frame_of(GOOD),
            b"etc/lists/b" + PATH_SEP + stream,
            b"etc/lists/c" + PATH_SEP + frame_of(GOOD),
            b"etc/lists/d" + PATH_SEP + frame_of(b""),
            build_as_stock([metadata({path: wire_of(path, data) for path, data in metas.items()})]),
        ]
    )

    def result(place: Path) -> tuple[object, ...]:
        receiver = Receiver(place, spool, package)
        receiver.max_file = MAX_SMALL
        receiver.open()
        receiver.max_total = max_total
        unpacked = receiver.unpack(0)
        with PlanFile(receiver.plan) as plan:
            spent = plan.unpacked_bytes()
        waiting = sorted(os.stat(place / path).st_mode for path in read_tree(place))
        paths = [written.path for written in unpacked.written]
        return paths, unpacked.notes, spent, waiting, receiver.apply([unpacked.written]), read_tree(place)

    at_once = result(root)
    monkeypatch.setattr(PackageReader, "small_content", lambda reader, limit: None)
    assert at_once == result(root.parent / "in_pieces")


def test_bomb_is_not_unpacked_at_once(tmp_path: Path) -> None:
    """Less than FEED_BYTES of either kind, which would unpack to megabytes."""
    for bomb in (frame_of(bytes(12 << 20)), zlib.compress(bytes(12 << 20))):
        assert len(bomb) < FEED_BYTES
        path = tmp_path / "bomb"
        path.write_bytes(b"a" + PATH_SEP + bomb + FILE_SEP)
        with path.open("rb") as file:
            reader = PackageReader(file.fileno(), path.stat().st_size)
            reader.read_path()
            before = reader.position
            tracemalloc.start()
            try:
                assert reader.small_content(GIB) is None
                assert tracemalloc.get_traced_memory()[1] < 3 * CHUNK_BYTES
            finally:
                tracemalloc.stop()
        assert reader.position == before


@pytest.mark.parametrize("name", SMALL_STREAMS)
def test_nothing_of_a_broken_stream_gets_into_the_next(name: str, tmp_path: Path) -> None:
    path = tmp_path / "package"
    path.write_bytes(SMALL_STREAMS[name][0] + FILE_SEP + frame_of(b"next") + FILE_SEP)
    with path.open("rb") as file:
        reader = PackageReader(file.fileno(), path.stat().st_size)
        reader.small_content(GIB)
        reader.position = path.stat().st_size - len(frame_of(b"next") + FILE_SEP)
        assert reader.small_content(GIB) == b"next"


def test_small_files_are_read_at_once(root: Path, spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise 20,000 of them cost 7 to 9 % more."""
    slow: list[str] = []
    content = PackageReader.content

    def observed(reader: PackageReader, path: str, limit: int) -> Iterator[bytes]:
        slow.append(path)
        return content(reader, path, limit)

    files = {f"etc/lists/{number}": bytes(number) * 1000 for number in range(20)}
    metas = {path: wire_of(path, data) for path, data in files.items()}
    entries = [path.encode() + PATH_SEP + frame_of(data) for path, data in files.items()]
    receiver = Receiver(root, spool, FILE_SEP.join([*entries, build_as_stock([metadata(metas)])]))
    receiver.open()
    monkeypatch.setattr(PackageReader, "content", observed)
    receiver.apply([receiver.unpack(0).written])
    assert read_tree(root) == files
    assert slow == []
