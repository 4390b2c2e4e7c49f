"""Writes in batches: an answered write is committed, a reader sees it, and a failed one affects no other."""

import asyncio
import errno
import os
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from clusterd.clock import boot_us
from clusterd.errors import StartFailure
from clusterd.store import agents, groups, schema, sql
from clusterd.store import engine as engine_module
from clusterd.store.engine import Engine, Session
from clusterd.store.errors import NotOnDisk
from clusterd.store.private import PrivateDatabases
from clusterd.store.table import StoreTable


@asynccontextmanager
async def engine_at(root: Path) -> AsyncIterator[Engine]:
    schema.prepare(str(root), "alone", "4.14.1")
    engine = Engine(str(root), readers=2)
    try:
        yield engine
    finally:
        engine.close()


def run(root: Path, work: Callable[[Engine], Awaitable[None]]) -> None:
    async def main() -> None:
        async with engine_at(root) as engine:
            await work(engine)

    asyncio.run(main())


@contextmanager
def held_writer(engine: Engine) -> Iterator[None]:
    """What is written in this block becomes one batch at its end."""
    go_on = threading.Event()

    def hold(session: Session) -> None:
        assert go_on.wait(60)

    holding = asyncio.ensure_future(engine.write(hold, alone=True))
    try:
        yield
    finally:
        go_on.set()
        holding.add_done_callback(lambda done: done.exception())


def add(agent_id: int) -> Callable[[Session], None]:
    return lambda session: agents.insert_agent(session, agents.NewAgentRow(agent_id, f"agent{agent_id}", 1))


def count(db: sqlite3.Connection) -> int:
    return int(db.execute("select count(*) from agent where id > 0").fetchone()[0])


def test_reader_sees_every_write_answered_before(tmp_path: Path) -> None:
    async def work(engine: Engine) -> None:
        for agent_id in range(1, 200):
            await engine.write(add(agent_id))
            assert await engine.read(count) == agent_id

    run(tmp_path, work)


