"""A replica that is damaged, differs or was moved, and answers that do not fit: it is noticed, and both are equal in
the end."""

import contextlib
import os
import sqlite3

import msgspec
import pytest

from clusterd.rundir import COPY_FILE, REPLICA_FILE
from clusterd.store import agents, replica_source, schema
from clusterd.store.replica_copy import COPYING, FOLLOWING
from tests.store.replica_bench import Bench, run


@pytest.mark.slow
def test_difference_is_seen_by_the_digest_and_heals_once_in_a_while(bench: Bench) -> None:
    def tamper(bench: Bench) -> None:
        db = schema.connect(str(bench.candidate), name=REPLICA_FILE)
        db.execute("update agent set name = 'other' where id = 5")
        db.close()

    async def work(bench: Bench) -> None:
        await bench.populate()
        await bench.follow()
        tamper(bench)
        bench.restart("copy")
        ask = await bench.copy.first()
        _, ask = await bench.step(ask)
        assert (ask.state, ask.is_equal) == (COPYING, False)
        assert sum("differs" in line for line in bench.said) == 1
        ask = await bench.follow()
        assert ask.is_equal
        bench.check_equal()
        # Soon again: it is logged, and the replica stays as it is and may not lead.
        tamper(bench)
        for _ in range(replica_source.SLICES + 1):
            _, ask = await bench.step(ask)
        assert (ask.state, ask.is_equal) == (FOLLOWING, False)
        assert sum("differs" in line for line in bench.said) == 2
        bench.restart("copy")
        shown = await bench.copy.shown()
        assert (shown["may_not_lead"], shown["digest_equal"]) == ("its digest differed", False)
        bench.copy._priority = 100
        bench.copy.object("")
        ask = await bench.copy.first()
        assert (ask.priority, ask.objection) == (0, "its digest differed"), "it confirms nothing"

    run(bench, work)


def test_row_that_changed_behind_the_log_is_found_by_reading_slices_again(bench: Bench) -> None:
    async def work(bench: Bench) -> None:
        await bench.populate()
        ask = await bench.follow()
        db = schema.connect(str(bench.master))
        db.execute("drop trigger clusterd_log_agent_update")
        db.execute("update agent set name = 'other' where id = 5")
        db.close()
        for _ in range(replica_source.SLICES + 1):
            _, ask = await bench.step(ask)
            if ask.state == COPYING:
                break
        await bench.follow()
        bench.check_equal()

    run(bench, work)


@pytest.mark.parametrize("name", [REPLICA_FILE, COPY_FILE])
def test_damaged_file_is_replaced_by_a_new_one(bench: Bench, name: str) -> None:
    async def work(bench: Bench) -> None:
        await bench.populate()
        await bench.follow()
        bench.copy.close()
        (bench.candidate / name).write_bytes(os.urandom(8192))
        bench.start_copy()
        await bench.follow()
        bench.check_equal()

    run(bench, work)


def test_answer_to_an_earlier_question_changes_nothing(bench: Bench) -> None:
    async def work(bench: Bench) -> None:
        await bench.populate()
        ask = await bench.follow()
        await bench.engine.write(lambda session: agents.delete_agent(session, 2))
        first, _ = await bench.step(ask)
        await bench.engine.write(lambda session: agents.delete_agent(session, 4))
        await bench.follow()
        await bench.copy.apply(first)
        await bench.follow()
        bench.check_equal()

    run(bench, work)


def test_damaged_answer_is_refused_and_changes_nothing(bench: Bench) -> None:
    async def work(bench: Bench) -> None:
        await bench.populate()
        ask = await bench.copy.first()
        changes = await bench.source.tell("w", ask)
        for bad in (changes.units[:-1], b"xx", b"\xff\xff\xff\x7f" + changes.units[4:], changes.units[:4] + b"?" * 40):
            with pytest.raises(ValueError, match="changes"):
                await bench.copy.apply(msgspec.structs.replace(changes, units=bad))
        await bench.follow()
        bench.check_equal()

    run(bench, work)


@pytest.mark.parametrize("is_replaced", [False, True])
def test_replica_that_another_program_moves_is_not_said_to_hold_anything(bench: Bench, is_replaced: bool) -> None:
    """What the master answers because of it would be lost with the master."""

    async def work(bench: Bench) -> None:
        await bench.populate()
        ask = await bench.follow()
        path, older = bench.candidate / REPLICA_FILE, bench.candidate / "older.db"
        with contextlib.closing(sqlite3.connect(path)) as db, contextlib.closing(sqlite3.connect(older)) as copy:
            db.backup(copy)
        before = ask.held
        await bench.engine.write(lambda session: agents.delete_agent(session, 3))
        _, ask = await bench.step(ask)
        assert ask.held > before
        if is_replaced:
            older.replace(path)
        else:
            path.unlink()
        await bench.engine.write(lambda session: agents.delete_agent(session, 4))
        _, ask = await bench.step(ask)
        assert ask.held == (before if is_replaced else 0)
        await bench.follow()
        bench.check_equal()

    run(bench, work)
