"""What an operator is told to do about a database that cannot be used."""

import errno
import resource
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from clusterd.errors import StartFailure
from clusterd.store import schema
from clusterd.store.advice import LOCKED, advice
from clusterd.store.errors import NotLeading, SocketTaken
from clusterd.store.stream import bind
from clusterd.store.trouble import Trouble

RENEW = "clusterd store renew"


def locked(path: Path) -> None:
    with sqlite3.connect(path, timeout=0) as first, sqlite3.connect(path, timeout=0) as second:
        first.execute("begin exclusive")
        second.execute("begin exclusive")


def full(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("pragma max_page_count = 1")
        database.execute("create table a (b)")


def damaged(path: Path) -> None:
    path.write_bytes(b"not a database" * 500)
    sqlite3.connect(path).execute("select * from sqlite_master")


def closed(path: Path) -> None:
    sqlite3.connect(path / "nowhere")


def failing(path: Path) -> None:
    with sqlite3.connect(path) as database:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
        try:
            database.execute("create table a (b)")
            database.commit()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)


def no_room(path: Path) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def no_right(path: Path) -> None:
    raise PermissionError(errno.EACCES, "Permission denied")


def test_socket_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """The system does not say which file it was."""
    said: list[str] = []
    with pytest.raises(OSError) as failure:
        bind("/proc/clusterd.sock")
    Trouble(str(tmp_path), lambda level, text: said.append(text), 5).begins(failure.value)
    assert "files are synchronised: /proc/clusterd.sock: " in said[0]


@pytest.mark.parametrize(
    ("fail", "words"),
    [
        (locked, LOCKED),
        (full, "Make room"),
        (damaged, RENEW),
        (closed, "owner"),
        (failing, "disk full"),
        (no_room, "Make room"),
        (no_right, "owner"),
    ],
)
def test_only_a_damaged_database_is_to_be_renewed(tmp_path: Path, fail: Callable[[Path], None], words: str) -> None:
    with pytest.raises((sqlite3.Error, OSError)) as failed:
        fail(tmp_path / "a.db")
    told = StartFailure("the agent database cannot be opened")
    told.__cause__ = failed.value
    assert words in advice(told)
    assert advice(told) == advice(failed.value)
    assert (RENEW in advice(told)) == (words == RENEW)


def test_damage_that_a_check_found_needs_a_backup_and_a_taken_socket_speaks_for_itself() -> None:
    assert RENEW in advice(StartFailure("the agent database is damaged"))
    assert advice(SocketTaken("stop the other one")) == ""


def test_good_database_that_is_not_for_us_now_is_not_to_be_renewed(tmp_path: Path) -> None:
    """That of another version of wazuh-db, and one that a master may not write while it does not lead."""
    (tmp_path / "queue/db").mkdir(parents=True)
    schema.prepare(str(tmp_path), "node", "4.14.1")
    with sqlite3.connect(tmp_path / schema.DATABASE) as database:
        database.execute("update metadata set value = '99' where key = 'db_version'")
    with pytest.raises(StartFailure, match=r"schema version 99.*clusterd\.store: off") as failed:
        schema.prepare(str(tmp_path), "node", "4.14.1")
    assert advice(failed.value) == ""
    assert advice(NotLeading("this master does not lead")) == ""