def test_log_is_bounded_while_reads_never_cease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite by itself begins it anew only when nobody reads."""
    monkeypatch.setattr(engine_module, "LOG_BYTES", 400_000)

    def fill(number: int) -> Callable[[Session], Any]:
        return lambda session: session.db.execute(f"update agent set os_uname = '{'x' * 4000}{number}'")

    def hold(db: sqlite3.Connection) -> None:
        found = db.execute("select id, os_uname from agent")
        found.fetchone()
        time.sleep(0.02)
        found.close()

    async def work(engine: Engine) -> None:
        for agent_id in range(1, 51):
            await engine.write(add(agent_id))

        async def reads(after_s: float) -> None:
            await asyncio.sleep(after_s)
            while True:
                await engine.read(hold)

        readers = [asyncio.create_task(reads(place * 0.01)) for place in range(2)]
        await asyncio.sleep(0.05)
        for number in range(60):
            await engine.write(fill(number))
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
        assert await engine.read(count) == 50
        # All pages that were written have some 15 MB.
        assert (tmp_path / f"{schema.DATABASE}-wal").stat().st_size < 8_000_000

    run(tmp_path, work)


def test_writes_that_wait_share_a_commit(tmp_path: Path) -> None:
    async def work(engine: Engine) -> None:
        held = threading.Event()
        first = asyncio.ensure_future(engine.write(lambda session: held.wait(10)))
        others = [asyncio.ensure_future(engine.write(add(agent_id))) for agent_id in range(1, 301)]
        await asyncio.sleep(0)
        held.set()
        await asyncio.gather(first, *others)
        assert engine.commits < 10
        assert engine.writes == 301

    run(tmp_path, work)


def test_refused_statement_undoes_itself_only(tmp_path: Path) -> None:
    async def work(engine: Engine) -> None:
        outcomes = await asyncio.gather(
            engine.write(add(1)), engine.write(add(1)), engine.write(add(2)), return_exceptions=True
        )
        assert isinstance(outcomes[1], sqlite3.IntegrityError)
        assert outcomes[0] is outcomes[2] is None
        assert await engine.read(count) == 2

    run(tmp_path, work)


@pytest.mark.slow
def test_full_disk_is_reported_to_each_client_and_loses_nothing_answered(tmp_path: Path) -> None:
    async def work(engine: Engine) -> None:
        await engine.write(add(1))

        def bound(session: Session) -> None:
            pages = session.db.execute("pragma page_count").fetchone()[0]
            session.db.execute(f"pragma max_page_count = {pages}")

        await engine.write(bound)
        outcomes = await asyncio.gather(
            *(engine.write(add(agent_id)) for agent_id in range(2, 4000)), return_exceptions=True
        )
        refused = [one for one in outcomes if one is not None]
        assert refused
        assert all("full" in str(one) for one in refused)
        assert await engine.read(count) == 1 + len(outcomes) - len(refused)
        await engine.write(lambda session: session.db.execute("pragma max_page_count = 1000000").fetchone())
        await engine.write(add(5000))

    run(tmp_path, work)


def test_hash_in_memory_is_right_after_a_failed_commit(tmp_path: Path) -> None:
    async def work(engine: Engine) -> None:
        await engine.write(add(1))
        await engine.write(lambda session: groups.insert_group(session, "default"))
        request = {"mode": "override", "data": [{"id": 1, "groups": ["default"]}]}

        def assign_and_fail(session: Session) -> None:
            groups.set_agent_groups(session, request, on_worker=False)
            session.db.execute("rollback")
            raise sqlite3.OperationalError("disk I/O error")

        with pytest.raises(sqlite3.OperationalError, match="disk I/O"):
            await engine.write(assign_and_fail)
        assert await engine.write(lambda session: session.hashes.digest()) is None
        await engine.write(lambda session: groups.set_agent_groups(session, request, on_worker=False))
        assert await engine.write(lambda session: session.hashes.digest()) == "aac8edbccfab5ea7eee53016af08b756a44dc399"

    run(tmp_path, work)


def test_locked_database_is_an_error_and_then_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "BUSY_MS", 50)

    async def work(engine: Engine) -> None:
        other = sqlite3.connect(tmp_path / schema.DATABASE, isolation_level=None)
        try:
            other.execute("begin immediate")
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                await engine.write(add(1))
            assert await engine.read(count) == 0
            other.execute("rollback")
            await engine.write(add(1))
        finally:
            other.close()

    run(tmp_path, work)


def test_database_of_another_version_is_refused_with_what_to_do(tmp_path: Path) -> None:
    schema.prepare(str(tmp_path), "alone", "4.14.1")
    with sqlite3.connect(tmp_path / schema.DATABASE) as db:
        db.execute("update metadata set value = '6' where key = 'db_version'")
    db.close()
    with pytest.raises(StartFailure, match=r"schema version 6.*clusterd\.store: off"):
        schema.prepare(str(tmp_path), "alone", "4.14.1")


def test_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "queue/db").mkdir(parents=True)
    (tmp_path / schema.DATABASE).write_bytes(b"not a database" * 500)
    with pytest.raises(StartFailure, match="cannot be opened"):
        schema.prepare(str(tmp_path), "alone", "4.14.1")


def restart_machine(root: Path, *, up_s: float, wall_s: float | None) -> None:
    """Makes the times in the database look like those of another boot, whose wall clock was `wall_s` ahead of this
    one's and which was `up_s` further on; None: the wall clock was not recorded then."""
    db = schema.connect(str(root))
    db.execute("update clusterd_seen set name = 'another boot' where kind = 'boot'")
    db.execute("delete from clusterd_seen where kind = 'wall'")
    if wall_s is not None:
        offset_us = schema.wall_offset_us() + int((wall_s - up_s) * 1e6)
        db.execute("insert into clusterd_seen (kind, name) values ('wall', ?)", (str(offset_us),))
    db.close()
    schema.prepare(str(root), "alone", "4.14.1")


