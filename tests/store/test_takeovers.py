"""What becomes of replicas when another node leads: they go on with its log and copy only what differs, whatever each
of them had. Nodes are directories with a store; a takeover is what a promotion does with the files."""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from clusterd.messages.replica import MOST_AGAIN, AskChanges, Changes
from clusterd.rundir import REPLICA_FILE
from clusterd.store import agents, change_log, groups, replica_copy, replica_source, schema, table
from clusterd.store.engine import Engine, Session
from clusterd.store.jsontext import JsonRefused
from clusterd.store.registry import Registration
from clusterd.store.replica_copy import FOLLOWING, ReplicaCopy
from clusterd.store.replica_db import own_as_replica
from clusterd.store.replica_source import ReplicaSource
from clusterd.supervisor.promotion import take_replica
from tests.store.test_change_log import rows

AGENTS = 30
FULL_COPY, JOINED = "A full copy", "goes on with the log"
Rows = dict[str, list[Any]]


class Node:
    """A machine of its own: its boot and its clock are others. `copy`, or `engine` and `source`, are open while it
    runs."""

    def __init__(self, base: Path, name: str, clock_us: int) -> None:
        self.name, self.root = name, base / name
        self.clock_us = clock_us
        (self.root / "queue/db").mkdir(parents=True)
        self.boot = self.root / "boot"
        self.boot.write_text(f"boot of {name}\n")
        self.said: list[str] = []
        self.copy: ReplicaCopy | None = None
        self.engine: Engine | None = None
        self.source: ReplicaSource | None = None

    def lead(self) -> None:
        schema.BOOT_ID, schema.wall_offset_us = str(self.boot), lambda: self.clock_us
        schema.prepare(str(self.root), self.name, "4.14.1", log=True)
        self.engine = Engine(str(self.root), readers=1)
        self.source = ReplicaSource(str(self.root), synchronous=False, limit_s=1, say=lambda *_: None, pace_s=0)
        self.engine.committed = self.source.committed

    def follow(self) -> None:
        self.copy = ReplicaCopy(str(self.root), say=lambda _, text: self.said.append(text), digest_s=0)

    def stop(self) -> None:
        if self.copy is not None:
            self.copy.close()
        if self.source is not None and self.engine is not None:
            self.source.close()
            self.engine.close()
        self.copy = self.source = self.engine = None

    def rows(self, name: str = schema.DATABASE) -> Rows:
        db = schema.connect(str(self.root), name=name)
        try:
            return rows(db)
        finally:
            db.close()

    def count(self, words: str) -> int:
        return sum(words in line for line in self.said)


