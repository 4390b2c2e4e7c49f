"""A master and its candidate for the tests of replicas; a change log and a copy that follows it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from clusterd.store import replica_copy, replica_source, schema
from tests.store.change_pair import Pair
from tests.store.replica_bench import Bench


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.close()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def takeovers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers of a few agents; and what `Node.lead` exchanges is put back."""
    monkeypatch.setattr(replica_source, "PIECE", 7)
    monkeypatch.setattr(replica_copy, "MOST_AGAIN", 3)
    monkeypatch.setattr(replica_source, "WAIT_S", 3600)
    monkeypatch.setattr(schema, "BOOT_ID", schema.BOOT_ID)
    monkeypatch.setattr(schema, "wall_offset_us", schema.wall_offset_us)
