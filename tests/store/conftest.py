"""A master and its candidate for the tests of replicas; a change log and a copy that follows it; a follower of the
files."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clusterd.store import empty_groups, follow_groups, follow_keys, replica_copy, replica_source, schema
from clusterd.store.engine import Engine
from tests.store.change_pair import Pair
from tests.store.following import Node, Work
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


@pytest.fixture
def live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs `work` in one life of the store."""
    monkeypatch.setattr(follow_groups, "SURE_S", 0.0)
    monkeypatch.setattr(follow_keys, "SURE_S", 0.0)
    monkeypatch.setattr(follow_keys, "AGAIN_S", 0.0)
    monkeypatch.setattr(empty_groups, "SURE_S", 1e9)  # files for them are not what is looked at here
    (tmp_path / "etc/shared/default").mkdir(parents=True)

    def one_life(work: Work, *, on_worker: bool = False, is_first_life: bool = True) -> None:
        async def main() -> None:
            schema.prepare(str(tmp_path), "node", "4.14.1")
            engine = Engine(str(tmp_path), readers=1)
            try:
                await work(Node(engine, tmp_path, on_worker=on_worker, is_first_life=is_first_life))
            finally:
                engine.close()

        asyncio.run(main())

    return one_life
