"""A package of every file of a tree, as one part in one process, compared with its limit: zlib over bytes that are in
memory."""

import zlib
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.conftest import FILES
from clusterd.settings import DEFAULT_RULES
from hashing.atomic import FileOps
from hashing.compare import Difference, save_difference
from hashing.digest_cache import file_rows
from hashing.manifest import FileMeta
from hashing.pack import FinishedPackage, finish_package, pack_part
from hashing.walk import scan_shard

LEVEL = 1
LIMIT = 1 << 30


@pytest.fixture(scope="module")
def rows(tree: Path) -> list[FileMeta]:
    return list(file_rows(scan_shard(str(tree), DEFAULT_RULES, 0, 1).rows))


def _step() -> None:
    """A heartbeat that is not read."""


@pytest.mark.benchmark(group="package of 5,000 files")
def test_pack_and_finish(benchmark: BenchmarkFixture, tree: Path, rows: list[FileMeta], tmp_path: Path) -> None:
    difference, part, metadata = (str(tmp_path / name) for name in ("difference", "part", "metadata"))
    save_difference(FileOps(), difference, Difference(rows, [], []))

    def pack() -> FinishedPackage:
        packed = pack_part(str(tree), difference, 0, len(rows), LIMIT, LEVEL, part, False, _step)
        assert len(packed.entries) == FILES
        return finish_package(difference, [packed], LIMIT, LEVEL, metadata, _step)

    finished = benchmark(pack)
    assert sum(segment.length for segment in finished.segments) > Path(part).stat().st_size


@pytest.mark.benchmark(group="package of 5,000 files")
def test_limit_zlib_alone(benchmark: BenchmarkFixture, tree: Path, rows: list[FileMeta]) -> None:
    contents = [(tree / row.path).read_bytes() for row in rows]
    assert benchmark(lambda: sum(len(zlib.compress(data, LEVEL)) for data in contents)) > 0
