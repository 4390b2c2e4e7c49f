"""The journal's file: what has happened on this node, a bounded SQLite database that one process writes.

    events(seq, at, kind, outcome, data)    `at`: ms since 1970; `data`: the event as JSON (messages/journal.py)
    clock(wall, doubted_s)                  one row: what was believed of the wall clock (wall_watch.py)

A write-ahead log lets commands read while the monitor writes, and needs no sync of the disk for a commit: a power cut
loses the last events, never the file. Used by one thread at a time.
"""

import contextlib
import os
import sqlite3
import time
from collections.abc import Sequence

import msgspec

from clusterd.monitor.wall_watch import ClockState
from clusterd.open_database import OpenDatabase

SCHEMA = 1
APPLICATION_ID = 0x636C6A6C
FILE_MODE = 0o640
PAGE_BYTES = 4096
PRUNED_AT_ONCE = 200
STEPS_AT_ONCE = 10
VACUUMED_PAGES = 512
"""Old events are removed in small steps: at most this many steps a call, and this many events a step."""
BUSY_MS = 2000
DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_SUFFIXES = ("", "-wal", "-shm")

CREATE = """
CREATE TABLE events (
    seq INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    kind TEXT NOT NULL,
    outcome TEXT NOT NULL,
    data TEXT NOT NULL
);
CREATE INDEX events_at ON events (at);
CREATE INDEX events_kind ON events (kind, seq);
"""
CREATE_CLOCK = "CREATE TABLE IF NOT EXISTS clock (one INTEGER PRIMARY KEY, wall REAL NOT NULL, doubted_s REAL NOT NULL)"
"""Files of the first version may lack this table."""


class JournalRow(msgspec.Struct, frozen=True):
    """One event as the file has it."""

    seq: int
    at_ms: int
    kind: str
    outcome: str
    data: str


