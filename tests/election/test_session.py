"""A node's view of etcd: a read that a watch overtakes, and an etcd that really went back."""

import asyncio
from collections.abc import Callable
from typing import Any

from clusterd.election.etcd import Item, Snapshot
from clusterd.election.session import EtcdSession
from tests.fakes.etcd import EtcdStore, HandClock, Voter, master

KEY = "/clusterd/wazuh/candidates/x"


class Answers:
    """Answers reads with these; `meanwhile` runs while an answer is under way."""

    def __init__(self, snapshots: list[Snapshot], meanwhile: Callable[[], None]) -> None:
        self._snapshots = snapshots
        self._meanwhile = meanwhile

    async def read(self, prefix: str) -> Snapshot:
        self._meanwhile()
        return self._snapshots.pop(0)


def item(revision: int) -> Item:
    return Item(b"{}", revision, revision)


def session_with(said: list[str], snapshots: list[Snapshot], meanwhile: Callable[[EtcdSession], None]) -> EtcdSession:
    node: Any = Voter(EtcdStore(HandClock()), "one", master())
    session: EtcdSession = node.elector.session
    session._etcd = Answers(snapshots, lambda: meanwhile(session))  # type: ignore[assignment]
    session._node.say = lambda level, text: said.append(text)  # type: ignore[method-assign]
    session.set_items(7, {KEY: item(7)})
    return session


def test_change_reported_by_a_watch_is_not_undone_by_an_earlier_read() -> None:
    said: list[str] = []
    session = session_with(said, [Snapshot(7, {KEY: item(7)})], lambda session: session.set_items(8, {KEY: item(8)}))
    asyncio.run(session.read())
    assert (session.view.revision, session.items[KEY].mod_revision) == (8, 8)
    assert said == []


def test_etcd_that_went_back_is_believed() -> None:
    said: list[str] = []
    session = session_with(said, [Snapshot(3, {})], lambda session: None)
    asyncio.run(session.read())
    assert (session.view.revision, session.items) == (3, {})
