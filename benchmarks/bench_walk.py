"""A scan of a tree: every digest anew, and again with nothing changed. In one process, as one shard."""

import time
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.conftest import FILES
from clusterd.settings import DEFAULT_RULES
from hashing.digest_cache import NO_ROWS
from hashing.walk import scan_shard

SETTLED_NS = 10 * 10**9
"""Files count as settled this long after they were written: a scan that says it begins then may take digests over."""


@pytest.mark.benchmark(group="scan of 5,000 files")
def test_every_digest_anew(benchmark: BenchmarkFixture, tree: Path) -> None:
    found = benchmark(scan_shard, str(tree), DEFAULT_RULES, 0, 1)
    assert found.hashed == found.files == FILES


@pytest.mark.benchmark(group="scan of 5,000 files")
def test_nothing_changed(benchmark: BenchmarkFixture, tree: Path) -> None:
    later = time.time_ns() + SETTLED_NS
    known = scan_shard(str(tree), DEFAULT_RULES, 0, 1, NO_ROWS, started_ns=later).rows
    found = benchmark(scan_shard, str(tree), DEFAULT_RULES, 0, 1, known, started_ns=later)
    assert (found.hashed, found.reused) == (0, FILES)
