"""Whatever its content, clusterd and a stock node read the same from a package of clusterd's."""

import tempfile
import zlib
from random import Random

import lz4.frame
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hashing.errors import HashingError
from hashing.frames import MAGIC
from hashing.merged import parse_merged
from hashing.package import FILE_SEP, PATH_SEP, PackageReader, compress_entry, path_fits
from tests.hashing.packages import build_merged, iter_entries, split_as_stock
from tests.sizes import examples

PIECES = st.sampled_from(
    [FILE_SEP, PATH_SEP, FILE_SEP[:4], FILE_SEP[4:], FILE_SEP[:7], b"\x00\x83\x00", b"\x7c", bytes(40), b"x\x01"]
)
CONTENT = st.lists(PIECES | st.binary(max_size=60), max_size=40).map(b"".join)
PATHS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30).filter(
    lambda path: path_fits(path.encode())
)


def read(package: bytes) -> list[tuple[str, bytes]]:
    with tempfile.TemporaryFile() as file:
        file.write(package)
        file.flush()
        return [(path, b"".join(pieces)) for path, pieces in iter_entries(file.fileno(), len(package), 1 << 24)]


@pytest.mark.slow
@settings(max_examples=examples(150), deadline=None)
@given(st.lists(st.tuples(PATHS, CONTENT), min_size=1, max_size=5), st.integers(0, 9), st.integers(1, 300))
def test_what_is_written_is_read_the_same_by_a_stock_node(
    entries: list[tuple[str, bytes]], level: int, chunk: int
) -> None:
    package = bytearray()
    for number, (path, data) in enumerate(entries):
        package += FILE_SEP if number else b""
        compress_entry(path, (data[at : at + chunk] for at in range(0, len(data), chunk)), level, package.extend)
    assert split_as_stock(bytes(package)) == entries
    assert read(bytes(package)) == entries


ENDS = st.sampled_from([FILE_SEP[:6], FILE_SEP[:7], FILE_SEP[:4], b""])
HOSTILE = st.tuples(st.lists(PIECES | st.binary(max_size=400), max_size=60).map(b"".join), ENDS).map(b"".join)


@pytest.mark.slow
@settings(max_examples=examples(150), deadline=None)
@given(st.lists(st.tuples(PATHS, HOSTILE), min_size=1, max_size=5), st.integers(1, 3000))
def test_lz4_frames_hold_no_separator_whatever_is_in_the_files(entries: list[tuple[str, bytes]], chunk: int) -> None:
    package = bytearray()
    for number, (path, data) in enumerate(entries):
        package += FILE_SEP if number else b""
        pieces = (data[at : at + chunk] for at in range(0, len(data), chunk))
        raw, _ = compress_entry(path, pieces, 1, package.extend, "lz4")
        assert raw == len(data)
    parts = [part.split(PATH_SEP, 1) for part in bytes(package).split(FILE_SEP)]
    assert [(path.decode(), lz4.frame.decompress(frame)) for path, frame in parts] == entries
    assert read(bytes(package)) == entries


@settings(max_examples=examples(60), deadline=None)
@given(st.integers(0, 1 << 32), st.integers(0x7B00, 0x7D00) | st.integers(0x70, 0x80) | st.just(0x7C40))
def test_no_length_of_a_block_completes_a_separator(seed: int, length: int) -> None:
    """The data end as a separator begins, and the length of the next block could be its end."""
    random = Random(seed)
    for cut in (6, 7):
        data = random.randbytes(4000) + FILE_SEP[:cut]
        following = random.randbytes(length)
        package = bytearray()
        compress_entry("a", [data, FILE_SEP + data, following, FILE_SEP * 3], 1, package.extend, "lz4")
        assert FILE_SEP not in package
        assert read(bytes(package)) == [("a", data + FILE_SEP + data + following + FILE_SEP * 3)]


@pytest.mark.slow
@settings(max_examples=examples(150), deadline=None)
@given(st.lists(st.tuples(PATHS, CONTENT), min_size=1, max_size=5), st.integers(0, 9))
def test_what_a_stock_node_writes_is_read_whatever_its_data_hold(entries: list[tuple[str, bytes]], level: int) -> None:
    package = FILE_SEP.join(path.encode() + PATH_SEP + zlib.compress(data, level) for path, data in entries)
    assert read(package) == entries


FRAMES = st.builds(lambda path, data: path.encode() + PATH_SEP + MAGIC + data, PATHS, st.binary(max_size=200))


@pytest.mark.slow
@settings(max_examples=examples(150), deadline=None)
@given(CONTENT | st.binary(max_size=300) | FRAMES)
def test_any_bytes_are_a_package_or_refused(package: bytes) -> None:
    try:
        entries = read(package)
    except HashingError:
        return
    assert entries


@pytest.mark.slow
@settings(max_examples=examples(150), deadline=None)
@given(
    st.lists(
        st.binary(max_size=60) | PIECES | CONTENT.map(lz4.frame.compress) | CONTENT.map(zlib.compress), max_size=4
    ),
    st.integers(0, 100),
)
def test_what_is_read_at_once_is_what_is_read_in_pieces(pieces: list[bytes], limit: int) -> None:
    """The result does not depend on what the same reader read before, or on what follows."""
    package = FILE_SEP.join(b"a" + PATH_SEP + piece for piece in pieces) + FILE_SEP
    with tempfile.TemporaryFile() as file:
        file.write(package)
        file.flush()
        reader = PackageReader(file.fileno(), len(package))
        for start in [0, *(at + len(FILE_SEP) for at in reader.separators(0, len(package)))]:
            if reader.path_at(start) is None:
                continue
            reader.position = start
            path = reader.read_path()
            before = reader.position
            data = reader.small_content(limit)
            after, reader.position = reader.position, before
            if data is None:
                assert after == before
            else:
                assert b"".join(reader.content(path, limit)) == data
                assert reader.position == after


@settings(max_examples=examples(100), deadline=None)
@given(CONTENT | st.binary(max_size=300))
def test_any_bytes_split_as_a_merged_file_give_only_plain_names(data: bytes) -> None:
    merged = parse_merged(data)
    for part in merged.parts:
        assert "/" not in part.name
        assert part.name not in ("", ".", "..")
        assert part.data in data


NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/ \n\0"), min_size=1, max_size=20).filter(
    lambda name: name not in (".", "..") and len(name.encode()) <= 255 and not name.startswith(".clusterd-")
)


@pytest.mark.slow
@given(st.lists(st.tuples(NAMES, st.integers(0, 4 * 10**18), CONTENT), max_size=6))
def test_merged_file_splits_into_what_it_was_built_from(files: list[tuple[str, int, bytes]]) -> None:
    merged = parse_merged(build_merged(files))
    assert [(part.name, part.data) for part in merged.parts] == [(name, data) for name, _, data in files]
    assert not merged.malformed
    assert not merged.refused
