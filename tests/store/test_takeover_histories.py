"""A replica with nothing in common with the new log is copied in full; whatever happens in any order, all end equal."""

import contextlib
import random
from collections.abc import Awaitable
from pathlib import Path

import msgspec
import pytest

from clusterd.messages.replica import MOST_AGAIN, AskChanges, Changes
from clusterd.rundir import REPLICA_FILE
from clusterd.store import change_log, groups, replica_copy, schema
from clusterd.store.jsontext import JsonRefused
from clusterd.store.replica_copy import FOLLOWING
from tests.store.takeover_bench import AGENTS, FULL_COPY, JOINED, Cluster, told

pytestmark = pytest.mark.usefixtures("takeovers")


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


async def part(cluster: Cluster) -> None:
    """`b` takes over without the last changes, and makes others; `c` has the former and lacks the latter."""
    await cluster.populate()
    await cluster.follow("b", "c")
    for one in range(1, 12):
        await cluster.rename(one)
    await cluster.follow("c")
    cluster.take_over("b")
    for one in range(8, 20):
        await cluster.rename(one)


def test_until_the_last_answer_the_replica_is_the_one_of_before(tmp_path: Path) -> None:
    """And a link or a process that ends meanwhile takes nothing away."""

    async def story(cluster: Cluster) -> None:
        await part(cluster)
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


@pytest.mark.slow
def test_a_leader_that_is_lost_while_others_join_leaves_them_for_the_next_one(tmp_path: Path) -> None:
    async def story(cluster: Cluster) -> None:
        await part(cluster)
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


@pytest.mark.slow
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
