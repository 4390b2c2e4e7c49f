"""A package of every file of a tree verified and written beside its targets, and put in place; in one process. Beside
its limit: zlib over bytes that are in memory, and the same content written to new files in one directory after the
other."""

import os
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.conftest import FILES
from clusterd.settings import DEFAULT_RULES
from hashing.compare import Difference
from hashing.digest_cache import file_rows
from hashing.walk import scan_shard
from tests.hashing.packages import Receiver, joined, pack

ROUNDS = 5
Contents = list[tuple[str, bytes]]


@pytest.fixture(scope="module")
def package(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    rows = sorted(file_rows(scan_shard(str(tree), DEFAULT_RULES, 0, 1).rows), key=lambda row: row.path)
    _, finished = pack(tree, tmp_path_factory.mktemp("spool"), Difference(rows, [], []))
    return joined(finished)


@pytest.fixture(scope="module")
def contents(tree: Path) -> Contents:
    rows = file_rows(scan_shard(str(tree), DEFAULT_RULES, 0, 1).rows)
    return [(row.path, (tree / row.path).read_bytes()) for row in rows]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    shutil.rmtree(tmp_path / "root", ignore_errors=True)


@pytest.mark.benchmark(group="unpack 5,000 files")
def test_unpack(benchmark: BenchmarkFixture, package: bytes, place: Path) -> None:
    done: list[int] = []

    def fresh() -> tuple[tuple[Receiver], dict[str, object]]:
        shutil.rmtree(place / "root", ignore_errors=True)
        return (Receiver(place / "root", place, package),), {}

    def unpack(receiver: Receiver) -> None:
        ranges = receiver.open().ranges
        done.append(sum(len(receiver.unpack(number).written) for number in range(ranges)))

    benchmark.pedantic(unpack, setup=fresh, rounds=ROUNDS)
    assert set(done) == {FILES}


@pytest.mark.benchmark(group="unpack 5,000 files")
def test_limit_zlib_and_writing_alone(benchmark: BenchmarkFixture, contents: Contents, place: Path) -> None:
    streams = [(place / "root" / path, zlib.compress(data, 1)) for path, data in contents]

    def fresh() -> None:
        shutil.rmtree(place / "root", ignore_errors=True)
        for directory in {path.parent for path, _ in streams}:
            directory.mkdir(parents=True, exist_ok=True)

    def write() -> None:
        for path, stream in streams:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            os.write(fd, zlib.decompress(stream))
            os.close(fd)

    benchmark.pedantic(write, setup=fresh, rounds=ROUNDS)
    assert sum(path.stat().st_size for path, _ in streams) == sum(len(data) for _, data in contents)