def moments(root: Path) -> list[tuple[int, int, str]]:
    db = schema.connect(str(root))
    try:
        return db.execute("select id, at, node from clusterd_event order by id").fetchall()
    finally:
        db.close()


@pytest.fixture
def with_moments(tmp_path: Path) -> Path:
    """A database that heard of agent 1 now, from this node, and of agent 2 two minutes earlier, from a worker."""
    schema.prepare(str(tmp_path), "alone", "4.14.1")
    db = schema.connect(str(tmp_path))
    for agent_id, at, node in ((1, boot_us(), ""), (2, boot_us() - 120_000_000, "w")):
        db.execute("insert into agent (id, name, date_add) values (?, 'x', 1)", (agent_id,))
        db.execute("insert into clusterd_event (id, at, node) values (?, ?, ?)", (agent_id, at, node))
    db.close()
    return tmp_path


def test_moments_stay_when_only_the_process_begins_anew(with_moments: Path) -> None:
    before = moments(with_moments)
    schema.prepare(str(with_moments), "alone", "4.14.1")
    assert moments(with_moments) == before


def test_moments_of_an_earlier_boot_are_counted_back_from_this_one(with_moments: Path) -> None:
    began_us = boot_us()
    up_s = began_us / 1e6 + 1000
    restart_machine(with_moments, up_s=up_s, wall_s=0)
    (_, late, here), (_, early, worker) = moments(with_moments)
    assert (here, worker) == ("", "w")
    # What was heard of "now" by a clock that shows up_s more is up_s ago.
    assert late == pytest.approx(began_us - up_s * 1e6, abs=2e6)
    assert late - early == pytest.approx(120e6, abs=1e6)


def test_moments_of_an_earlier_boot_are_before_this_one_whatever_the_clock_says(with_moments: Path) -> None:
    restart_machine(with_moments, up_s=0, wall_s=1e6)
    assert [at for _, at, _ in moments(with_moments)] == [-1, -1]


def test_moments_that_nothing_can_turn_into_ours_are_forgotten(with_moments: Path) -> None:
    restart_machine(with_moments, up_s=10, wall_s=None)
    assert moments(with_moments) == []


def test_wall_clock_that_is_set_is_noted_with_the_next_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(engine: Engine) -> None:
        await engine.write(add(1))
        before = await engine.read(schema.noted_wall_offset)
        assert before is not None
        monkeypatch.setattr(schema, "wall_offset_us", lambda: before + 3_600_000_000)
        await engine.write(add(2))
        assert await engine.read(schema.noted_wall_offset) == before + 3_600_000_000

    run(tmp_path, work)


FOREVER = "with recursive n(i) as (select 1 union all select i + 1 from n) "


@pytest.mark.slow
def test_endless_statement_is_interrupted_and_affects_no_other_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql, "READ_S", 0.2)
    monkeypatch.setattr(sql, "WRITE_S", 0.2)

    async def work(engine: Engine) -> None:
        reading = engine.read(lambda db: sql.run_read(db, FOREVER + "select count(*) from n", engine.watch))
        with pytest.raises(sqlite3.OperationalError, match=r"broken off after 0\.2 s"):
            await reading
        before, endless, after = (
            asyncio.ensure_future(one)
            for one in (
                engine.write(add(1)),
                engine.write(
                    lambda session: sql.run_write(
                        session,
                        FOREVER + "insert into agent (id, name, date_add) select i + 10, 'x' || i, 1 from n",
                        engine.watch,
                    ),
                    alone=True,
                ),
                engine.write(add(2)),
            )
        )
        with pytest.raises(sqlite3.OperationalError, match=r"broken off after 0\.2 s"):
            await endless
        await asyncio.gather(before, after)
        assert await engine.read(count) == 2
        assert await engine.read(lambda db: sql.run_read(db, "select 1 as one", engine.watch)) == b'[{"one":1}]'

    run(tmp_path, work)


