"""Copies the agent database while it is in use."""

import contextlib
import fcntl
import os
import sqlite3
import stat
from pathlib import Path

from clusterd.database_copy import pour
from clusterd.errors import StartFailure
from clusterd.store.advice import advice
from clusterd.store.schema import DATABASE
from hashing.atomic import sync_path

MODE = 0o600
BUSY_S = 30.0


def backup(root: str, target: str) -> int:
    """Writes a copy of the agent database as it is at this moment, checked and synced to disk; returns its size in
    bytes. The node, or wazuh-db, goes on working. Raises StartFailure without a database, with a damaged one, and for a
    target that exists or that another backup is making; OSError. What a backup that was killed has left beside the
    target is removed."""
    source = Path(root, DATABASE)
    if not source.exists():
        raise StartFailure(f"there is no agent database at {source}")
    if os.path.lexists(target):
        raise StartFailure(f"{target} is there already and is not overwritten")
    temporary = f"{target}.part"
    held = _begin(temporary)
    try:
        try:
            _copy(source, temporary)
        except (sqlite3.Error, StartFailure) as failure:
            if getattr(failure, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
                raise StartFailure(f"there is no room for {target}: make room on its disk") from None
            more = f". {cure}" if (cure := advice(failure)) else ""
            raise StartFailure(f"{source} cannot be copied: {failure}{more}") from None
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
            size = os.fstat(file.fileno()).st_size
        os.link(temporary, target)  # unlike a rename this overwrites nothing
        sync_path(os.path.dirname(os.path.abspath(target)))
    finally:
        os.unlink(temporary)
        os.close(held)
    return size


def _begin(temporary: str) -> int:
    """Makes the file, empty. Returns a descriptor with a lock on it, which lasts as long as this process."""
    while True:
        try:
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, MODE)
        except FileExistsError:
            _remove_left(temporary)
            continue
        except FileNotFoundError:
            raise StartFailure(f"there is no directory {os.path.dirname(os.path.abspath(temporary))}") from None
        fcntl.flock(fd, fcntl.LOCK_EX)
        if os.fstat(fd).st_nlink:
            return fd
        os.close(fd)  # another one has taken it for left


def _remove_left(temporary: str) -> None:
    """Raises StartFailure: it is in use, or not ours."""
    try:
        found = os.lstat(temporary)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
            raise StartFailure(f"{temporary} is in the way, and no backup of this user has made it")
        fd = os.open(temporary, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return  # that backup has just ended
    with open(fd, "rb") as left:
        try:
            fcntl.flock(left, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StartFailure(f"another backup is writing {temporary}") from None
        if os.fstat(fd).st_nlink:
            os.unlink(temporary)


def _copy(source: Path, target: str) -> None:
    """Raises sqlite3.Error, StartFailure."""
    with (
        contextlib.closing(sqlite3.connect(f"{source.as_uri()}?mode=ro", uri=True, timeout=BUSY_S)) as database,
        contextlib.closing(sqlite3.connect(target)) as copy,
    ):
        pour(database, copy)
        copy.execute("pragma journal_mode = delete")  # one file, whatever the original has beside it
        (found,) = copy.execute("pragma quick_check(1)").fetchone()
        if found != "ok":
            raise StartFailure(found)
