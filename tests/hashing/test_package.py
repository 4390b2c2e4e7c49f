"""The package format: no package that clusterd writes can be cut in a wrong place, and it reads every package of a
stock node."""

import base64
import io
import json
import random
import tempfile
import tracemalloc
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import lz4.frame
import pytest

from hashing.errors import MalformedPackage, PackageTooLarge
from hashing.metadata_json import parse_wire_difference, parse_wire_metadata
from hashing.package import (
    CHUNK_BYTES,
    FILE_SEP,
    LZ4,
    METADATA_NAME,
    PATH_SEP,
    PackageReader,
    compress_entry,
    path_fits,
    read_metadata_of,
)
from tests.hashing.packages import build_as_stock, iter_entries, split_as_stock

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors" / "package.json").read_text())


def chunks_of(data: bytes, size: int = CHUNK_BYTES) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def build(entries: Iterable[tuple[str, bytes]], level: int = 1, size: int = CHUNK_BYTES) -> bytes:
    out = io.BytesIO()
    for number, (path, data) in enumerate(entries):
        if number:
            out.write(FILE_SEP)
        start = out.tell()
        assert compress_entry(path, chunks_of(data, size), level, out.write) == (len(data), out.tell() - start)
    return out.getvalue()


def read(package: bytes, limit: int = 1 << 40) -> list[tuple[str, bytes]]:
    with tempfile.TemporaryFile() as file:
        file.write(package)
        file.flush()
        return [(path, b"".join(pieces)) for path, pieces in iter_entries(file.fileno(), len(package), limit)]


def with_separators(data: bytes, count: int, seed: int = 5) -> bytes:
    rng = random.Random(seed)
    changed = bytearray(data)
    for _ in range(count):
        at = rng.randrange(len(data) - len(FILE_SEP))
        changed[at : at + len(FILE_SEP)] = FILE_SEP
    return bytes(changed)


@pytest.mark.parametrize("vector", VECTORS["packages"], ids=lambda vector: str(vector["name"]))
def test_recorded_package_reads_as_recorded(vector: dict[str, Any]) -> None:
    entries = [(entry["path"], base64.b64decode(entry["content_b64"])) for entry in vector["entries"]]
    assert read(base64.b64decode(vector["package_b64"])) == entries


@pytest.mark.parametrize("vector", VECTORS["packages"], ids=lambda vector: str(vector["name"]))
def test_recorded_entries_written_by_us_read_the_same_for_a_stock_node(vector: dict[str, Any]) -> None:
    entries = [(entry["path"], base64.b64decode(entry["content_b64"])) for entry in vector["entries"]]
    package = build(entries)
    assert split_as_stock(package) == entries
    assert not package.endswith(FILE_SEP)


def test_separator_inside_a_stored_block_is_read_as_data() -> None:
    vector = next(vector for vector in VECTORS["broken"] if vector["name"] == "separator_inside_stored_block")
    [(path, data), (last, _)] = read(base64.b64decode(vector["package_b64"]))
    assert (path, last) == ("etc/lists/x", METADATA_NAME)
    assert FILE_SEP in data


BROKEN = [vector for vector in VECTORS["broken"] if vector["name"] != "separator_inside_stored_block"]


@pytest.mark.parametrize("vector", BROKEN, ids=lambda vector: str(vector["name"]))
@pytest.mark.parametrize("parse", [parse_wire_metadata, parse_wire_difference], ids=["of a worker", "of a master"])
def test_recorded_broken_package_is_refused(
    vector: dict[str, Any], parse: Callable[[bytes], object], tmp_path: Path
) -> None:
    package = tmp_path / "package"
    package.write_bytes(base64.b64decode(vector["package_b64"]))
    with pytest.raises(MalformedPackage):
        parse(read_metadata_of(str(package)))


