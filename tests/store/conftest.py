"""A master and its candidate, for the tests of replicas."""

from pathlib import Path

import pytest

from tests.store.replica_bench import Bench


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)
