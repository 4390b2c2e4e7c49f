"""Copies of databases that other programs read meanwhile."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from clusterd import database_copy


@contextlib.contextmanager
def read_meanwhile(path: Path, rows: int = 3000) -> Iterator[None]:
    """A program reads this database since before its last changes: these cannot go from the journal to the file."""
    with (
        contextlib.closing(sqlite3.connect(path, isolation_level=None)) as writer,
        contextlib.closing(sqlite3.connect(path, isolation_level=None)) as reader,
    ):
        writer.execute("pragma journal_mode = wal").fetchone()
        writer.execute("create table late (id integer primary key, text)")
        reader.execute("begin")
        reader.execute("select count(*) from late").fetchone()
        writer.executemany("insert into late (text) values (?)", [("x" * 100,)] * rows)
        writer.close()
        yield


def late(path: Path) -> int:
    """How many of its rows a database has that is not damaged."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("pragma integrity_check").fetchall() == [("ok",)]
        (count,) = db.execute("select count(*) from late").fetchone()
        return int(count)


def test_copy_has_everything_whoever_reads_the_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_copy, "WAIT_S", 0.05)
    source, target = tmp_path / "source.db", tmp_path / "target.db"
    with read_meanwhile(source, 50):
        assert not database_copy.is_gathered(source)
        for _ in range(2):
            database_copy.copy_database(source, target, 0o600)
            assert late(target) == 50
    assert database_copy.is_gathered(source)
    database_copy.copy_database(source, target, 0o640)
    assert late(target) == 50
    assert target.stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source.db", "target.db"]


def test_database_without_a_journal_of_its_own_is_copied(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "source.db")) as db:
        db.execute("create table late (id)")
    database_copy.copy_database(tmp_path / "source.db", tmp_path / "target.db", 0o600)
    assert late(tmp_path / "target.db") == 0