@pytest.mark.parametrize("level", [0, 1, 9])
@pytest.mark.parametrize("size", [20, 9000, 100_000, 300_000, CHUNK_BYTES + 7])
def test_no_separator_survives_in_what_is_written(level: int, size: int) -> None:
    """zlib stores incompressible bytes unchanged: a separator among them would cut the package (C5)."""
    noise = random.Random(size).randbytes(size)
    contents = [noise, with_separators(noise, 20), FILE_SEP * (size // 8), bytes(size), noise + FILE_SEP[:-1]]
    entries = [(f"etc/lists/{number}", data) for number, data in enumerate(contents)]
    package = build(entries, level)
    assert package.count(FILE_SEP) == len(entries) - 1
    assert split_as_stock(package) == entries
    assert read(package) == entries


def test_no_separator_forms_at_the_end_of_a_stream() -> None:
    """A stream that ends with `|@@//@@` and the separator after it form a separator seven bytes too early."""
    # Given a file whose check sum is the end of such a tail, and whose last bytes are its beginning.
    tail = FILE_SEP[:-1]
    body = content_with_checksum(tail[-4:], ending=tail[:-4])
    naive = build_as_stock([("etc/lists/a", body), ("etc/lists/b", b"b")], 0)
    with pytest.raises((ValueError, zlib.error)):
        split_as_stock(naive)
    # Then a stock node still cuts clusterd's package where the entry ends, and clusterd reads both.
    package = build([("etc/lists/a", body), ("etc/lists/b", b"b")], level=0)
    assert split_as_stock(package) == read(package) == read(naive) == [("etc/lists/a", body), ("etc/lists/b", b"b")]


def content_with_checksum(wanted: bytes, ending: bytes) -> bytes:
    """Returns bytes that end with `ending` and have this Adler-32. Its low half is the sum of the bytes, its high half
    the sum of the bytes times their distance from the end: so the function puts the sum near the end, then moves units
    of it away."""
    length = 1200
    high, low = int.from_bytes(wanted[:2], "big"), int.from_bytes(wanted[2:], "big")
    values = [0] * length
    left = (low - (zlib.adler32(bytes(length) + ending) & 0xFFFF)) % 65521
    for position in reversed(range(length)):
        values[position] = min(255, left)
        left -= values[position]
    shift = (high - (zlib.adler32(bytes(values) + ending) >> 16)) % 65521
    step = next(step for step in range(900, 1100) if shift % step > 300)
    for distance in [step] * (shift // step) + [shift % step]:
        values[-1] -= 1
        values[-1 - distance] += 1
    body = bytes(values) + ending
    assert zlib.adler32(body).to_bytes(4, "big") == wanted
    return body


@pytest.mark.parametrize(
    "path", ["", "a" + FILE_SEP.decode(), PATH_SEP.decode() + "a", "a|//@@//", "a|@@//@@", "x" * 4097]
)
def test_path_that_would_be_cut_elsewhere_is_refused(path: str) -> None:
    assert not path_fits(path.encode())
    with pytest.raises(MalformedPackage):
        build([(path, b"")])


def test_level_of_the_settings_is_used() -> None:
    text = b"".join(b"%d words of text, " % number for number in range(3000))
    assert len(build([("a", text)], 9)) < len(build([("a", text)], 1)) < len(build([("a", text)], 0))


def test_large_incompressible_file_is_not_compressed() -> None:
    noise = random.Random(2).randbytes(4 * CHUNK_BYTES)
    package = build([("a", noise)])
    assert noise[:30000] in package
    assert len(package) < len(noise) * 1.001


@pytest.mark.slow
def test_writing_and_reading_need_little_memory_whatever_the_size(tmp_path: Path) -> None:
    """Given 96 chunks, half noise and half zeros."""
    rng = random.Random(1)
    path = tmp_path / "package"

    def content() -> Iterator[bytes]:
        for number in range(96):
            yield rng.randbytes(CHUNK_BYTES) if number % 2 else bytes(CHUNK_BYTES)

    tracemalloc.start()
    try:
        with path.open("wb") as file:
            compress_entry("etc/lists/large", content(), 1, file.write)
        with path.open("rb") as package:
            total = sum(
                len(piece)
                for _, pieces in iter_entries(package.fileno(), path.stat().st_size, 1 << 40)
                for piece in pieces
            )
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert total == 96 * CHUNK_BYTES
    assert peak < 10 * 1024 * 1024


def test_bomb_is_stopped_at_the_bound_and_yields_small_pieces() -> None:
    bomb = build_as_stock([("etc/lists/bomb", bytes(64 * CHUNK_BYTES))], 9)
    sizes: list[int] = []
    with tempfile.TemporaryFile() as file:
        file.write(bomb)
        file.flush()
        reader = PackageReader(file.fileno(), len(bomb))
        pieces = reader.content(reader.read_path(), 10 * CHUNK_BYTES)
        with pytest.raises(PackageTooLarge):
            sizes.extend(map(len, pieces))
    assert max(sizes) <= CHUNK_BYTES
    assert sum(sizes) <= 10 * CHUNK_BYTES


@pytest.mark.parametrize(
    "package",
    [
        b"",
        b"etc/a",
        PATH_SEP,
        b"\xff" + PATH_SEP + zlib.compress(b""),
        b"a" + PATH_SEP,
        b"a" + PATH_SEP + b"no stream",
        b"a" + PATH_SEP + zlib.compress(b"a") + FILE_SEP,
        b"a" + PATH_SEP + zlib.compress(b"a") + b"more" + FILE_SEP + b"b" + PATH_SEP + zlib.compress(b"b"),
        b"x" * 5000 + PATH_SEP + zlib.compress(b""),
    ],
)
def test_bytes_that_are_no_package_are_refused(package: bytes) -> None:
    with pytest.raises(MalformedPackage):
        read(package)


@pytest.mark.slow
def test_entries_at_every_place_of_the_reading_window_are_found() -> None:
    """Separators, paths and streams fall on every boundary of the window once."""
    rng = random.Random(8)
    entries = [
        (f"etc/lists/{'d' * rng.randrange(200)}/{number}", rng.randbytes(rng.randrange(6000))) for number in range(800)
    ]
    package = build(entries)
    assert read(package) == entries
    with tempfile.TemporaryFile() as file:
        file.write(package)
        file.flush()
        positions = list(PackageReader(file.fileno(), len(package)).separators(0, len(package)))
    assert positions == [at for at in range(len(package)) if package[at : at + 8] == FILE_SEP]
    assert len(positions) == 799


def test_metadata_is_the_last_entry_even_if_its_name_is_inside_another(tmp_path: Path) -> None:
    mark = FILE_SEP + METADATA_NAME.encode() + PATH_SEP + zlib.compress(b"false")
    package = build_as_stock([("etc/lists/a", mark + b"more"), (METADATA_NAME, b"{}")], 0)
    (tmp_path / "package").write_bytes(package)
    assert read_metadata_of(str(tmp_path / "package")) == b"{}"


@pytest.mark.parametrize("behind", [FILE_SEP, b"more", FILE_SEP + b"a" + PATH_SEP + zlib.compress(b"a")])
def test_metadata_that_is_not_last_is_refused(tmp_path: Path, behind: bytes) -> None:
    (tmp_path / "package").write_bytes(build([(METADATA_NAME, b"{}")]) + behind)
    with pytest.raises(MalformedPackage):
        read_metadata_of(str(tmp_path / "package"))


def test_metadata_above_the_bound_is_refused(tmp_path: Path) -> None:
    (tmp_path / "package").write_bytes(build([(METADATA_NAME, bytes(1000))]))
    with pytest.raises(PackageTooLarge):
        read_metadata_of(str(tmp_path / "package"), 999)


# ---- LZ4 frames ------------------------------------------------------------------------------------------------------


def entry_of(frame: bytes) -> bytes:
    return b"a" + PATH_SEP + frame


def test_lz4_frame_that_expands_beyond_the_limit_is_refused_in_bounded_memory(tmp_path: Path) -> None:
    bomb = entry_of(lz4.frame.compress(bytes(300_000_000)))
    assert len(bomb) < 2_000_000
    path = tmp_path / "bomb"
    path.write_bytes(bomb)
    tracemalloc.start()
    try:
        with path.open("rb") as file, pytest.raises(PackageTooLarge):
            largest_piece(file.fileno(), len(bomb), 200_000_000)
        assert tracemalloc.get_traced_memory()[1] < 16_000_000
    finally:
        tracemalloc.stop()


def largest_piece(fd: int, size: int, limit: int) -> int:
    """Returns the totals of the whole package, read without keeping anything."""
    return max(len(piece) for _, pieces in iter_entries(fd, size, limit) for piece in pieces)


@pytest.mark.parametrize("damage", [lambda frame: frame[:-1], lambda frame: frame[:20], lambda frame: frame + b"x"])
def test_lz4_frame_that_is_cut_or_followed_by_bytes_is_refused(damage: Callable[[bytes], bytes]) -> None:
    out = bytearray()
    compress_entry("a", [b"0123456789" * 50], 1, out.extend, LZ4)
    with pytest.raises(MalformedPackage):
        read(damage(bytes(out)))


@pytest.mark.parametrize("size", [0, 1, 9000, CHUNK_BYTES, 2 * CHUNK_BYTES + 7])
def test_lz4_entry_reads_back_and_says_how_many_bytes_it_has(size: int) -> None:
    for data in (bytes(size), random.Random(size).randbytes(size)):
        out = io.BytesIO()
        said = compress_entry("etc/lists/a", chunks_of(data), 1, out.write, LZ4)
        assert said == (size, out.tell())
        assert FILE_SEP not in out.getvalue()
        assert read(out.getvalue()) == [("etc/lists/a", data)]


def test_lz4_frames_are_smaller_than_text_and_hardly_larger_than_noise() -> None:
    text, noise = b"<rule id='100001'>some text</rule>\n" * 40_000, random.Random(1).randbytes(1_000_000)
    for data, most in ((text, len(text) // 20), (noise, len(noise) + 100)):
        out = bytearray()
        compress_entry(
            "a", [data[at : at + CHUNK_BYTES] for at in range(0, len(data), CHUNK_BYTES)], 1, out.extend, LZ4
        )
        assert len(out) < most
