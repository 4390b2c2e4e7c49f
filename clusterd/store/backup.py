"""Copies the agent database while it is in use."""

import contextlib
import os
import sqlite3
from pathlib import Path

from clusterd.errors import StartFailure
from clusterd.store.schema import DATABASE

MODE = 0o600
BUSY_S = 30.0


def backup(root: str, target: str) -> int:
    """Writes a copy of the agent database as it is at this moment, checked and synced to disk; returns its size in
    bytes. The node, or wazuh-db, goes on working. Raises StartFailure without a database, with a damaged one, and for a
    target that exists; OSError."""
    source = Path(root, DATABASE)
    if not source.exists():
        raise StartFailure(f"there is no agent database at {source}")
    if os.path.lexists(target):
        raise StartFailure(f"{target} is there already and is not overwritten")
    temporary = f"{target}.part"
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, MODE))
    try:
        try:
            _copy(source, temporary)
        except sqlite3.Error as failure:
            raise StartFailure(f"{source} cannot be copied: {failure}") from None
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
            size = os.fstat(file.fileno()).st_size
        os.link(temporary, target)  # unlike a rename this overwrites nothing
    finally:
        os.unlink(temporary)
    return size


def _copy(source: Path, target: str) -> None:
    """Raises sqlite3.Error."""
    with (
        contextlib.closing(sqlite3.connect(f"{source.as_uri()}?mode=ro", uri=True, timeout=BUSY_S)) as database,
        contextlib.closing(sqlite3.connect(target)) as copy,
    ):
        database.backup(copy)
        copy.execute("pragma journal_mode = delete")  # one file, whatever the original has beside it
        (found,) = copy.execute("pragma quick_check(1)").fetchone()
        if found != "ok":
            raise sqlite3.DatabaseError(found)
