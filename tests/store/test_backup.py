"""`clusterd store backup`: the copy is whole while other programs write, and nothing else is touched."""

import fcntl
import os
import sqlite3
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from clusterd.store import backup
from tools.cli import cluster

ROWS = 2000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root/queue/db").mkdir(parents=True)
    (tmp_path / "root/etc").mkdir()
    (tmp_path / "root/etc/ossec.conf").touch()
    return tmp_path / "root"


def clusterd(root: Path, target: Path) -> Result:
    return CliRunner().invoke(cluster, ["--root", str(root), "store", "backup", str(target)])


def filled(root: Path) -> sqlite3.Connection:
    """A database with a write-ahead log that another program has open, in the middle of a write."""
    database = sqlite3.connect(root / "queue/db/global.db", isolation_level=None)
    database.execute("pragma journal_mode = wal")
    database.execute("create table agent (id integer)")
    database.execute("begin")
    database.executemany("insert into agent values (?)", ((n,) for n in range(ROWS)))
    database.execute("commit")
    database.execute("begin immediate")
    database.execute("insert into agent values (-1)")
    return database


def test_copy_has_what_was_committed_and_stands_alone(root: Path, tmp_path: Path) -> None:
    writer = filled(root)
    target = tmp_path / "copy.db"
    done = clusterd(root, target)
    assert (done.exit_code, done.output) == (0, f"{target}: {target.stat().st_size} bytes\n")
    writer.execute("rollback")
    writer.close()
    assert target.stat().st_mode & 0o777 == 0o600
    assert {path.name for path in tmp_path.iterdir()} == {"root", "copy.db"}
    copy = sqlite3.connect(target)
    assert copy.execute("select count(*), min(id) from agent").fetchone() == (ROWS, 0)
    copy.close()
    again = clusterd(root, target)
    assert (again.exit_code, again.stdout) == (1, "")
    assert "is there already and is not overwritten" in again.stderr


def test_backup_and_its_name_are_on_the_disk_when_its_size_is_told(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, synced, sync = tmp_path / "copy.db", list[tuple[int, bool]](), os.fsync

    def noting(fd: int) -> None:
        synced.append((os.fstat(fd).st_ino, target.exists()))
        sync(fd)

    monkeypatch.setattr(os, "fsync", noting)
    filled(root).close()
    assert clusterd(root, target).exit_code == 0
    assert (target.stat().st_ino, False) in synced
    assert (tmp_path.stat().st_ino, True) in synced, "a power failure took the name"


def test_nothing_is_left_of_a_copy_that_fails(root: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy.db"
    assert "there is no agent database" in clusterd(root, target).stderr
    (root / "queue/db/global.db").write_bytes(b"this is no database" * 1000)
    done = clusterd(root, target)
    assert (done.exit_code, "cannot be copied" in done.stderr) == (1, True)
    assert "clusterd store renew" in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"root"}


def test_place_of_the_copy_is_named_when_it_is_full_or_missing(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not the database, which is good."""

    def full(source: sqlite3.Connection, copy: sqlite3.Connection) -> None:
        copy.execute("pragma max_page_count = 1")
        copy.execute("create table t (a)")

    filled(root).close()
    assert clusterd(root, tmp_path / "none/copy.db").stderr == f"clusterd: there is no directory {tmp_path}/none\n"
    monkeypatch.setattr(backup, "pour", full)
    target = tmp_path / "copy.db"
    assert clusterd(root, target).stderr == f"clusterd: there is no room for {target}: make room on its disk\n"
    assert {path.name for path in tmp_path.iterdir()} == {"root"}


def test_what_a_killed_backup_has_left_is_no_obstacle_and_one_that_works_is(root: Path, tmp_path: Path) -> None:
    filled(root).close()
    target, part = tmp_path / "copy.db", tmp_path / "copy.db.part"
    part.write_bytes(b"half of a database")
    with part.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        done = clusterd(root, target)
        assert (done.exit_code, "another backup is writing" in done.stderr) == (1, True)
        assert part.exists()
    assert clusterd(root, target).exit_code == 0
    assert {path.name for path in tmp_path.iterdir()} == {"root", "copy.db"}
    target.unlink()
    part.symlink_to(root / "etc/ossec.conf")
    done = clusterd(root, target)
    assert (done.exit_code, "is in the way" in done.stderr, part.is_symlink()) == (1, True, True)


def test_database_that_stays_locked_is_not_waited_for_without_end(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup, "BUSY_S", 0.05)
    writer = filled(root)
    writer.execute("rollback")
    writer.close()
    locking = sqlite3.connect(root / "queue/db/global.db", isolation_level=None)
    locking.execute("pragma locking_mode = exclusive")
    locking.execute("insert into agent values (-2)")
    done = clusterd(root, tmp_path / "copy.db")
    locking.close()
    assert (done.exit_code, "another program has locked the database" in done.stderr) == (1, True)
    assert {path.name for path in tmp_path.iterdir()} == {"root"}
