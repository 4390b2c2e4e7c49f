"""A replica without nodes: a master's store answers, a candidate's copy applies. Whatever is restarted or lost on
either side, both are equal in the end, and the replica is a whole one at every moment."""

import asyncio
import os
import sqlite3
import stat
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from clusterd.rundir import COPY_FILE, REPLICA_DIR, REPLICA_FILE
from clusterd.store import agents, change_log, groups, replica_copy, replica_source, schema, table
from clusterd.store.engine import Session
from clusterd.store.replica_copy import COPYING, FOLLOWING
from clusterd.store.replica_source import UnitTooLarge, unpack_units
from clusterd.store.units import Unit, read_units
from tests.store.change_pair import rows
from tests.store.replica_bench import AGENTS, Bench, run, stored


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes answers small: a few agents each."""
    monkeypatch.setattr(replica_source, "PIECE", 7)


@pytest.mark.usefixtures("small")
def test_candidate_gets_everything_and_then_what_changes(bench: Bench) -> None:
    async def work(bench: Bench) -> None:
        await bench.populate()
        ask = await bench.follow()
        bench.check_equal()
        shown = await bench.copy.shown()
        assert (shown["state"], shown["lag"], shown["digest_equal"]) == (FOLLOWING, 0, True)
        assert shown["greatest_id"] == AGENTS
        await bench.engine.write(lambda session: agents.delete_agent(session, 3))
        await bench.engine.write(lambda session: groups.delete_group(session, "web", "syncreq"))
        changes, _ = await bench.step(ask)
        assert changes.since == ask.since
        bench.source.candidates.heard("w", await bench.follow())
        bench.check_equal()
        (told,) = (await bench.source.shown())["candidates"]
        assert (told["lag"], told["digest_equal"], told["may_not_lead"]) == (0, True, None)

    run(bench, work)
    assert stat.S_IMODE((bench.candidate / REPLICA_DIR).stat().st_mode) == 0o700
    assert stat.S_IMODE((bench.candidate / REPLICA_FILE).stat().st_mode) == 0o600


@pytest.mark.usefixtures("small")
def test_changes_during_a_full_copy_are_in_it(bench: Bench) -> None:
    """Answers are read ahead: a row may have changed since."""

    async def work(bench: Bench) -> None:
        await bench.populate()
        ask, number = await bench.copy.first(), 0
        while ask.state == COPYING:
            number += 1
            await bench.engine.write(lambda s, n=number: agents.delete_agent(s, n))
            await bench.engine.write(lambda s, n=number: agents.insert_agent(s, agents.NewAgentRow(100 + n, "new", 1)))
            await bench.engine.write(lambda s: s.db.execute("update agent set name = name || '.' where id = 20"))
            _, ask = await bench.step(ask)
            if number == 4:
                await bench.engine.write(lambda s: groups.delete_group(s, "web", "syncreq"))
        await bench.follow()
        bench.check_equal()

    run(bench, work)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("who", ["copy", "master"])
def test_full_copy_goes_on_where_it_stopped_or_begins_anew_with_the_masters_store(bench: Bench, who: str) -> None:
    async def work(bench: Bench) -> None:
        await bench.populate()
        ask = await bench.copy.first()
        for _ in range(3):
            _, ask = await bench.step(ask)
        assert (ask.state, ask.held) == (COPYING, 0)
        bench.restart(who)
        again = await bench.copy.first()
        assert again.since == ask.since > 0
        changes, _ = await bench.step(again)
        assert changes.since == (ask.since if who == "copy" else 0)
        await bench.follow()
        bench.check_equal()

    run(bench, work)


@pytest.mark.usefixtures("small")
def test_replica_stays_whole_while_another_copy_is_made(bench: Bench) -> None:
    """A new log: the database was replaced, or another node is master."""

    async def work(bench: Bench) -> None:
        await bench.populate()
        await bench.follow()
        bench.stop_master()
        for log in (False, True):
            schema.prepare(str(bench.master), "m", "4.14.1", log=log)
        bench.start_master()
        ask = await bench.copy.first()
        for _ in range(3):
            _, ask = await bench.step(ask)
        assert (ask.state, ask.held) == (COPYING, 0)
        bench.check_equal()
        assert (await bench.copy.shown())["may_not_lead"] == "the replica is copied anew"
        bench.restart("copy")
        await bench.follow()
        bench.check_equal()
        assert not (bench.candidate / COPY_FILE).exists()

    run(bench, work)


@pytest.mark.usefixtures("small")
def test_full_copy_goes_on_where_deletions_before_it_are_forgotten(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its positions lie below the last of them for many answers."""
    monkeypatch.setattr(change_log, "KEPT_DELETIONS", 1)

    async def work(bench: Bench) -> None:
        await bench.populate()
        await bench.engine.write(lambda session: table._apply(session, [], [1, 2, 3]))
        bench.restart("master")
        await bench.follow()
        bench.check_equal()

    run(bench, work)


