"""An agent whose registration nobody heard of: who asks for the same one again is given another."""

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from clusterd.messages.replica import AskChanges, Show, Tell
from clusterd.rundir import REPLICA_FILE
from clusterd.settings import HaSettings
from clusterd.store.decisions import NOTE_S
from clusterd.store.registry import AgentFacts, Registration
from clusterd.store.table import UNANSWERED
from clusterd.wdb.replica import ReplicaStore
from tests.fakes.agent_table import FakeAgentTable
from tests.store.live_authd import Node, live_authd
from tests.store.lone_store import LoneStore, lone_settings, lone_store
from tests.store.replica_bench import Bench, run, stored
from tests.store.test_authd import add
from tools.rig.peer import wait_until

FORCE_OFF = {
    "enabled": False,
    "disconnected_time": {"enabled": False, "value": 0},
    "after_registration_time": 0,
    "key_mismatch": False,
}


async def candidate_that_confirms_nothing(store: LoneStore) -> None:
    port = ReplicaStore(str(store.root))
    epoch = msgspec.json.decode(await port.ask(Show(), 30))["epoch"]
    question = msgspec.msgpack.encode(AskChanges(epoch, 0, 0, False, "following"))
    await port.ask(Tell("w", question), 30)


@pytest.mark.slow
def test_registration_that_a_kill_left_unanswered_succeeds_when_it_is_asked_again(tmp_path: Path) -> None:
    """It is on the disk and waits for a candidate. The name was taken, for an hour by default, by an agent that nobody
    knew."""
    with lone_store(tmp_path, ha=HaSettings(replica=True, synchronous_timeout_s=60)) as store:
        heard = add(store, "heard")["data"]
        asyncio.run(candidate_that_confirms_nothing(store))
        failed: list[Exception] = []

        def ask_and_hear_nothing() -> None:
            try:
                add(store, "lost")
            except Exception as failure:
                failed.append(failure)

        asking = threading.Thread(target=ask_and_hear_nothing)
        asking.start()
        keys = tmp_path / "etc/client.keys"
        wait_until(lambda: " lost " in keys.read_text(), 60, "the key")
        store.kill()
        asking.join()
        assert failed, "nobody was answered"
        (old,) = [line.split()[0] for line in keys.read_text().splitlines() if " lost " in line]
        # Now it gives out an id when no candidate has compared itself for that long.
        store.restart(lone_settings(tmp_path, ha=HaSettings(replica=True, synchronous_timeout_s=0.5)))
        assert add(store, "heard", force=FORCE_OFF)["error"] == 9008
        assert add(store, "lost", "10.0.0.9", force=FORCE_OFF)["error"] == 9008, "it is another one's"
        new = add(store, "lost", force=FORCE_OFF)
        assert (new["error"], new["data"]["id"] > old) == (0, True)
        assert add(store, "lost", force=FORCE_OFF)["error"] == 9008, "this one was heard of"
        assert heard["key"] in keys.read_text()


def test_registration_that_no_candidate_confirmed_succeeds_when_it_is_asked_again(tmp_path: Path) -> None:
    """It was answered with an error, and stands in client.keys all the same."""

    class Table(FakeAgentTable):
        confirmed = False

        async def replicated(self) -> bool:
            return self.confirmed

    table = Table()

    async def work(node: Node) -> None:
        assert (await node.add("agent"))["error"] == 9009
        table.confirmed = True
        table.states[1] = AgentFacts("active", 0, 1)
        assert (await node.add("agent"))["error"] == 9008, "it has its key after all"
        del table.states[1]
        assert (await node.add("agent"))["data"]["id"] == "002"
        assert (await node.add("agent"))["error"] == 9008
        node.assert_even()

    live_authd(tmp_path, work, table)


@pytest.mark.parametrize("age_s", [10, NOTE_S + 60, -NOTE_S - 60])
def test_note_of_the_process_before_counts_for_some_minutes(tmp_path: Path, age_s: int) -> None:
    """The agent may have been answered all the same: a second host of its name took its place, with `force` off."""
    table = FakeAgentTable()

    async def first(node: Node) -> None:
        assert (await node.add("agent"))["data"]["id"] == "001"

    async def second(node: Node) -> None:
        table.states[1] = AgentFacts("never_connected", 0, int(time.time()) - age_s)
        again = await node.add("agent", force=FORCE_OFF)
        assert again["error"] == (0 if age_s == 10 else 9008)

    live_authd(tmp_path, first, table)
    table.unheard = {1}  # it was killed before it noted that it had answered
    live_authd(tmp_path, second, table)


def test_next_master_knows_who_was_not_answered(bench: Bench) -> None:
    def noted(root: Path, name: str = REPLICA_FILE) -> list[Any]:
        with closing(sqlite3.connect(root / name)) as db:
            return db.execute("select name from clusterd_seen where kind = ? order by name", (UNANSWERED,)).fetchall()

    async def work(bench: Bench) -> None:
        await bench.populate()
        await bench.follow()
        table = stored(bench)
        asks: list[Callable[[], Any]] = [
            lambda: table.apply([Registration(90, "a", "any", "k", None, 1)], []),
            lambda: table.apply([Registration(91, "b", "any", "k", None, 1)], []),
        ]
        for ask in asks:
            await ask()
            await bench.follow()
            table.answered(())
        assert noted(bench.candidate) == [("91",)], "the first one was answered before the second one was asked for"
        assert await table.unanswered() == {91}
        await table.note_answered()
        assert await table.unanswered() == set()
        await table.apply([], [90])
        await bench.follow()
        assert noted(bench.candidate) == []
        bench.check_equal()

    run(bench, work)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)
