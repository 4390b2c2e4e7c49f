"""Decisions of the reader of packages: where an entry begins and ends, what it refuses, where it then stands."""

import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import lz4.frame
import pytest

from hashing.errors import MalformedPackage, PackageTooLarge
from hashing.package import (
    CHUNK_BYTES,
    FEED_BYTES,
    FILE_SEP,
    METADATA_NAME,
    PATH_BYTES,
    PATH_SEP,
    WINDOW_BYTES,
    PackageReader,
    read_metadata,
    read_metadata_of,
)
from tests.hashing.packages import GIB, open_descriptors

DEFLATED = zlib.compress(b"content")
FRAME = lz4.frame.compress(b"content")


class Opened:
    """Makes readers of packages, and closes their files."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "package"
        self._fds: list[int] = []

    def __call__(self, package: bytes, start: int = 0) -> PackageReader:
        self.path.write_bytes(package)
        self._fds.append(os.open(self.path, os.O_RDONLY))
        return PackageReader(self._fds[-1], len(package), *([start] if start else []))

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)


@pytest.fixture
def reader_of(tmp_path: Path) -> Iterator[Opened]:
    opened = Opened(tmp_path)
    yield opened
    opened.close()


def entry(path: str, stream: bytes = DEFLATED) -> bytes:
    return path.encode() + PATH_SEP + stream


def noise(size: int) -> bytes:
    """Bytes that zlib cannot compress and that hold no separator."""
    return os.urandom(size).replace(b"|", b"-")


# ---- paths -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [0, 1000])
def test_path_ends_at_its_separator_and_the_stream_begins_behind_it(reader_of: Opened, before: int) -> None:
    reader = reader_of(b"-" * before + entry("etc/a"), before)
    assert reader.read_path() == "etc/a"
    assert reader.position == before + len("etc/a") + len(PATH_SEP)


def test_longest_path_is_read_and_a_longer_one_is_none(reader_of: Opened) -> None:
    assert reader_of(entry("p" * PATH_BYTES)).read_path() == "p" * PATH_BYTES
    reader = reader_of(entry("p" * (PATH_BYTES + 1)))
    with pytest.raises(MalformedPackage, match="no path at byte 0"):
        reader.read_path()
    assert reader.position == 0


@pytest.mark.parametrize("beyond", [0, 4, len(PATH_SEP)])
def test_path_that_ends_beyond_what_is_loaded_is_read(reader_of: Opened, beyond: int) -> None:
    at = WINDOW_BYTES - PATH_BYTES - len(PATH_SEP) + beyond
    reader = reader_of(b"-" * at + entry("p" * PATH_BYTES))
    assert reader.path_at(0) is None
    assert reader.path_at(at) == "p" * PATH_BYTES


def test_empty_path_is_one(reader_of: Opened) -> None:
    assert reader_of(entry("")).read_path() == ""


@pytest.mark.parametrize("package", [b"", b"x", b"x" * 5000, DEFLATED])
def test_bytes_without_the_separator_of_paths_begin_no_entry(reader_of: Opened, package: bytes) -> None:
    reader = reader_of(package)
    with pytest.raises(MalformedPackage, match="no path at byte 0"):
        reader.read_path()
    assert reader.path_at(0) is None


def test_path_that_is_not_utf8_is_refused(reader_of: Opened) -> None:
    with pytest.raises(MalformedPackage, match="not UTF-8 at byte 0"):
        reader_of(b"\xff" + PATH_SEP + DEFLATED).read_path()


def test_looking_for_a_path_moves_nothing(reader_of: Opened) -> None:
    package = entry("a") + FILE_SEP + entry("b")
    reader = reader_of(package, 3)
    assert reader.path_at(package.index(b"b" + PATH_SEP)) == "b"
    assert reader.path_at(len(package) - 1) is None
    assert reader.path_at(0) == "a"
    assert reader.position == 3


def test_reader_may_go_back_before_what_is_loaded(reader_of: Opened) -> None:
    reader = reader_of(b"--" + entry("b") + b"-" * 9000)
    assert reader.path_at(2) == "b"
    assert reader.path_at(0) == "--b"


# ---- content ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [DEFLATED, FRAME], ids=["zlib", "lz4"])
def test_content_ends_before_the_next_entry_and_with_the_package(reader_of: Opened, stream: bytes) -> None:
    package = entry("a", stream) + FILE_SEP + entry("b", stream)
    reader = reader_of(package)
    for path, end, more in [("a", package.index(b"b" + PATH_SEP), True), ("b", len(package), False)]:
        assert reader.expects_entry
        assert reader.read_path() == path
        assert b"".join(reader.content(path, GIB)) == b"content"
        assert (reader.position, reader.expects_entry) == (end, more)


@pytest.mark.parametrize("stream", [DEFLATED, FRAME], ids=["zlib", "lz4"])
@pytest.mark.parametrize("behind", [b"", FILE_SEP])
def test_content_that_is_cut_short_is_refused(reader_of: Opened, stream: bytes, behind: bytes) -> None:
    reader = reader_of(entry("a", stream[:-1]) + behind)
    reader.read_path()
    with pytest.raises(MalformedPackage):
        b"".join(reader.content("a", GIB))


@pytest.mark.parametrize(
    ("stream", "why"), [(b"neither", "incorrect header check"), (FRAME[:4] + b"x" * 50, "LZ4F_")], ids=["zlib", "lz4"]
)
def test_damaged_stream_is_refused_with_what_the_library_says(reader_of: Opened, stream: bytes, why: str) -> None:
    reader = reader_of(entry("a", stream) + FILE_SEP + entry("b"))
    reader.read_path()
    with pytest.raises(MalformedPackage, match=why):
        b"".join(reader.content("a", GIB))


def test_content_that_ends_with_the_package_is_cut_short(reader_of: Opened) -> None:
    reader = reader_of(entry("a", zlib.compress(noise(3 * FEED_BYTES), 0)[:-1]))
    reader.read_path()
    with pytest.raises(MalformedPackage, match="is cut short"):
        b"".join(reader.content("a", GIB))


@pytest.mark.parametrize("stream", [DEFLATED, FRAME], ids=["zlib", "lz4"])
def test_bytes_behind_the_end_of_content_are_refused(reader_of: Opened, stream: bytes) -> None:
    reader = reader_of(entry("a", stream + b"x") + FILE_SEP + entry("b"))
    reader.read_path()
    with pytest.raises(MalformedPackage, match="bytes behind its end"):
        b"".join(reader.content("a", GIB))


@pytest.mark.parametrize("size", [7, 3 * CHUNK_BYTES + 1])
@pytest.mark.parametrize("pack", [zlib.compress, lz4.frame.compress], ids=["zlib", "lz4"])
def test_content_may_have_as_many_bytes_as_the_limit(reader_of: Opened, size: int, pack: object) -> None:
    assert callable(pack)
    package = entry("a", pack(bytes(size)))
    reader = reader_of(package)
    reader.read_path()
    pieces = list(reader.content("a", size))
    assert (sum(map(len, pieces)), max(map(len, pieces)) <= CHUNK_BYTES, b"" in pieces) == (size, True, False)
    reader = reader_of(package)
    reader.read_path()
    with pytest.raises(PackageTooLarge, match=f"more than {size - 1} bytes"):
        b"".join(reader.content("a", size - 1))


def test_stream_is_read_across_windows(reader_of: Opened) -> None:
    data = noise(2 * WINDOW_BYTES)
    reader = reader_of(entry("a", zlib.compress(data, 0)) + FILE_SEP + entry("b"))
    reader.read_path()
    assert b"".join(reader.content("a", GIB)) == data
    assert reader.read_path() == "b"


# ---- small content ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [DEFLATED, FRAME], ids=["zlib", "lz4"])
def test_small_content_moves_to_the_next_entry(reader_of: Opened, stream: bytes) -> None:
    package = entry("a", stream) + FILE_SEP + entry("b")
    reader = reader_of(package)
    reader.read_path()
    assert reader.small_content(len(b"content")) == b"content"
    assert reader.position == package.index(b"b" + PATH_SEP)


@pytest.mark.parametrize(
    ("stream", "limit"),
    [
        (DEFLATED, 6),
        (FRAME, 6),
        (DEFLATED[:-1], GIB),
        (FRAME[:-1], GIB),
        (DEFLATED + b"x", GIB),
        (FRAME + b"x", GIB),
        (b"", GIB),
        (DEFLATED[:2] + b"\xff" * 9, GIB),
        (FRAME[:4] + b"\xff" * 19, GIB),
        (zlib.compress(noise(FEED_BYTES), 0), GIB),
        (zlib.compress(bytes(CHUNK_BYTES + 1)), GIB),
        (lz4.frame.compress(bytes(CHUNK_BYTES + 1)), GIB),
    ],
)
def test_what_is_no_small_content_moves_nothing(reader_of: Opened, stream: bytes, limit: int) -> None:
    """Above the limit, cut, with bytes behind, without any, damaged, longer than what is fed, or than a chunk."""
    reader = reader_of(entry("a", stream) + FILE_SEP + entry("b", FRAME) + FILE_SEP + entry("c"))
    reader.read_path()
    before = reader.position
    assert reader.small_content(limit) is None
    assert reader.position == before
    reader.position = before + len(stream) + len(FILE_SEP)
    assert reader.read_path() == "b"
    assert reader.small_content(GIB) == b"content"


@pytest.mark.parametrize("stream", [DEFLATED, FRAME], ids=["zlib", "lz4"])
def test_small_content_needs_the_separator_behind_it(reader_of: Opened, stream: bytes) -> None:
    reader = reader_of(entry("a", stream + b"x"))
    reader.read_path()
    before = reader.position
    assert reader.small_content(GIB) is None
    assert reader.position == before


def test_content_of_a_whole_chunk_is_small_and_the_last_entry_is_not(reader_of: Opened) -> None:
    reader = reader_of(entry("a", zlib.compress(bytes(CHUNK_BYTES))) + FILE_SEP + entry("b"))
    reader.read_path()
    assert reader.small_content(CHUNK_BYTES) == bytes(CHUNK_BYTES)
    reader.read_path()
    assert reader.small_content(GIB) is None


# ---- separators ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "at",
    [
        0,
        1,
        5,
        WINDOW_BYTES - len(FILE_SEP),
        WINDOW_BYTES - len(FILE_SEP) + 1,
        WINDOW_BYTES - 3,
        WINDOW_BYTES - 1,
        WINDOW_BYTES,
        WINDOW_BYTES + 9,
    ],
)
def test_separator_is_found_wherever_it_lies_and_only_within_its_bounds(reader_of: Opened, at: int) -> None:
    package = b"-" * at + FILE_SEP + b"-" * 20
    reader = reader_of(package)
    assert list(reader.separators(0, len(package))) == [at]
    assert list(reader.separators(at, at + 1)) == [at]
    assert list(reader.separators(at + 1, len(package))) == []
    assert list(reader.separators(0, at)) == []


def test_separators_that_overlap_are_all_found(reader_of: Opened) -> None:
    overlapping = FILE_SEP + FILE_SEP[1:]
    found = list(reader_of(b"--" + overlapping + b"--").separators(0, 4 + len(overlapping)))
    assert found == [2, 2 + len(FILE_SEP) - 1]


def test_separator_at_the_end_of_the_package_is_found(reader_of: Opened) -> None:
    package = b"-" * WINDOW_BYTES + FILE_SEP
    assert list(reader_of(package).separators(0, len(package))) == [WINDOW_BYTES]
    assert list(reader_of(b"").separators(0, 0)) == []


# ---- metadata --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [10, WINDOW_BYTES - 20, WINDOW_BYTES, 2 * WINDOW_BYTES + 5])
def test_metadata_are_found_from_the_end(reader_of: Opened, size: int) -> None:
    """Entries behind them are longer and longer, so that their mark falls on the edges of what is read at once."""
    first = entry("a") + FILE_SEP + entry(METADATA_NAME) + FILE_SEP
    package = first + entry(METADATA_NAME, noise(size))
    assert reader_of(package).find_metadata() == len(first)


def test_metadata_of_many_pieces_behind_a_large_entry_are_read_whole(reader_of: Opened) -> None:
    data = noise(2 * CHUNK_BYTES + 3)
    before = entry("a", noise(3 * WINDOW_BYTES)) + FILE_SEP
    assert read_metadata(reader_of(before + entry(METADATA_NAME, zlib.compress(data, 0)))) == data
    assert reader_of(before + entry(METADATA_NAME)).find_metadata() == len(before)


def test_a_large_package_is_never_held_whole(reader_of: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = reader_of(entry("a", noise(4 * WINDOW_BYTES)))
    asked: list[int] = []
    real = os.pread

    def pread(fd: int, size: int, at: int) -> bytes:
        asked.append(size)
        return real(fd, size, at)

    monkeypatch.setattr(os, "pread", pread)
    with pytest.raises(MalformedPackage):
        reader.find_metadata()
    assert list(reader.separators(0, reader.size)) == []
    assert 0 < max(asked) < WINDOW_BYTES + 100


def test_metadata_may_be_the_only_entry_and_must_be_the_last(reader_of: Opened) -> None:
    alone = entry(METADATA_NAME)
    assert reader_of(alone).find_metadata() == 0
    assert read_metadata(reader_of(alone)) == b"content"
    before = open_descriptors()
    assert read_metadata_of(str(reader_of.path)) == b"content"
    assert open_descriptors() == before
    behind = reader_of(entry("a") + FILE_SEP + alone)
    assert read_metadata(behind, len(b"content")) == b"content"
    with pytest.raises(PackageTooLarge):
        read_metadata(reader_of(alone), len(b"content") - 1)
    with pytest.raises(MalformedPackage, match="is not the last entry"):
        read_metadata(reader_of(alone + FILE_SEP + entry("a")))


@pytest.mark.parametrize(
    "package",
    [
        b"",
        entry("a"),
        entry("a") + FILE_SEP + entry("b"),
        METADATA_NAME.encode(),
        entry("a") + FILE_SEP + entry(METADATA_NAME + "2"),
    ],
)
def test_package_without_metadata_is_refused(reader_of: Opened, package: bytes) -> None:
    with pytest.raises(MalformedPackage, match=f"holds no {METADATA_NAME}"):
        reader_of(package).find_metadata()