def test_position_that_the_master_lost_means_a_full_copy(bench: Bench) -> None:
    """A backup of the database was put in its place."""

    async def work(bench: Bench) -> None:
        await bench.populate()
        bench.stop_master()
        backup = (bench.master / schema.DATABASE).read_bytes()
        bench.start_master()
        await bench.engine.write(lambda session: agents.delete_agent(session, 1))
        await bench.follow()
        bench.stop_master()
        (bench.master / schema.DATABASE).write_bytes(backup)
        bench.start_master()
        await bench.follow()
        bench.check_equal()

    run(bench, work)


def test_answers_are_small_and_an_agent_too_large_for_any_is_named(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A master reads little more for an answer than what that can hold."""
    read: list[int] = []

    def counted(db: sqlite3.Connection, wanted: Sequence[tuple[int, int]]) -> list[Unit]:
        read.append(len(wanted))
        return read_units(db, wanted)

    monkeypatch.setattr(replica_source, "read_units", counted)

    async def work(bench: Bench) -> None:
        await bench.populate()

        def label(session: Session, one: int, size: int) -> None:
            session.db.execute("insert into labels values (?, 'k', ?)", (one, os.urandom(size // 2).hex()))

        for one in range(1, AGENTS):
            await bench.engine.write(lambda session, one=one: label(session, one, 20_000))
        ask = await bench.copy.first()
        while True:
            changes, ask = await bench.step(ask)
            units = unpack_units(changes.units)
            assert len(changes.units) <= replica_source.ANSWER_BYTES or len(units) == 1
            if not changes.behind:
                break
        assert sum(read) < 4 * AGENTS
        bench.check_equal()
        await bench.engine.write(lambda session: label(session, AGENTS, 1_500_000))
        with pytest.raises(UnitTooLarge, match=f"agent {AGENTS} "):
            await bench.step(ask)

    run(bench, work)


def test_candidate_waits_for_a_change_and_is_told_of_it(bench: Bench) -> None:
    async def work(bench: Bench) -> None:
        await bench.populate()
        await bench.follow()
        ask = msgspec.structs.replace(await bench.copy.first(), digest=False)
        asking = asyncio.create_task(bench.source.tell("w", ask))
        while not bench.source._waiting:
            await asyncio.sleep(0)
        await bench.engine.write(lambda session: agents.delete_agent(session, 7))
        changes = await asking
        assert [unit.id for unit in unpack_units(changes.units)] == [7]

    run(bench, work)


def test_moments_of_the_master_are_kept_with_what_they_refer_to(bench: Bench) -> None:
    """Opening the file as this node's own database then converts them (schema.py)."""

    async def work(bench: Bench) -> None:
        await bench.populate()
        await bench.engine.write(lambda session: session.stamp(1))
        await bench.engine.write(lambda session: session.stamp(2))
        await bench.follow()
        bench.restart("copy")
        await bench.follow()
        bench.check_equal()
        noted = "select kind, name from clusterd_seen where kind in ('boot', 'wall') order by 1"
        found = []
        for root, name in ((bench.master, schema.DATABASE), (bench.candidate, REPLICA_FILE)):
            db = schema.connect(str(root), name=name)
            found.append(db.execute(noted).fetchall())
            db.close()
        assert found[0] == found[1]

    run(bench, work)


def test_replica_can_be_opened_as_a_nodes_own_database(bench: Bench, tmp_path: Path) -> None:
    """Like a promotion: the earlier master's log no longer counts, and another candidate can follow."""

    async def work(bench: Bench) -> None:
        await bench.populate()
        for one in (2, 1):
            await bench.engine.write(lambda session, one=one: session.stamp(one))
        await bench.engine.write(lambda session: agents.delete_agent(session, AGENTS))
        await bench.follow()

    run(bench, work)
    before = schema.connect(str(bench.master))
    expected, epoch = rows(before), change_log.mark(before, change_log.EPOCH)
    before.close()
    promoted = Bench(tmp_path / "later")
    os.replace(bench.candidate / REPLICA_FILE, promoted.master / schema.DATABASE)

    async def lead(bench: Bench) -> None:
        db = schema.connect(str(bench.master))
        found = rows(db)
        events, others = found.pop("clusterd_event"), expected.pop("clusterd_event")
        assert found == expected
        assert [row[0] for row in sorted(events, key=lambda row: row[1])] == [2, 1]
        assert len(others) == 2
        assert change_log.mark(db, change_log.EPOCH) != epoch
        db.close()
        assert await stored(bench).greatest() == AGENTS
        await bench.follow()
        bench.check_equal()

    run(promoted, lead)


def test_candidate_that_may_not_lead_says_so_and_takes_it_back(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """As its own election knows: priority 0 for masters that know no more than that."""

    async def work(bench: Bench) -> None:
        await bench.populate()
        bench.copy._priority = 100
        found = []
        for objection in (None, "its files are incomplete", ""):
            if objection is not None:
                bench.copy.object(objection)
            ask = await bench.copy.first()
            found.append((ask.priority, ask.objection))
        assert found == [
            (0, "its election has not said yet that it may lead"),
            (0, "its files are incomplete"),
            (100, ""),
        ]
        await bench.follow()
        bench.copy.object("its files\nare incomplete" + "!" * 500)
        await bench.step(await bench.copy.first())
        (row,) = (await bench.source.shown())["candidates"]
        assert row["may_not_lead"].startswith("its filesare incomplete!!!")
        assert len(row["may_not_lead"]) < 250
        bench.copy.object("")
        monkeypatch.setattr(replica_copy, "OBJECTION_S", -1.0)
        ask = await bench.copy.first()
        assert (ask.priority, ask.objection) == (0, "its election says nothing")

    run(bench, work)


def test_candidate_that_objects_is_answered_soon(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its next question says so when it may lead: nothing else would, in a quiet cluster."""
    monkeypatch.setattr(replica_source, "WAIT_S", 3600.0)
    monkeypatch.setattr(replica_source, "OBJECTING_S", 0.01)

    async def work(bench: Bench) -> None:
        await bench.populate()
        bench.copy._priority = 100
        ask = msgspec.structs.replace(await bench.follow(), digest=False)
        assert ask.objection
        bench.source._pace_s = 3600
        async with asyncio.timeout(60):
            assert (await bench.source.tell("w", ask)).units == b""

    run(bench, work)


def test_end_of_the_log_that_was_moved_makes_a_candidate_ask_once_more_and_changes_nothing(bench: Bench) -> None:
    """Before a handover: the answer that it needs for that comes with what else there is."""

    async def work(bench: Bench) -> None:
        await bench.populate()
        ask = await bench.follow()
        assert ask.held == await bench.source.head()
        await bench.engine.settle(True)
        head = await bench.source.head()
        assert head == ask.held + 1
        changes, ask = await bench.step(ask)
        assert (len(unpack_units(changes.units)), ask.held) == (1, head)
        ask = await bench.follow()
        assert bench.copy._replica is not None
        assert bench.copy._replica.is_equal
        bench.check_equal()

    run(bench, work)


def test_what_an_agent_has_beside_its_row_is_read_when_it_has_changed_and_not_at_a_keepalive(bench: Bench) -> None:
    """The second time: the first one notes what it was."""

    async def work(bench: Bench) -> None:
        await bench.populate()
        bench.copy._digest_s = 3600.0  # a comparison reads, too
        ask = await bench.follow()
        replica = bench.copy._replica
        assert replica is not None
        said: list[str] = []
        replica.db.set_trace_callback(said.append)

        async def changed(statement: str) -> bool:
            nonlocal ask
            await bench.engine.write(lambda session: session.db.execute(statement))
            said.clear()
            changes, ask = await bench.step(ask)
            assert len(unpack_units(changes.units)) == 1
            bench.check_equal()
            return any("from labels" in one for one in said)

        keepalive = "update agent set last_keepalive = last_keepalive + 1 where id = 5"
        assert await changed(keepalive)
        assert not await changed(keepalive)
        for part in (
            "insert into labels (id, key, value) values (5, 'site', 'berlin')",
            "update labels set value = 'rome' where id = 5",
            "delete from labels where id = 5",
            "delete from belongs where id_agent = 5",
            "delete from clusterd_seen where kind = 'key' and name = '5'",
            "insert into clusterd_seen (kind, name) values ('key', '5')",
        ):
            assert await changed(part), part
            assert not await changed(keepalive)
        await changed("delete from agent where id = 5")
        await changed("insert into agent (id, name, date_add) values (5, 'again', 1)")
        replica.db.set_trace_callback(None)
        bench.copy._compare_at = 0.0
        await bench.follow()
        assert replica.is_equal

    run(bench, work)


def test_replica_of_an_earlier_version_does_not_know_what_its_agents_had(bench: Bench) -> None:
    async def work(bench: Bench) -> None:
        await bench.populate()
        await bench.follow()
        bench.copy.close()
        db = schema.connect(str(bench.candidate), name=REPLICA_FILE)
        db.execute(f"alter table {change_log.TOLD} drop column parts")
        db.close()
        bench.start_copy()
        for _ in range(2):
            await bench.engine.write(lambda session: agents.update_agent_name(session, agents.AgentName(5, "other")))
            await bench.engine.write(lambda session: session.db.execute("delete from labels where id = 5"))
            await bench.follow()
            bench.check_equal()

    run(bench, work)