class Cluster:
    """`leader` is the one whose store is a master's."""

    def __init__(self, base: Path) -> None:
        clocks = (5_000_000_000_000, 9_000_000_000_000, 1_000_000_000_000)
        self.nodes = {name: Node(base, name, clock) for name, clock in zip("abc", clocks, strict=True)}
        self.leader = self.nodes["a"]
        self.numbers = 1000
        self.asks: dict[str, AskChanges] = {}

    def open(self) -> None:
        for node in self.nodes.values():
            node.lead() if node is self.leader else node.follow()

    def close(self) -> None:
        for node in self.nodes.values():
            node.stop()

    async def write(self, work: Callable[[Session], object]) -> None:
        assert self.leader.engine is not None
        await self.leader.engine.write(work)

    async def populate(self) -> None:
        def work(session: Session) -> None:
            for name in ("default", "web"):
                groups.insert_group(session, name)
            added = [Registration(one, f"agent{one}", "any", "k" * 64, "web", 1) for one in range(1, AGENTS + 1)]
            table._apply(session, added, [])
            for one in range(1, AGENTS + 1):
                session.stamp(one)

        await self.write(work)

    async def rename(self, one: int) -> None:
        self.numbers += 1
        number = self.numbers
        await self.write(lambda s: agents.update_agent_name(s, agents.AgentName(one, f"name{number}")))

    async def keepalive(self, one: int) -> None:
        def work(session: Session) -> None:
            agents.update_keepalive(session, agents.Keepalive(one, "active", "synced"))
            if session.db.execute("select 1 from agent where id = ?", (one,)).fetchone():
                session.stamp(one)

        await self.write(work)

    async def add(self) -> int:
        self.numbers += 1
        number = self.numbers
        await self.write(lambda s: table._apply(s, [Registration(number, "new", "any", "k", "web", 1)], []))
        return number

    async def delete(self, one: int) -> None:
        await self.write(lambda s: table._apply(s, [], [one]))

    async def step(self, name: str) -> tuple[Changes, AskChanges]:
        """One question and its answer."""
        node, source = self.nodes[name], self.leader.source
        assert node.copy is not None
        assert source is not None
        ask = self.asks.get(name) or await node.copy.first()
        changes = await source.tell(name, ask)
        self.asks[name] = await node.copy.apply(changes)
        return changes, self.asks[name]

    async def follow(self, *names: str) -> None:
        """Until each has everything, was compared, and is equal."""
        for name in names:
            self.asks.pop(name, None)
            for _ in range(200):
                changes, ask = await self.step(name)
                if changes.behind == 0 and changes.digest and ask.state == FOLLOWING:
                    break
            assert ask.is_equal, f"{name} differs"
            assert self.nodes[name].rows(REPLICA_FILE) == self.leader.rows()

    def take_over(self, name: str) -> None:
        """This node leads; who led before is away."""
        self.asks.clear()
        self.leader.stop()
        self.leader = self.nodes[name]
        self.leader.stop()
        take_replica(str(self.leader.root))
        self.leader.lead()

    def come_back(self, name: str, *, with_own: bool = False) -> None:
        """As a worker; its own database is left behind, or becomes its replica."""
        self.nodes[name].stop()
        if with_own:
            assert "from which it goes on" in own_as_replica(str(self.nodes[name].root))
        self.nodes[name].follow()

    def restart(self, name: str) -> None:
        node = self.nodes[name]
        node.stop()
        self.asks.pop(name, None)
        node.lead() if node is self.leader else node.follow()


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers of a few agents; and what `Node.lead` exchanges is put back."""
    monkeypatch.setattr(replica_source, "PIECE", 7)
    monkeypatch.setattr(replica_copy, "MOST_AGAIN", 3)
    monkeypatch.setattr(replica_source, "WAIT_S", 3600)
    monkeypatch.setattr(schema, "BOOT_ID", schema.BOOT_ID)
    monkeypatch.setattr(schema, "wall_offset_us", schema.wall_offset_us)


def told(story: Callable[[Cluster], Awaitable[None]], base: Path) -> Cluster:
    cluster = Cluster(base)

    async def main() -> None:
        cluster.open()
        try:
            async with asyncio.timeout(120):
                await story(cluster)
        finally:
            cluster.close()

    asyncio.run(main())
    return cluster


@pytest.mark.parametrize("c_has", ["less", "the same", "more"])
def test_the_other_candidate_goes_on_with_what_differs(tmp_path: Path, c_has: str) -> None:
    async def story(cluster: Cluster) -> None:
        await cluster.populate()
        await cluster.follow("b", "c")
        first, last = ("c", "b") if c_has == "less" else ("b", "c")
        if c_has != "the same":
            await cluster.rename(3)
            await cluster.follow(first)
            for one in (4, 5, 6, 7, 8):
                await cluster.rename(one)
            await cluster.delete(9)
            await cluster.add()
            await cluster.keepalive(10)
            await cluster.follow(last)
        cluster.take_over("b")
        await cluster.rename(20)
        await cluster.keepalive(5)
        await cluster.follow("c")

    c = told(story, tmp_path).nodes["c"]
    assert (c.count(FULL_COPY), c.count(JOINED)) == (1, 1)


def test_a_candidate_that_is_lost_in_the_middle_of_many_answers_goes_on_from_the_last_whole_state(
    tmp_path: Path,
) -> None:
    """Its answers have gone beyond the first change of an agent, which had changed again by then and was to come
    last."""

    async def story(cluster: Cluster) -> None:
        await cluster.populate()
        await cluster.follow("b", "c")
        await cluster.rename(1)
        await cluster.follow("b")
        for one in range(2, 16):
            await cluster.rename(one)
        await cluster.rename(1)
        changes, ask = await cluster.step("c")
        assert changes.behind
        assert ask.held < changes.upto
        cluster.take_over("b")
        await cluster.follow("c")

    c = told(story, tmp_path).nodes["c"]
    assert (c.count(FULL_COPY), c.count(JOINED)) == (1, 1)


def test_one_answer_is_enough_where_nothing_differs(tmp_path: Path) -> None:
    """Until then nobody confirms: the offer, what changed since, and the next question confirms."""

    async def story(cluster: Cluster) -> None:
        await cluster.populate()
        await cluster.follow("b", "c")
        cluster.take_over("b")
        cluster.asks.clear()
        offer, ask = await cluster.step("c")
        assert offer.is_offer
        assert (ask.held, ask.state) == (0, "copying")
        changes, ask = await cluster.step("c")
        assert (changes.units, ask.state, ask.held) == (b"", FOLLOWING, changes.upto)

    told(story, tmp_path)


def test_two_takeovers_while_a_candidate_sleeps(tmp_path: Path) -> None:
    async def story(cluster: Cluster) -> None:
        await cluster.populate()
        await cluster.follow("b", "c")
        await cluster.rename(3)
        await cluster.follow("c")  # and sleeps: it has what the next leader has not
        cluster.take_over("b")
        cluster.come_back("a")
        await cluster.add()
        await cluster.keepalive(4)
        await cluster.follow("a")
        await cluster.rename(5)
        cluster.take_over("a")
        await cluster.delete(6)
        await cluster.follow("c")

    c = told(story, tmp_path).nodes["c"]
    assert (c.count(FULL_COPY), c.count(JOINED)) == (1, 1)


def test_a_former_leader_goes_on_with_the_replica_that_it_had_before_it_led(tmp_path: Path) -> None:
    async def story(cluster: Cluster) -> None:
        await cluster.populate()
        await cluster.follow("b", "c")
        cluster.take_over("b")
        await cluster.rename(4)
        await cluster.follow("c")
        await cluster.rename(5)  # nobody else has it
        cluster.take_over("c")
        cluster.come_back("b")
        await cluster.rename(6)
        await cluster.follow("b")

    b = told(story, tmp_path).nodes["b"]
    assert (b.count(FULL_COPY), b.count(JOINED)) == (1, 1)


def test_a_former_leader_goes_on_from_its_own_database(tmp_path: Path) -> None:
    """What nobody else had is taken back. It had no replica."""

    async def story(cluster: Cluster) -> None:
        await cluster.populate()
        await cluster.follow("b")
        await cluster.rename(3)
        await cluster.delete(4)
        await cluster.add()
        await cluster.keepalive(5)
        cluster.take_over("b")
        await cluster.rename(6)
        cluster.come_back("a", with_own=True)
        await cluster.follow("a")
        before = cluster.leader.rows()
        cluster.take_over("a")
        cluster.come_back("b", with_own=True)
        await cluster.follow("b")
        assert [row[:2] for row in cluster.leader.rows()["agent"]] == [row[:2] for row in before["agent"]]

    cluster = told(story, tmp_path)
    assert [cluster.nodes[name].count(FULL_COPY) for name in "ab"] == [0, 1]
    assert [cluster.nodes[name].count(JOINED) for name in "ab"] == [1, 1]


@pytest.mark.parametrize("what", ["no database", "no log", "another boot since"])
def test_a_database_that_is_no_ground_to_go_on_from_is_no_replica(tmp_path: Path, what: str) -> None:
    node = Node(tmp_path, "a", 5)
    if what != "no database":
        schema.prepare(str(node.root), "a", "4.14.1", log=what != "no log")
    if what == "another boot since":
        node.boot.write_text("again\n")
        schema.BOOT_ID = str(node.boot)
        schema.prepare(str(node.root), "a", "4.14.1", log=None)
    assert "from which it goes on" not in own_as_replica(str(node.root))
    assert not (node.root / REPLICA_FILE).exists()


@pytest.mark.parametrize("lost", [0, 5])
def test_a_backup_that_was_put_in_place_takes_back_only_what_it_lacks(tmp_path: Path, lost: int) -> None:
    async def story(cluster: Cluster) -> None:
        await cluster.populate()
        await cluster.follow("b")
        cluster.leader.stop()
        database = cluster.leader.root / schema.DATABASE
        backup = database.read_bytes()
        cluster.leader.lead()
        await cluster.delete(1)
        for one in range(2, 2 + lost):
            await cluster.rename(one)
        await cluster.follow("b")
        cluster.leader.stop()
        database.write_bytes(backup)
        cluster.leader.lead()
        for one in range(4, 9):
            await cluster.rename(one)  # other changes, at the same positions
        await cluster.follow("b")

    b = told(story, tmp_path).nodes["b"]
    assert (b.count(FULL_COPY), b.count(JOINED)) == (1, 2)


@pytest.mark.parametrize("what", ["wiped", "forgotten lives", "too much", "an older master", "an older candidate"])
def test_what_has_nothing_to_go_on_from_is_copied_in_full(
    tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(cluster: Cluster) -> None:
        await cluster.populate()
        await cluster.follow("b")
        cluster.leader.stop()
        if what == "wiped":
            (cluster.leader.root / schema.DATABASE).unlink()
        elif what == "forgotten lives":
            monkeypatch.setattr(change_log, "KEPT_LIVES", 1)
            cluster.leader.lead()
            cluster.leader.stop()
        elif what == "too much":
            monkeypatch.setattr(replica_copy, "MOST_JOIN_BYTES", 10)
        cluster.leader.lead()
        await cluster.populate() if what == "wiped" else await cluster.rename(4)
        source, copy = cluster.leader.source, cluster.nodes["b"].copy
        assert source is not None
        assert copy is not None
        if what.startswith("an older"):
            tell = source.tell

            def without_joining(node: str, ask: AskChanges) -> Awaitable[Changes]:
                return tell(node, msgspec.structs.replace(ask, joins=False))

            monkeypatch.setattr(source, "tell", without_joining)
        before = cluster.nodes["b"].rows(REPLICA_FILE)
        for _ in range(3):
            await cluster.step("b")
            assert cluster.nodes["b"].rows(REPLICA_FILE) == before, "whole until the other one is"
        await cluster.follow("b")

    b = told(story, tmp_path).nodes["b"]
    assert (b.count(FULL_COPY), b.count(JOINED)) == (2, 0)


def test_a_replica_of_an_earlier_version_follows_and_is_no_ground_for_another_log(tmp_path: Path) -> None:
    """It did not note of which units it was told."""

    async def story(cluster: Cluster) -> None:
        await cluster.populate()
        await cluster.follow("b", "c")
        await cluster.rename(3)
        await cluster.follow("c")
        cluster.nodes["c"].stop()
        db = schema.connect(str(cluster.nodes["c"].root), name=REPLICA_FILE)
        for name in (change_log.TOLD, change_log.LIVES):
            db.execute(f"drop table {name}")
        db.execute("delete from clusterd_replica where name in ('settled', 'floor')")
        db.close()
        cluster.nodes["c"].follow()
        await cluster.follow("c")
        cluster.take_over("b")
        await cluster.follow("c")

    c = told(story, tmp_path).nodes["c"]
    assert (c.count(FULL_COPY), c.count(JOINED)) == (2, 0)


def test_until_the_last_answer_the_replica_is_the_one_of_before(tmp_path: Path) -> None:
    """And a link or a process that ends meanwhile takes nothing away."""

    async def story(cluster: Cluster) -> None:
        await cluster.populate()
        await cluster.follow("b", "c")
        for one in range(1, 12):
            await cluster.rename(one)
        await cluster.follow("c")
        cluster.take_over("b")
        for one in range(8, 20):
            await cluster.rename(one)
        before, number = cluster.nodes["c"].rows(REPLICA_FILE), 0
        while True:
            for _ in range(number):
                _, ask = await cluster.step("c")
                if ask.state == FOLLOWING:
                    break
                assert ask.held == 0
                assert cluster.nodes["c"].rows(REPLICA_FILE) == before
                copy = cluster.nodes["c"].copy
                assert copy is not None
                shown = await copy.shown()
                assert (shown["state"], shown["may_not_lead"]) == (FOLLOWING, None)
            else:
                number += 1
                cluster.restart("c")
                continue
            break
        assert number > 3
        await cluster.follow("c")

    c = told(story, tmp_path).nodes["c"]
    assert (c.count(FULL_COPY), c.count(JOINED)) == (1, 1)


def test_a_leader_that_is_lost_while_others_join_leaves_them_for_the_next_one(tmp_path: Path) -> None:
    async def story(cluster: Cluster) -> None:
        await cluster.populate()
        await cluster.follow("b", "c")
        for one in range(1, 12):
            await cluster.rename(one)
        await cluster.follow("c")
        cluster.take_over("b")
        for one in range(8, 20):
            await cluster.rename(one)
        for _ in range(3):
            await cluster.step("c")
        cluster.take_over("c")
        cluster.come_back("b")
        cluster.come_back("a")
        await cluster.follow("b", "a")

    cluster = told(story, tmp_path)
    assert (cluster.nodes["b"].count(FULL_COPY), cluster.nodes["b"].count(JOINED)) == (1, 1)


def test_a_position_counts_as_held_only_once_everything_before_it_is_there(tmp_path: Path) -> None:
    """A unit that changes again moves to the end of the log: an answer that does not reach the end has it not, though
    it goes beyond the position of its first change."""

    async def story(cluster: Cluster) -> None:
        await cluster.populate()
        await cluster.follow("b")
        number = await cluster.add()
        engine = cluster.leader.engine
        assert engine is not None
        answered = await engine.read(change_log.head)
        for one in range(1, 16):
            await cluster.rename(one)
        await cluster.rename(number)
        seen = []
        while True:
            changes, ask = await cluster.step("b")
            known = {row[0] for row in cluster.nodes["b"].rows(REPLICA_FILE)["agent"]}
            assert ask.held < answered or number in known
            seen.append(changes.behind)
            if not changes.behind:
                break
        assert max(seen) > 0
        assert ask.held > answered

    told(story, tmp_path)


@pytest.mark.parametrize(
    "again", [((1, 0),), ((1, -1),), ((3, 1),), ((1, 1),) * (MOST_AGAIN + 1)], ids=["0", "-1", "kind", "many"]
)
def test_units_that_there_cannot_be_are_not_told(tmp_path: Path, again: tuple[tuple[int, int], ...]) -> None:
    async def story(cluster: Cluster) -> None:
        await cluster.populate()
        source, copy = cluster.leader.source, cluster.nodes["b"].copy
        assert source is not None
        assert copy is not None
        with pytest.raises(ValueError, match="cannot be"):
            await source.tell("b", msgspec.structs.replace(await copy.first(), again=again))

    told(story, tmp_path)


class History:
    """Whatever happens, in any order."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self.cluster, self.random = cluster, random.Random(seed)
        self.backup: tuple[str, bytes] | None = None
        self.whole: set[str] = set()

    @property
    def followers(self) -> list[str]:
        return [name for name, node in self.cluster.nodes.items() if node is not self.cluster.leader]

    async def turn(self) -> None:
        cluster, rand = self.cluster, self.random
        match rand.randrange(16):
            case 0 | 1 | 2:
                for _ in range(rand.choice((1, 2, 12))):
                    await cluster.rename(rand.randint(1, AGENTS))
            case 3:
                await cluster.add()
            case 4:
                await cluster.delete(rand.choice((rand.randint(1, AGENTS), cluster.numbers)))
            case 5:
                await cluster.keepalive(rand.randint(1, AGENTS))
            case 6:
                name = f"group{rand.randint(1, 3)}"
                work = rand.choice((groups.insert_group, lambda s, n: groups.delete_group(s, n, "syncreq")))
                with contextlib.suppress(JsonRefused):
                    await cluster.write(lambda s: work(s, name))
            case 7 | 8 | 9 | 10:
                name = rand.choice(self.followers)
                for _ in range(rand.choice((1, 2, 3, 9))):
                    await cluster.step(name)
            case 11:
                await cluster.follow(rand.choice(self.followers))
            case 12:
                cluster.restart(rand.choice((*self.followers, cluster.leader.name)))
            case 13 | 14:
                name = rand.choice(self.followers)
                node, before = cluster.nodes[name], cluster.leader.name
                if (node.root / REPLICA_FILE).exists():
                    cluster.take_over(name)
                    if rand.random() < 0.3:
                        cluster.restart(name)
                    cluster.come_back(before, with_own=rand.random() < 0.6)
            case 15:
                self.restore_or_keep()

    def restore_or_keep(self) -> None:
        leader = self.cluster.leader
        database = leader.root / schema.DATABASE
        self.cluster.asks.clear()
        leader.stop()
        if self.backup is not None and self.backup[0] == leader.name and self.random.random() < 0.5:
            database.write_bytes(self.backup[1])
        else:
            self.backup = leader.name, database.read_bytes()
        leader.lead()


@pytest.mark.parametrize("seed", range(4))
def test_any_history_ends_with_equal_replicas(tmp_path: Path, seed: int) -> None:
    """`follow` compares every row, and the digest would tell each minute."""

    async def story(cluster: Cluster) -> None:
        await cluster.populate()
        history = History(cluster, seed)
        for _ in range(50):
            await history.turn()
        await cluster.follow(*history.followers)

    cluster = told(story, tmp_path)
    assert not any("differs" in line for node in cluster.nodes.values() for line in node.said)
