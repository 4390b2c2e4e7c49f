"""Which nodes are connected, and who may ask for changes."""

import asyncio
import os
from typing import Any

import pytest

from clusterd.errors import ClusterError
from clusterd.messages.links import LinkInfo
from clusterd.settings import Settings
from clusterd.sync.links import roster as roster_module
from clusterd.sync.links.peer import Peer
from clusterd.sync.links.privileged import check_privileged
from clusterd.sync.links.roster import Roster
from clusterd.sync.ports.zip_limit import ZipLimit

NOTHING: Any = None


def peer(link: int, kind: str, name: str, uid: int = -1) -> Peer:
    limit = ZipLimit(Settings("/").communication)
    return Peer(LinkInfo(link, kind, name, uid=uid), NOTHING, NOTHING, NOTHING, limit, 1.0, lambda text: None)


def test_workers_are_listed_in_the_order_in_which_they_came() -> None:
    roster = Roster()
    for link, name in ((3, "b"), (1, "a"), (2, "c")):
        roster.add(peer(link, "worker", name))
    roster.add(peer(9, "local", "17"))
    assert [found.name for found in roster.workers()] == ["b", "a", "c"]
    assert [found.name for found in roster.all()] == ["b", "a", "c", "17"]


def test_a_worker_is_found_by_its_name_only_while_it_is_there() -> None:
    roster = Roster()
    worker = peer(1, "worker", "w1")
    roster.add(worker)
    assert roster.worker("w1") is roster.need_worker("w1") is roster.at(1) is worker
    assert roster.remove(1) is worker
    assert roster.remove(1) is None
    assert (roster.worker("w1"), roster.at(1)) == (None, None)
    with pytest.raises(ClusterError) as refusal:
        roster.need_worker("w1")
    assert (refusal.value.code, refusal.value.extra) == (3022, "w1")


def test_neither_a_program_nor_the_master_is_a_worker_of_that_name() -> None:
    roster = Roster()
    roster.add(peer(1, "local", "w1"))
    roster.add(peer(2, "master", "w1"))
    assert roster.worker("w1") is None
    assert roster.master() is roster.need_master() is roster.at(2)


def test_without_a_link_to_the_master_a_worker_says_3023() -> None:
    roster = Roster()
    roster.add(peer(1, "local", "5"))
    assert roster.master() is None
    with pytest.raises(ClusterError) as refusal:
        roster.need_master()
    assert (refusal.value.code, refusal.value.extra) == (3023, ClusterError(3023).extra)


@pytest.mark.parametrize("uid", [0, os.geteuid()])
def test_root_and_the_user_of_the_daemon_are_privileged(uid: int) -> None:
    check_privileged(peer(1, "local", "5", uid), "no")


def test_any_other_user_is_refused_with_4000() -> None:
    with pytest.raises(ClusterError) as refusal:
        check_privileged(peer(1, "local", "5", 12345), "only root may")
    assert (refusal.value.code, refusal.value.extra) == (4000, "only root may")


def test_while_another_master_is_expected_a_request_waits_for_it_and_not_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def story() -> None:
        roster = Roster()
        with pytest.raises(ClusterError, match="3023"):
            await roster.await_master()
        monkeypatch.setattr(roster_module, "CHANGE_S", 60.0)
        roster.add(peer(1, "master", "m1"))
        assert (await roster.await_master()).name == "m1"
        roster.remove(1)
        roster.expect_master()
        waiting, lost = asyncio.ensure_future(roster.await_master()), asyncio.ensure_future(roster.settled())
        await asyncio.sleep(0.01)
        assert (waiting.done(), lost.done()) == (False, False)
        roster.add(peer(2, "master", "m2"))
        assert (await waiting).name == "m2"
        await lost
        roster.remove(2)
        monkeypatch.setattr(roster_module, "CHANGE_S", 0.01)
        with pytest.raises(ClusterError, match="3023"):
            await roster.await_master()

    asyncio.run(story())
