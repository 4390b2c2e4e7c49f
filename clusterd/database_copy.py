"""A database that nobody writes, as one file. SQLite moves what the journal has into the file only while nobody reads:
until then the file by itself is old, or even damaged, since some of its pages may be newer than others."""

import contextlib
import shutil
import sqlite3
from pathlib import Path

WAIT_S = 2.0
"""For programs that read the database."""


def is_gathered(path: Path) -> bool:
    """Whether the file has everything, once this has tried to move it there; if not, another program reads the
    database. Raises sqlite3.Error."""
    with contextlib.closing(sqlite3.connect(path, timeout=WAIT_S, isolation_level=None)) as db:
        (is_kept_from_it, _, _) = db.execute("pragma wal_checkpoint(truncate)").fetchone()
    return not is_kept_from_it


def pour(source: sqlite3.Connection, target: sqlite3.Connection) -> None:
    """Copies all of one database into another. Raises sqlite3.Error, also for one that stays locked longer than its
    connection waits: `backup` by itself tries for ever."""

    def look(status: int, left: int, total: int) -> None:
        if status in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise sqlite3.OperationalError("another program has locked the database")

    source.backup(target, progress=look)


def copy_database(source: Path, target: Path, mode: int) -> None:
    """Copies all of it, whoever reads it meanwhile; takes the place of `target`. Not synced to disk. Raises OSError,
    sqlite3.Error."""
    target.unlink(missing_ok=True)
    target.touch(mode, exist_ok=False)
    if is_gathered(source):
        shutil.copyfile(source, target)  # several times faster
    else:
        with (
            contextlib.closing(sqlite3.connect(source, timeout=WAIT_S)) as db,
            contextlib.closing(sqlite3.connect(target)) as copy,
        ):
            copy.execute("pragma synchronous = off")
            copy.execute("pragma journal_mode = off").fetchone()
            pour(db, copy)
    target.chmod(mode)
