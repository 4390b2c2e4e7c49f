"""The database engine of the store: one writer thread that commits in batches, and reader threads with a connection
each. Waiting writes share a transaction and are answered after its commit, so an answered write survives the death of
the process and every reader sees it. `durable` writes also survive a power failure.
"""

import asyncio
import contextlib
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from clusterd.clock import boot_us
from clusterd.database_copy import pour
from clusterd.open_database import OpenDatabase
from clusterd.store import change_log, schema
from clusterd.store.bounds import StatementWatch, authorize, bound_process
from clusterd.store.errors import NotOnDisk
from clusterd.store.gate import WriteGate
from clusterd.store.groups_checksum import GroupHashes

T = TypeVar("T")
MOST_IN_BATCH = 500
BATCH_S = 0.02
"""How long a batch goes on taking in waiting writes."""
MOST_PIECES = 2
"""So many pieces of large writes are in the queue at a time: the writer has the next one when one ends, and a
registration waits for two, not for one of each of 50 workers that report at the same time."""
CLOSE_S = 2.0
LOG_BYTES = 64 << 20
LOG_WAIT_MS = 200
"""SQLite begins its log anew only in a moment without readers, which a busy store never has: from this size on (some
MiB are usual) reads wait until those that run have ended, at most this long, and the log is emptied."""
WALL_JUMP_US = 1_000_000
"""A step of the wall clock of this size is recorded; smaller steps do not matter for reports."""


