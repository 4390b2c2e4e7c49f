"""What becomes of replicas when another node leads: they go on with its log and copy only what differs, whatever each
of them had. Nodes are directories with a store; a takeover is what a promotion does with the files."""

import contextlib
from pathlib import Path

import pytest

from clusterd.rundir import REPLICA_FILE
from clusterd.store import change_log, schema
from clusterd.store.replica_copy import FOLLOWING
from clusterd.store.replica_db import own_as_replica
from tests.store.takeover_bench import FULL_COPY, JOINED, Cluster, Node, told

pytestmark = pytest.mark.usefixtures("takeovers")


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


@pytest.mark.slow
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


def test_deletions_that_a_replica_was_not_told_of_are_missed_by_nobody(tmp_path: Path) -> None:
    """An earlier version of this program did not note of which units it was told."""

    async def story(cluster: Cluster) -> None:
        await cluster.populate()
        await cluster.follow("b", "c")  # and c sleeps
        await cluster.delete(1)
        await cluster.follow("b")
        b = cluster.nodes["b"]
        b.stop()
        with contextlib.closing(schema.connect(str(b.root), name=REPLICA_FILE)) as db:
            db.execute(f"drop table {change_log.TOLD}")
            db.commit()
        b.follow()
        cluster.restart("a")
        await cluster.rename(5)
        await cluster.follow("b")
        assert b.count(JOINED) == 1
        cluster.take_over("b")
        await cluster.follow("c")

    c = told(story, tmp_path).nodes["c"]
    assert (c.count(FULL_COPY), c.count("differs")) == (2, 0)


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
