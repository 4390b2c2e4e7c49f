"""A master whose disk was set back to an old snapshot: a candidate that has what it lacks keeps it from leading."""

import asyncio
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from clusterd.role import NodeRole, deposed_text, read_role, role_text, standing, update_role
from clusterd.settings import ClusterBlock, Clusterd, HaSettings, Settings
from clusterd.signals import ROLE_WRITTEN
from clusterd.store import agents, replica_db, replica_side
from clusterd.store.replica_source import ReplicaSource, SetBack
from clusterd.store.schema import DATABASE
from tests.store.replica_bench import Bench, run


@pytest.fixture(autouse=True)
def old_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was told is old when the next is told."""
    monkeypatch.setattr(replica_db, "OLD_S", 0)


async def rename(bench: Bench, number: int, name: str) -> None:
    await bench.engine.write(lambda session: agents.update_agent_name(session, agents.AgentName(number, name)))


def take_snapshot(bench: Bench) -> Callable[[], None]:
    """Of the master's database, whose store must not run. Returns what sets it back."""
    database, kept = bench.master / DATABASE, bench.master / "snapshot"
    shutil.copy(database, kept)

    def set_back() -> None:
        for ending in ("-wal", "-shm"):
            Path(f"{database}{ending}").unlink(missing_ok=True)
        shutil.copy(kept, database)

    return set_back


async def tell(bench: Bench) -> None:
    """Follows, and changes something three times: by then something old was told."""
    for number in range(3):
        await rename(bench, 1, f"later{number}")
        await bench.follow()


async def set_back(bench: Bench, *, is_restarted: bool) -> None:
    """A life of the master that was followed, a snapshot, more that is followed, and the snapshot again."""
    await bench.populate()
    await bench.follow()
    bench.stop_master()
    put = take_snapshot(bench)
    bench.start_master()
    await tell(bench)
    if is_restarted:
        bench.restart("master")
        await tell(bench)
    bench.stop_master()
    put()
    bench.start_master()


@pytest.mark.parametrize("is_restarted", [False, True])
def test_candidate_does_not_follow_a_master_that_lacks_what_it_told_long_ago(bench: Bench, is_restarted: bool) -> None:
    bench.teller = "0 m"

    async def work(bench: Bench) -> None:
        await set_back(bench, is_restarted=is_restarted)
        _, ask = await bench.step(await bench.copy.first())
        assert (ask.lacking, ask.lost) == (bench.source._epoch, 1)
        with pytest.raises(SetBack, match="1 units that w has"):
            await bench.source.tell("w", ask)
        assert bench.lacking == [("w", 1)]
        # Another term: its operator has decided.
        bench.teller = "1 m"
        bench.restart("master")
        await bench.follow()
        bench.check_equal()
        assert bench.lacking == [("w", 1)]

    run(bench, work)


@pytest.mark.parametrize("why", ["the master of a new term", "told a moment ago", "an election"])
def test_candidate_follows_a_master_that_may_lack_what_was_told(
    bench: Bench, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.teller = "" if why == "an election" else "0 m"
    if why == "told a moment ago":
        monkeypatch.setattr(replica_db, "OLD_S", 300)

    async def work(bench: Bench) -> None:
        await set_back(bench, is_restarted=False)
        if why == "the master of a new term":
            bench.teller = "1 m"
            bench.restart("master")
        await bench.follow()
        bench.check_equal()
        assert bench.lacking == []
        await tell(bench)
        bench.restart("master")
        await bench.follow()
        assert bench.lacking == [], "nor is what it had before missed later"

    run(bench, work)


def test_master_waits_for_a_candidate_that_knows_whether_its_disk_was_set_back(bench: Bench) -> None:
    bench.teller = "0 m"

    async def work(bench: Bench) -> None:
        await bench.populate()
        await asyncio.wait_for(bench.source.compared(), 60)  # its log had no life before
        await bench.follow()
        bench.restart("master")
        waiting = asyncio.create_task(bench.source.ready())
        await asyncio.sleep(0.02)
        assert not waiting.done()
        await bench.follow()
        assert await waiting == ""
        bench.restart("master")
        began = time.monotonic()
        await bench.source.compared(0.1)
        assert time.monotonic() - began < 30, "it does not wait for ever"

    run(bench, work)


@pytest.mark.parametrize(("ago_s", "waits"), [(0.0, False), (3600.0, True)])
def test_node_that_was_promoted_just_now_waits_for_no_candidate(bench: Bench, ago_s: float, waits: bool) -> None:
    """Its workers would wait, too, and there may be no other candidate."""

    async def work(bench: Bench) -> None:
        await bench.populate()
        bench.restart("master")
        role = NodeRole(1, "master", 1, since=time.time() - ago_s)
        settings = Settings(
            str(bench.master),
            role=role,
            serves_store=True,
            clusterd=Clusterd(ha=HaSettings(replica=True)),
            cluster=ClusterBlock(node_type="master"),
        )
        source = replica_side.replica_side(settings.with_role(role), leads=None, say=lambda *_: None)
        assert isinstance(source, ReplicaSource)
        try:
            assert source._compared.is_set() != waits
        finally:
            source.close()

    run(bench, work)


@pytest.mark.parametrize("before", [None, NodeRole(7, "master", 7, "m:1516", "m")])
def test_master_whose_disk_was_set_back_leads_no_more_and_says_what_to_do(
    tmp_path: Path, before: NodeRole | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    signals: list[Any] = []
    monkeypatch.setattr(os, "kill", lambda *what: signals.append(what))
    if before is not None:
        update_role(str(tmp_path), lambda _: before)
    replica_side.withhold(str(tmp_path), "w2", 17, lambda *_: None)
    given = read_role(str(tmp_path))
    assert given is not None
    assert standing(given, "master").is_deposed
    assert signals == [(os.getppid(), ROLE_WRITTEN)]
    assert "was set back" in role_text(given, "master")
    text = deposed_text(given)
    assert "17 agents and groups that w2 has" in text
    assert "clusterd promote --old-master-is-down --without-agents --unchecked-files here" in text
    assert msgspec.structs.replace(given, withheld="").term == (1 if before is None else 7)
