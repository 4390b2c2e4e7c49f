"""A worker's metadata compared with our manifest: parsed and compared; also by digest of buckets. Compared with their
limits: the JSON parser of the standard library, and a bare lookup of every path."""

import json
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from clusterd.settings import DEFAULT_RULES
from hashing.compare import compare
from hashing.digest_cache import file_rows
from hashing.manifest import Manifest, bucket_digests, build_manifest, content_digest
from hashing.metadata_json import parse_wire_metadata, to_wire
from hashing.walk import scan_shard


@pytest.fixture(scope="module")
def manifest(tree: Path) -> Manifest:
    return build_manifest(file_rows(scan_shard(str(tree), DEFAULT_RULES, 0, 1).rows))


@pytest.mark.benchmark(group="metadata of 5,000 files parsed")
def test_parse(benchmark: BenchmarkFixture, manifest: Manifest) -> None:
    data = to_wire(manifest.rows)
    assert len(benchmark(parse_wire_metadata, data)) == len(manifest.rows)


@pytest.mark.benchmark(group="metadata of 5,000 files parsed")
def test_limit_json_of_the_library(benchmark: BenchmarkFixture, manifest: Manifest) -> None:
    data = to_wire(manifest.rows)
    assert len(benchmark(json.loads, data)) == len(manifest.rows)


@pytest.mark.benchmark(group="5,000 files compared")
def test_compare(benchmark: BenchmarkFixture, manifest: Manifest) -> None:
    theirs = parse_wire_metadata(to_wire(manifest.rows))
    changed = manifest.rows[7].path
    del theirs[changed]
    found = benchmark(compare, manifest, theirs, DEFAULT_RULES)
    assert [row.path for row in found.missing] == [changed]
    assert not found.shared
    assert not found.extra


@pytest.mark.benchmark(group="5,000 files compared")
def test_limit_lookup_of_every_path(benchmark: BenchmarkFixture, manifest: Manifest) -> None:
    theirs = {row.path: row.digest for row in manifest.rows}

    def look() -> int:
        return sum(1 for row in manifest.rows if theirs.get(row.path) != row.digest)

    assert benchmark(look) == 0


@pytest.mark.benchmark(group="digest of 5,000 rows")
def test_buckets_and_content_digest(benchmark: BenchmarkFixture, manifest: Manifest) -> None:
    assert len(benchmark(lambda: content_digest(bucket_digests(manifest.rows)))) == 32
