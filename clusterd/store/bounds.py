"""Limits of a client's own SQL: it may read and change rows and nothing else, in bounded memory and time. `authorize`
lists what is allowed, so that new features of SQLite stay refused until somebody has judged them.
"""

import _sqlite3
import contextlib
import ctypes
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from typing import cast

from clusterd.store import change_log

LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: 4 << 20,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 128 * 1024,
    sqlite3.SQLITE_LIMIT_COLUMN: 100,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 1000,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 100,
    sqlite3.SQLITE_LIMIT_VDBE_OP: 500_000,
    sqlite3.SQLITE_LIMIT_FUNCTION_ARG: 100,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 8192,
    sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 20,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}
"""A request has at most 64 KiB; an answer is cut at the same size. A library built with smaller limits keeps its
own."""
STATEMENT_BYTES = 96 << 20
"""A statement is interrupted when SQLite's memory has grown by this much since the statement began."""
PROCESS_BYTES = 256 << 20
"""Memory limit of SQLite for the whole process: an allocation beyond it fails at once."""
LOOK_S = 0.02
TOO_MUCH = "the statement needs too much memory"

_ROWS = frozenset({sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE})
_READING = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE})
_OURS = frozenset({"metadata", "clusterd_seen", "clusterd_event", "clusterd_change", *change_log.TABLES})
"""Tables that the next start depends on."""
_FUNCTIONS_DENIED = frozenset({"load_extension", "fts3_tokenizer"})
_PRAGMAS_WITH_ARGUMENT = frozenset(
    {
        "table_info",
        "table_xinfo",
        "table_list",
        "index_list",
        "index_info",
        "index_xinfo",
        "foreign_key_list",
        "foreign_key_check",
        "integrity_check",
        "quick_check",
    }
)
_PRAGMAS_READ = _PRAGMAS_WITH_ARGUMENT | {
    "application_id",
    "auto_vacuum",
    "busy_timeout",
    "cache_size",
    "collation_list",
    "compile_options",
    "data_version",
    "database_list",
    "encoding",
    "foreign_keys",
    "freelist_count",
    "function_list",
    "journal_mode",
    "page_count",
    "page_size",
    "query_only",
    "schema_version",
    "synchronous",
    "user_version",
}


def authorize(action: int, first: str | None, second: str | None, database: str | None, within: str | None) -> int:
    """SQLite calls this while it prepares a statement. Clients may not touch schemas, transactions, other files or
    settings."""
    if action in _READING:
        allowed = True
    elif action in _ROWS:
        # Triggers are all ours: a client can make none.
        allowed = _may_change(action, first or "") or (within or "").startswith(change_log.TRIGGER)
    elif action == sqlite3.SQLITE_FUNCTION:
        allowed = second not in _FUNCTIONS_DENIED
    elif action == sqlite3.SQLITE_PRAGMA:
        allowed = first in (_PRAGMAS_WITH_ARGUMENT if second else _PRAGMAS_READ)
    else:
        allowed = False
    return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY


def _may_change(action: int, table: str) -> bool:
    if table == "sqlite_master":
        # SQLite asks for this when a statement reads json_each() or pragma_table_info(); it refuses a real change
        # itself.
        return action == sqlite3.SQLITE_UPDATE
    if table == "clusterd_event":
        # Deleting an agent also deletes its event by trigger, which SQLite reports like a deletion by the statement
        # itself.
        return action == sqlite3.SQLITE_DELETE
    return table not in _OURS and not table.startswith("sqlite_")


def bound_process(connection: sqlite3.Connection) -> None:
    """Sets PROCESS_BYTES for every connection of the process; it can only be lowered afterwards."""
    connection.execute(f"pragma hard_heap_limit = {PROCESS_BYTES}").fetchone()


class _Statement:
    __slots__ = ("connection", "longest_s", "reason", "until", "used", "used_much")

    def __init__(self, connection: sqlite3.Connection, longest_s: float) -> None:
        self.connection = connection
        self.longest_s = longest_s
        self.until = time.monotonic() + longest_s
        self.used = _memory_used()
        self.used_much = False
        self.reason = ""


class StatementWatch:
    """Interrupts clients' statements that run too long or take too much memory, from one thread that sleeps while none
    runs. SQLite's progress handler cannot do this: a single function call may take seconds, thousands of calls lie
    between two calls of the handler, and each call of the handler waits for Python's lock."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._running: set[_Statement] = set()
        self._closed = False
        self._thread = threading.Thread(target=self._look, name="store-watch")
        self._thread.start()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    @contextlib.contextmanager
    def bounded(self, connection: sqlite3.Connection, longest_s: float) -> Iterator[None]:
        """Guards one statement of a client, on a connection that runs nothing else. Raises sqlite3.Error that names the
        limit."""
        statement = _Statement(connection, longest_s)
        usual = {which: connection.setlimit(which, most) for which, most in LIMITS.items()}
        with self._changed:
            self._running.add(statement)
            self._changed.notify()
        try:
            yield
        except sqlite3.OperationalError:
            statement.used_much = statement.reason == TOO_MUCH
            if statement.reason:
                raise sqlite3.OperationalError(statement.reason) from None
            raise
        except MemoryError:
            statement.used_much = True
            raise sqlite3.OperationalError(TOO_MUCH) from None
        finally:
            with self._changed:
                self._running.discard(statement)
            for which, most in usual.items():
                connection.setlimit(which, most)
            if statement.used_much:
                _trim_heap()

    def _look(self) -> None:
        while True:
            with self._changed:
                while not self._running and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return
                for statement in self._running:
                    self._judge(statement)
            time.sleep(LOOK_S)

    @staticmethod
    def _judge(statement: _Statement) -> None:
        """Runs under the lock, so that the interrupt hits this statement and no later one. It repeats, because SQLite
        forgets an interrupt that comes before the statement's first step."""
        if time.monotonic() > statement.until:
            statement.reason = f"the statement was broken off after {statement.longest_s:g} s"
        elif _memory_used() - statement.used > STATEMENT_BYTES:
            statement.reason = TOO_MUCH
        if statement.reason:
            statement.connection.interrupt()


def _find_memory_used() -> Callable[[], int] | None:
    try:
        found = ctypes.CDLL(_sqlite3.__file__).sqlite3_memory_used
    except (OSError, AttributeError):
        # SQLite is built into the interpreter and cannot be asked; the limit of the process still holds.
        return None
    found.restype = ctypes.c_int64
    return cast(Callable[[], int], found)


_counter = _find_memory_used()


def _memory_used() -> int:
    """Bytes of memory that SQLite holds in this process, 0 where it does not say."""
    return _counter() if _counter is not None else 0


def _trim_heap() -> None:
    """Returns the memory of a large statement to the system; otherwise the C library keeps it for each thread."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