def test_close_breaks_off_what_never_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "CLOSE_S", 0.1)

    async def work(engine: Engine) -> None:
        started = threading.Semaphore(0)

        def read(db: sqlite3.Connection) -> bytes:
            started.release()
            return sql.run_read(db, FOREVER + "select count(*) from n", engine.watch)

        def write(session: Session) -> bytes:
            started.release()
            return sql.run_write(
                session,
                FOREVER + "insert into agent (id, name, date_add) select i + 10, 'x' || i, 1 from n",
                engine.watch,
            )

        asked = [
            asyncio.ensure_future(one)
            for one in (engine.read(read), engine.read(read), engine.write(write, alone=True))
        ]
        await asyncio.sleep(0)
        for _ in asked:
            assert await asyncio.to_thread(started.acquire, timeout=60)
        began = time.monotonic()
        await asyncio.to_thread(engine.close)
        assert time.monotonic() - began < 60
        for outcome in await asyncio.gather(*asked, return_exceptions=True):
            assert isinstance(outcome, sqlite3.OperationalError)
            assert "interrupted" in str(outcome)

    run(tmp_path, work)


def test_durable_write_whose_log_cannot_be_opened_never_happened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was once committed first, and stayed: an agent in the database whose registration had been refused."""
    real = os.open

    def refusing(path: Any, *args: Any, **options: Any) -> int:
        if str(path).endswith("-wal"):
            raise OSError(errno.EMFILE, "Too many open files")
        return real(path, *args, **options)

    async def work(engine: Engine) -> None:
        monkeypatch.setattr(os, "open", refusing)
        with pytest.raises(OSError, match="Too many"):
            await engine.write(add(1), durable=True)
        monkeypatch.undo()
        assert await engine.read(count) == 0
        await engine.write(add(1), durable=True)
        assert await engine.read(count) == 1

    run(tmp_path, work)


def test_durable_write_that_cannot_be_synced_says_that_it_happened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    async def work(engine: Engine) -> None:
        monkeypatch.setattr(os, "fsync", failing)
        with pytest.raises(NotOnDisk):
            await engine.write(add(1), durable=True)
        monkeypatch.undo()
        assert await engine.read(count) == 1

    run(tmp_path, work)


def test_write_that_shares_its_batch_with_one_that_cannot_be_synced_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its client was told of an error, though what it had asked for was done: reports that are cleared as they are read
    were lost."""

    def failing(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    async def work(engine: Engine) -> None:
        monkeypatch.setattr(os, "fsync", failing)
        with held_writer(engine):
            outcomes = asyncio.gather(
                engine.write(lambda session: add(1)(session) or "done"),
                engine.write(add(2), durable=True),
                return_exceptions=True,
            )
            await asyncio.sleep(0)  # both wait
        done, unsynced = await outcomes
        assert (done, type(unsynced)) == ("done", NotOnDisk)
        monkeypatch.undo()
        assert await engine.read(count) == 2

    run(tmp_path, work)


def test_note_that_registrations_were_answered_ends_nothing_where_the_disk_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ended the registration of agents, and the whole store with that, when another write of its batch failed."""
    opened = os.open

    def refusing(path: str, *arguments: int, **named: int) -> int:
        if str(path).endswith("-wal"):
            raise OSError(errno.EMFILE, "Too many open files")
        return opened(path, *arguments, **named)

    async def work(engine: Engine) -> None:
        table = StoreTable(engine, PrivateDatabases(str(tmp_path), "4.14.1"))
        table.answered({7})
        monkeypatch.setattr(os, "open", refusing)
        with held_writer(engine):
            outcomes = asyncio.gather(table.note_answered(), engine.write(add(2), durable=True), return_exceptions=True)
            await asyncio.sleep(0)  # both wait
        noted, refused = await outcomes
        assert (noted, type(refused)) == (None, OSError)

    run(tmp_path, work)
