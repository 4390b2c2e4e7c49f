"""Stores for each module, emptied before each test."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.contracts.helpers import empty
from tests.store.lone_store import LoneStore, lone_store
from tools.rig.guard import guarded
from tools.rig.wdb_client import WdbClient

MakeStore = Callable[..., LoneStore]


def _stores() -> Iterator[MakeStore]:
    # The stores are not below tmp_path, because socket paths may have 107 bytes.
    with guarded("wdb-") as base, ExitStack() as stack:
        count = 0

        def make(node_type: str = "master") -> LoneStore:
            nonlocal count
            count += 1
            return stack.enter_context(lone_store(base / str(count), node_type))

        yield make


_shared_stores = pytest.fixture(_stores, scope="module", name="shared_stores")
_fresh_stores = pytest.fixture(_stores, name="make_store")


@pytest.fixture(scope="module")
def store(shared_stores: MakeStore) -> LoneStore:
    """A master's store."""
    return shared_stores("master")


@pytest.fixture(scope="module")
def worker_store(shared_stores: MakeStore) -> LoneStore:
    return shared_stores("worker")


@pytest.fixture
def db(store: LoneStore) -> Iterator[WdbClient]:
    """A connection to the master's store, which holds agent 0 and the group `default`."""
    with WdbClient(store.root) as client:
        empty(client)
        yield client


@pytest.fixture
def worker_db(worker_store: LoneStore) -> Iterator[WdbClient]:
    """The same of a worker's store."""
    with WdbClient(worker_store.root) as client:
        empty(client)
        yield client