class Session:
    """What a write works with. `db` is inside a transaction, which the write must not end."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self.db = db
        self.hashes = GroupHashes()
        self._last_at = 0
        self._wall_offset_us = schema.noted_wall_offset(db)
        self.load_hashes()
        row = db.execute("select max(at) from clusterd_event").fetchone()
        self._last_at = row[0] or 0

    def load_hashes(self) -> None:
        """The sequence of group hashes as stored in the table."""
        self.hashes.load(
            # A client may have stored anything there, even invalid text.
            self.db.execute(
                "select id, cast(group_hash as blob) from agent where id > 0 and group_hash is not null order by id"
            )
        )

    def begin(self, *, after_undo: bool) -> None:
        """Called when a transaction is open. `after_undo`: the previous one was rolled back, with the events it had
        recorded."""
        if after_undo:
            self.load_hashes()
            self._wall_offset_us = schema.noted_wall_offset(self.db)
        offset_us = schema.wall_offset_us()
        if self._wall_offset_us is None or abs(offset_us - self._wall_offset_us) > WALL_JUMP_US:
            schema.note_wall_offset(self.db, offset_us)
            self._wall_offset_us = offset_us

    @staticmethod
    def now() -> int:
        """Seconds since 1970."""
        return int(time.time())

    def stamp(self, agent_id: int) -> None:
        """Records that something was heard of this agent now. Timestamps are unique."""
        self._last_at = max(self._last_at + 1, boot_us())
        self.db.execute(
            "insert into clusterd_event (id, at, node) values (?, ?, '')"
            " on conflict (id) do update set at = excluded.at, node = ''",
            (agent_id, self._last_at),
        )


class _Write:
    __slots__ = ("alone", "durable", "future", "work")

    def __init__(
        self, work: Callable[[Session], Any], durable: bool, alone: bool, future: "asyncio.Future[Any]"
    ) -> None:
        self.work = work
        self.durable = durable
        self.alone = alone
        self.future = future


class Engine:
    """Owns all connections to the database. Create and close it on the event loop."""

    def __init__(self, root: str, readers: int, gate: WriteGate | None = None) -> None:
        """Raises sqlite3.Error; prepare the database first. `commits`, `writes`: counters since then. `watch`: limits
        clients' statements. `gate`: asked when a write is taken and before it is committed; None: no election."""
        self._gate = gate
        self._loop = asyncio.get_running_loop()
        self._wal = f"{root}/{schema.DATABASE}-wal"
        self._root = root
        self._session = Session(schema.connect(root))
        self.file = OpenDatabase(f"{root}/{schema.DATABASE}")
        bound_process(self._session.db)
        self.watch = StatementWatch()
        self._stale = False
        self.damage = ""
        """Why the database file is damaged, once that was noticed; else empty."""
        self.committed: Callable[[], None] = lambda: None
        """Called on the loop after each commit."""
        self.commits = 0
        self.writes = 0
        self._queue: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._pieces = asyncio.Semaphore(MOST_PIECES)
        self._log_limit = LOG_BYTES
        self._may_read = threading.Lock()
        """Held for a moment by each read that begins, and while none may."""
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._readers = ThreadPoolExecutor(readers, thread_name_prefix="store-reader")
        self._writer = threading.Thread(target=self._write_all, name="store-writer")
        self._writer.start()

    async def write(self, work: Callable[[Session], T], *, durable: bool = False, alone: bool = False) -> T:
        """Runs `work` in the writer thread and returns its result after the commit (with `durable`: after it is on
        disk). `alone`: uses a separate transaction, for work that may be interrupted and then rolls back everything. An
        SQLite error in the work is raised here and undoes only its statement; if the commit fails, the whole batch is
        undone and every caller gets that error: NotLeading where this master may not act."""
        if self._gate is None:
            return await self._put(work, durable, alone)
        await self._gate.enter()
        done = await self._put(work, durable, alone)
        if not durable:
            # It may have been committed just before the lease ended; nobody is told so afterwards. Who asks for
            # `durable` has more to do, and looks itself.
            self._gate.check()
        return done

    async def write_piece(self, work: Callable[[Session], T]) -> T:
        """`write` for a piece of something large. Whoever has pieces gets its turn, and other writes come in
        between."""
        async with self._pieces:
            return await self.write(work)

    async def settle(self, marks: bool) -> None:
        """Returns when every write that was taken before is committed; with `marks` the end of the change log has moved
        behind them. Raises as `write` does."""
        await self._put(lambda session: change_log.mark_end(session.db) if marks else None, True, True)

    async def mark(self) -> int:
        """Moves the end of the change log and returns its position, which is on the disk: who has that has asked after
        this. Raises as `write` does."""

        def work(session: Session) -> int:
            change_log.mark_end(session.db)
            return change_log.head(session.db)

        return await self.write(work, durable=True)

    async def _put(self, work: Callable[[Session], T], durable: bool, alone: bool) -> T:
        future: asyncio.Future[T] = self._loop.create_future()
        self._queue.put(_Write(work, durable, alone, future))
        return await future

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Runs `work` on a reader's connection. It sees every write that was answered before."""
        return await self._loop.run_in_executor(self._readers, self._read, work)

    def close(self) -> None:
        """May be called twice."""
        self.end_work()
        self._session.db.close()

    def copy(self, target: str) -> None:
        """Between `end_work` and `close`: writes all that is in the database into another file, whatever has become of
        its own. Raises sqlite3.Error."""
        with contextlib.closing(sqlite3.connect(target)) as copy:
            pour(self._session.db, copy)

    def end_work(self) -> None:
        """Writes what still waits; interrupts running reads, and a write that takes longer than CLOSE_S. May be called
        twice."""
        self._queue.put(None)
        self._readers.shutdown(wait=False, cancel_futures=True)
        readers = threading.Thread(target=self._readers.shutdown, name="store-close")
        readers.start()
        until = time.monotonic() + CLOSE_S
        while readers.is_alive() or self._writer.is_alive():
            # Repeat: SQLite forgets an interrupt that comes between two statements.
            for connection in self._connections:
                connection.interrupt()
            if time.monotonic() > until:
                self._session.db.interrupt()
            readers.join(0.02)
            self._writer.join(0.02)
        while self._connections:
            self._connections.pop().close()
        self.watch.close()

    # ---- reader threads ----------------------------------------------------------------------------------------------

    def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = schema.connect(self._root, readonly=True)
            connection.set_authorizer(authorize)
            self._local.connection = connection
            self._connections.append(connection)
        with self._may_read:
            pass
        try:
            return work(connection)
        except sqlite3.DatabaseError as failure:
            self._note_damage(failure)
            raise

    def _note_damage(self, failure: BaseException) -> None:
        if schema.is_damage(failure):
            self.damage = self.damage or str(failure)

    # ---- the writer thread -------------------------------------------------------------------------------------------

    def _write_all(self) -> None:
        held: _Write | None = None
        while (first := held or self._queue.get()) is not None:
            batch, ended, held = [first], False, None
            outcomes: list[tuple[_Write, Any, BaseException | None]] = []
            try:
                self._begin()
                ended, held = self._work_off(batch, outcomes)
                self._commit(any(write.durable for write in batch))
                self.commits += 1
                self.writes += len(batch)
            except BaseException as failure:
                self._note_damage(failure)
                self._undo()
                if isinstance(failure, NotOnDisk):
                    # It is committed: only who asked for more has not got it.
                    outcomes = [
                        (write, done, why or (failure if write.durable else None)) for write, done, why in outcomes
                    ]
                else:
                    outcomes = [(write, None, failure) for write in batch]
            self._loop.call_soon_threadsafe(self._deliver, outcomes)
            if ended:
                return
            self._bound_log()

    def _bound_log(self) -> None:
        """Empties the log when it has become too large. If a read lasts too long, or the disk refuses, the next attempt
        is made when it has grown by as much again."""
        try:
            size = os.stat(self._wal).st_size
        except OSError:
            return
        if size < self._log_limit:
            return
        db, is_kept = self._session.db, True
        with self._may_read, contextlib.suppress(sqlite3.Error):
            db.execute(f"pragma busy_timeout = {LOG_WAIT_MS}")
            try:
                is_kept = bool(db.execute("pragma wal_checkpoint(truncate)").fetchone()[0])
            finally:
                db.execute(f"pragma busy_timeout = {schema.BUSY_MS}")
        self._log_limit = size + LOG_BYTES if is_kept else LOG_BYTES

    def _begin(self) -> None:
        self._session.db.execute("begin immediate")
        self._session.begin(after_undo=self._stale)
        self._stale = False

    def _work_off(
        self, batch: list[_Write], outcomes: list[tuple[_Write, Any, BaseException | None]]
    ) -> tuple[bool, _Write | None]:
        """Runs the first work and those that wait. Returns whether the engine is to close, and the work that begins the
        next batch."""
        until = time.monotonic() + BATCH_S
        write: _Write | None = batch[0]
        while write is not None:
            try:
                outcomes.append((write, write.work(self._session), None))
            except Exception as failure:
                self._note_damage(failure)
                outcomes.append((write, None, failure))
                if not self._session.db.in_transaction:
                    # A full disk, for example, rolls back the whole transaction, not one statement.
                    raise
            if write.alone or len(batch) >= MOST_IN_BATCH or time.monotonic() > until:
                return False, None
            try:
                write = self._queue.get_nowait()
            except queue.Empty:
                return False, None
            if write is not None:
                if write.alone:
                    return False, write
                batch.append(write)
        return True, None

    def _commit(self, durable: bool) -> None:
        """Raises NotOnDisk if the commit succeeded but the sync failed; any other error means that it can be rolled
        back."""
        if self._gate is not None:
            self._gate.check()
        if not durable:
            self._session.db.execute("commit")
            return
        fd = os.open(self._wal, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._session.db.execute("commit")
            try:
                os.fsync(fd)
            except OSError as failure:
                raise NotOnDisk(failure.errno, failure.strerror) from failure
        finally:
            os.close(fd)

    def _undo(self) -> None:
        self._stale = True
        if self._session.db.in_transaction:
            try:
                self._session.db.execute("rollback")
            except (sqlite3.Error, MemoryError):
                # The failure of the commit also rolled it back; if not, the next `begin` fails and reports that.
                return

    # ---- on the loop -------------------------------------------------------------------------------------------------

    def _deliver(self, outcomes: list[tuple[_Write, Any, BaseException | None]]) -> None:
        for write, result, failure in outcomes:
            if write.future.done():
                continue
            if failure is None:
                write.future.set_result(result)
            else:
                write.future.set_exception(failure)
        self.committed()