class JournalFile:
    """Owner of the file. Every method may raise sqlite3.Error or OSError; then `give_up` and `open` begin anew.

    `rows`, `used_bytes`: its content as of the last `write` or `prune`."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._opened: OpenDatabase | None = None
        self._moved = ""
        """What another program has done to the file while it was open, to be said."""
        self._is_counted = False
        self._file_bytes = 0
        self.rows = 0
        self.used_bytes = 0

    @property
    def is_open(self) -> bool:
        return self._connection is not None

    def open(self) -> str:
        """Opens the file, or creates it. Returns a text when an unusable file was set aside, or when another program
        has moved the file away: what is written from now on is in the one that is there."""
        if self._connection is not None and self._opened is not None and self._opened.look():
            self.give_up()
        if self._connection is not None:
            return ""
        try:
            self._open()
        except sqlite3.DatabaseError as failure:
            self.give_up()
            if not is_damage(failure):
                raise
            aside, self._moved = self.set_aside(), ""
            self._open()
            return f"{self._path} was damaged ({failure}): it is kept as {aside}, and a new one is begun."
        moved, self._moved = self._moved, ""
        return moved

    def _open(self) -> None:
        self._opened = None
        # Created by us: SQLite would make it readable for every user.
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE))
        connection = self._connection = sqlite3.connect(
            self._path, timeout=0, isolation_level=None, check_same_thread=False
        )
        connection.execute(f"PRAGMA busy_timeout={BUSY_MS}")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if not version:
            for pragma in (f"page_size={PAGE_BYTES}", "auto_vacuum=INCREMENTAL", f"application_id={APPLICATION_ID}"):
                connection.execute(f"PRAGMA {pragma}")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA journal_size_limit=4194304")
        connection.execute("PRAGMA cache_size=-512")
        if not version:
            connection.executescript(f"BEGIN; {CREATE} PRAGMA user_version={SCHEMA}; COMMIT;")
        elif version != SCHEMA:
            raise sqlite3.DatabaseError(f"its schema is version {version}, this clusterd knows {SCHEMA}")
        connection.execute(CREATE_CLOCK)
        connection.execute("SELECT seq, at, kind, outcome, data FROM events ORDER BY seq DESC LIMIT 1").fetchone()
        self._opened = OpenDatabase(self._path)  # its journal is there by now
        if not self._is_counted:
            self.rows = connection.execute("SELECT count(*) FROM events").fetchone()[0]
            self._is_counted = True
        self._measure()

    def last_seq(self) -> int:
        """Returns the number of the last event, 0 for an empty file."""
        found = self._in_use().execute("SELECT max(seq) FROM events").fetchone()[0]
        return int(found or 0)

    def clock(self) -> ClockState | None:
        """Returns what the last life believed of the wall clock. For a file without a note, that its last event was
        written at its moment; None for an empty file."""
        found = self._in_use().execute("SELECT wall, doubted_s FROM clock").fetchone()
        if found is not None:
            return ClockState(*found)
        newest = self._in_use().execute("SELECT at FROM events ORDER BY seq DESC LIMIT 1").fetchone()
        return ClockState(newest[0] / 1000) if newest is not None else None

    def note_clock(self, state: ClockState) -> None:
        self._in_use().execute("INSERT OR REPLACE INTO clock VALUES (1, ?, ?)", (state.wall, state.doubted_s))

    def write(self, rows: Sequence[JournalRow]) -> int:
        """Writes all of these events or none. An event that is there already stays unchanged: a batch arrives twice
        when something failed after its commit. If another event has the number of one of them, that one keeps it, and
        this one gets the next free number. Returns the highest number given so, 0 if none was."""
        connection = self._in_use()
        given = 0
        connection.execute("BEGIN IMMEDIATE")
        try:
            last = self.last_seq()
            if rows and rows[0].seq <= last:
                rows, given = self._numbered_anew(rows, last)
            connection.executemany(
                "INSERT INTO events (seq, at, kind, outcome, data) VALUES (?, ?, ?, ?, ?)",
                [(row.seq, row.at_ms, row.kind, row.outcome, row.data) for row in rows],
            )
            connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise
        self.rows += len(rows)
        self._measure()
        return given

    def _numbered_anew(self, rows: Sequence[JournalRow], last: int) -> tuple[list[JournalRow], int]:
        """Returns the rows to write, and the highest number given to one of them."""
        highest, given, found = max(last, rows[-1].seq), 0, []
        for row in rows:
            there = self._in_use().execute("SELECT data FROM events WHERE seq = ?", (row.seq,)).fetchone()
            if there is None:
                found.append(row)
            elif there[0] != row.data:
                highest = given = highest + 1
                data = msgspec.json.encode(msgspec.json.decode(row.data) | {"seq": given}).decode()
                found.append(msgspec.structs.replace(row, seq=given, data=data))
        return found, given

    def prune(self, oldest_ms: int, size_bytes: int) -> bool:
        """Removes a few events that are older than `oldest_ms`, or that exceed `size_bytes`. Returns True if more
        remain."""
        connection = self._in_use()
        for _ in range(STEPS_AT_ONCE):
            too_large = self.used_bytes > size_bytes
            condition = "" if too_large else f"WHERE at < {int(oldest_ms)}"
            index = "" if too_large else "INDEXED BY events_at"
            order = "seq" if too_large else "at"
            found = connection.execute(
                "DELETE FROM events WHERE seq IN "
                f"(SELECT seq FROM events {index} {condition} ORDER BY {order} LIMIT {PRUNED_AT_ONCE})"
            )
            self.rows -= found.rowcount
            self._measure()
            # An empty file cannot get smaller.
            is_done = not found.rowcount or (found.rowcount < PRUNED_AT_ONCE and self.used_bytes <= size_bytes)
            if is_done:
                break
        else:
            is_done = False
        if self._file_bytes > size_bytes:
            connection.execute(f"PRAGMA incremental_vacuum({VACUUMED_PAGES})").fetchall()
            self._measure()
        return not is_done or self._file_bytes > max(size_bytes, self.used_bytes)

    def _measure(self) -> None:
        connection = self._in_use()
        pages, free = (connection.execute(f"PRAGMA {what}").fetchone()[0] for what in ("page_count", "freelist_count"))
        self.used_bytes, self._file_bytes = (pages - free) * PAGE_BYTES, pages * PAGE_BYTES

    def close(self) -> None:
        """Folds the log into the file and closes everything. SQLite leaves the log of a file that another program has
        moved away; it is removed, or whoever opens the file that is there now reads it into that."""
        if self._connection is None:
            return
        connection, self._connection = self._connection, None
        what = "" if self._opened is None else self._opened.look()
        try:
            connection.close()
        finally:
            if what and self._opened is not None:
                self._is_counted = False
                self._moved = (
                    f"Another program has {what} {self._path} while it was in use: what follows is in the one there is "
                    "now."
                )
                self._opened.remove_journal()

    def give_up(self) -> None:
        """After a failure: closes what is open, whatever fails in it."""
        with contextlib.suppress(sqlite3.Error, OSError):
            self.close()

    def set_aside(self) -> str:
        """Moves the file away and returns its new path. Replaces a file that was moved away earlier."""
        self.give_up()
        self._is_counted = False
        aside = f"{self._path}.damaged"
        for suffix in _SUFFIXES:
            with contextlib.suppress(FileNotFoundError):
                os.replace(self._path + suffix, aside + suffix)
        return aside

    def _in_use(self) -> sqlite3.Connection:
        if self._connection is None:
            raise sqlite3.OperationalError("the journal is not open")
        return self._connection


def is_damage(failure: Exception) -> bool:
    """Whether the file itself is unusable, so that trying again is pointless."""
    code = getattr(failure, "sqlite_errorcode", None)
    if code is None:
        return isinstance(failure, sqlite3.DatabaseError) and not isinstance(failure, sqlite3.OperationalError)
    return code & 0xFF in DAMAGED or (code & 0xFF == sqlite3.SQLITE_ERROR and "no such" in str(failure))


def oldest_ms(days: float, now: float) -> int:
    """Returns the moment before which events are too old, in ms since 1970."""
    return int((now - days * 86400) * 1000)


def stamp(at: float) -> str:
    """Formats wall-clock seconds as `2026-11-30T03:04:05.123Z`."""
    ms = round(at * 1000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ms // 1000)) + f".{ms % 1000:03d}Z"
