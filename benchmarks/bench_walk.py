"""A scan of a tree: every digest anew, and again with nothing changed. In one process, as one shard. Beside their
limits: reading and hashing a list of paths, and `os.stat` of it; neither looks for files."""

import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.conftest import FILES
from clusterd.settings import DEFAULT_RULES
from hashing.digest_cache import NO_ROWS
from hashing.walk import scan_shard
from tools.rig.workload import paths

SETTLED_NS = 10 * 10**9
"""How long after they were written files count as settled: a scan that claims to begin later may reuse digests."""


@pytest.mark.benchmark(group="first scan of 5,000 files")
def test_every_digest_anew(benchmark: BenchmarkFixture, tree: Path) -> None:
    found = benchmark(scan_shard, str(tree), DEFAULT_RULES, 0, 1)
    assert found.hashed == found.files == FILES


@pytest.mark.benchmark(group="repeat scan of 5,000 files")
def test_nothing_changed(benchmark: BenchmarkFixture, tree: Path) -> None:
    later = time.time_ns() + SETTLED_NS
    known = scan_shard(str(tree), DEFAULT_RULES, 0, 1, NO_ROWS, started_ns=later).rows
    found = benchmark(scan_shard, str(tree), DEFAULT_RULES, 0, 1, known, started_ns=later)
    assert (found.hashed, found.reused) == (0, FILES)


Places = list[tuple[int, str]]


@pytest.fixture
def places(tree: Path) -> Iterator[Places]:
    """Opens each file by the descriptor of its directory and its name, so that the kernel need not walk a path."""
    opened: dict[str, int] = {}
    found = []
    for path in paths(tree):
        directory, name = os.path.split(tree / path)
        if directory not in opened:
            opened[directory] = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        found.append((opened[directory], name))
    yield found
    for fd in opened.values():
        os.close(fd)


@pytest.mark.benchmark(group="first scan of 5,000 files")
def test_limit_read_and_hash(benchmark: BenchmarkFixture, places: Places) -> None:
    buffer = bytearray(1 << 20)
    view = memoryview(buffer)

    def digest() -> int:
        done = 0
        for directory, name in places:
            fd = os.open(name, os.O_RDONLY, dir_fd=directory)
            hashlib.blake2b(view[: os.readv(fd, [buffer])]).digest()
            os.close(fd)
            done += 1
        return done

    assert benchmark(digest) == FILES


@pytest.mark.benchmark(group="repeat scan of 5,000 files")
def test_limit_stat(benchmark: BenchmarkFixture, places: Places) -> None:
    assert len(benchmark(lambda: [os.stat(name, dir_fd=directory) for directory, name in places])) == FILES
