"""BLAKE2b of files through the reused buffer, compared with its limit: hashing bytes that are in memory already."""

import hashlib
import os
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from hashing.digest import Buffer, digest_fd

SIZE = 16 * 1024 * 1024


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "large"
    path.write_bytes(os.urandom(SIZE))
    return path


@pytest.mark.benchmark(group="digest of 16 MiB")
def test_digest_of_a_file(benchmark: BenchmarkFixture, large: Path) -> None:
    buffer = Buffer()

    def digest() -> bytes:
        fd = os.open(large, os.O_RDONLY)
        try:
            return digest_fd(fd, buffer)
        finally:
            os.close(fd)

    assert benchmark(digest) == hashlib.blake2b(large.read_bytes()).digest()


@pytest.mark.benchmark(group="digest of 16 MiB")
def test_limit_bytes_in_memory(benchmark: BenchmarkFixture, large: Path) -> None:
    data = large.read_bytes()
    assert len(benchmark(lambda: hashlib.blake2b(data).digest())) == 64
