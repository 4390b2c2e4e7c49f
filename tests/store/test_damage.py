"""When the database is damaged or cannot be opened, only agents are missing, and the file stays."""

import contextlib
import errno
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from clusterd.errors import StartFailure
from clusterd.open_database import OpenDatabase
from clusterd.rundir import REAL_DAEMON, STORE_SOCKETS, WDB_SOCKET, problem_path
from clusterd.store import process, schema
from clusterd.store.moved import rescue
from clusterd.store.renew import renew
from clusterd.wdb.stream import is_served
from tests.store.lone_store import LoneStore, lone_store
from tools.cli import cluster
from tools.rig.patience import Patience
from tools.rig.wdb_client import WdbClient, WdbError

DEADLINE_S = 60.0


def until(condition: Callable[[], bool], what: str) -> None:
    patience = Patience(DEADLINE_S)
    while not condition():
        assert not patience.is_over(), what
        time.sleep(0.05)


@pytest.fixture(autouse=True)
def tries_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Applies to the stores of this file, which are forks."""
    monkeypatch.setattr(process, "RETRY_S", 0.2)


def problem(store: LoneStore) -> str:
    path = Path(problem_path(str(store.root), "store"))
    return path.read_text() if path.exists() else ""


def damage(path: Path) -> None:
    """The header stays valid, so that only a reader of later pages notices."""
    with open(path, "r+b") as file:
        file.seek(4096)
        file.write(os.urandom(path.stat().st_size - 4096))


@pytest.mark.parametrize(
    "content", [b"not a database" * 500, b"SQLite format 3\0" + b"\0" * 4080], ids=["text", "zeros"]
)
def test_a_file_that_is_no_database_is_left_unchanged_while_the_process_waits(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / schema.DATABASE
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with lone_store(tmp_path) as store:
        assert "clusterd store renew" in problem(store)
        assert store.log.count("ERROR") == 1
        assert not any(is_served(str(tmp_path / name)) for name in STORE_SOCKETS)
        assert path.read_bytes() == content
        other = tmp_path / "backup"
        (other / "queue/db").mkdir(parents=True)
        schema.prepare(str(other), "node", "4.14.1")
        (other / schema.DATABASE).rename(path)
        until(lambda: is_served(str(tmp_path / WDB_SOCKET)), "a backup put in its place is served")
        until(lambda: problem(store) == "", "the problem is over")
        with WdbClient(tmp_path) as client:
            assert client.ask("global sql select count(*) from agent")[0] == "ok"


def test_pages_that_are_damaged_are_found_at_the_start(tmp_path: Path) -> None:
    schema.prepare(str(tmp_path), "node", "4.14.1")
    damage(tmp_path / schema.DATABASE)
    with pytest.raises(StartFailure):
        schema.prepare(str(tmp_path), "node", "4.14.1")


@pytest.mark.slow
def test_damage_found_while_serving_ends_only_the_service(tmp_path: Path) -> None:
    with lone_store(tmp_path) as store:
        with WdbClient(tmp_path) as client:
            for number in range(1, 200):
                client.ask(f'global insert-agent {{"id":{number},"name":"agent{number}","date_add":1}}')
        store.kill()
        store.restart()
        damage(tmp_path / schema.DATABASE)

        def is_noticed() -> bool:
            try:
                with WdbClient(tmp_path) as client:
                    client.ask("global sql select * from agent order by name")
            except (OSError, WdbError):
                pass
            return "clusterd store renew" in problem(store)

        until(is_noticed, "the damage is noticed")
        until(lambda: not is_served(str(tmp_path / WDB_SOCKET)), "nobody is served out of a damaged database")


def test_renewing_keeps_the_old_one_and_the_store_goes_on(tmp_path: Path) -> None:
    path = tmp_path / schema.DATABASE
    path.parent.mkdir(parents=True)
    path.write_bytes(b"not a database" * 500)
    Path(f"{path}-wal").write_bytes(b"its log")
    with lone_store(tmp_path) as store:
        until(lambda: problem(store) != "", "the problem is told")
        found = CliRunner().invoke(cluster, ["--root", str(tmp_path), "store", "renew"])
        assert found.exit_code == 0, found.output
        until(lambda: is_served(str(tmp_path / WDB_SOCKET)), "the new one is served")
        kept = {one.read_bytes() for one in path.parent.glob("global.db.damaged-*")}
        assert b"not a database" * 500 in kept
        with pytest.raises(StartFailure, match="in use"):
            renew(str(tmp_path))
    with sqlite3.connect(path) as db:
        assert db.execute("pragma quick_check").fetchone() == ("ok",)
    db.close()
    (tmp_path / REAL_DAEMON).parent.mkdir()
    (tmp_path / REAL_DAEMON).touch()
    found = CliRunner().invoke(cluster, ["--root", str(tmp_path), "store", "renew"])
    assert (found.exit_code, "the manager's bin/wazuh-db and was not touched" in found.stderr) == (1, True)
    assert "Stop the node" not in found.stderr, "that would not help"


def put_another(path: Path) -> None:
    """A backup of another day."""
    other = path.parents[2] / "backup"
    (other / "queue/db").mkdir(parents=True)
    schema.prepare(str(other), "node", "4.14.1")
    with contextlib.closing(sqlite3.connect(other / schema.DATABASE)) as db:
        db.execute("insert into agent (id, name, date_add) values (9, 'theirs', 1)")
        db.commit()
    (other / schema.DATABASE).replace(path)


def agents(of: Path) -> list[tuple[int, str]]:
    with contextlib.closing(sqlite3.connect(f"file:{of}?mode=ro", uri=True)) as db:
        return db.execute("select id, name from agent where id > 0").fetchall()


@pytest.mark.parametrize("move", [Path.unlink, put_another])
def test_database_that_another_program_moves_loses_nothing(tmp_path: Path, move: Callable[[Path], object]) -> None:
    path = tmp_path / schema.DATABASE
    with lone_store(tmp_path) as store:
        with WdbClient(tmp_path) as client:
            client.ask('global insert-agent {"id":1,"name":"ours","date_add":1}')
        move(path)
        until(lambda: "while this node used it" in store.log, "it is noticed")
        until(lambda: is_served(str(tmp_path / WDB_SOCKET)), "what is there is served")
        with WdbClient(tmp_path) as client:
            client.ask('global insert-agent {"id":2,"name":"later","date_add":1}')
        first = (1, "ours") if move is Path.unlink else (9, "theirs")
        assert agents(path) == sorted([first, (2, "later")])
        kept = list(path.parent.glob("global.db.in-use-*"))
        assert [agents(one) for one in kept] == ([] if move is Path.unlink else [[(1, "ours")]])


def test_backup_that_is_put_in_place_just_before_a_stop_stays_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / schema.DATABASE
    with lone_store(tmp_path) as store:
        with WdbClient(tmp_path) as client:
            client.ask('global insert-agent {"id":1,"name":"ours","date_add":1}')
        put_another(path)
        assert store.stop() == 0
    assert agents(path) == [(9, "theirs")]
    assert [agents(one) for one in path.parent.glob("global.db.in-use-*")] == [[(1, "ours")]]


class EndedEngine:
    """An engine whose work has ended."""

    def __init__(self, path: Path) -> None:
        self.db = sqlite3.connect(path)
        self.db.execute("select id from agent").fetchone()  # from here on there is a journal
        self.file = OpenDatabase(str(path))

    def copy(self, target: str) -> None:
        with contextlib.closing(sqlite3.connect(target)) as copy:
            self.db.backup(copy)

    def close(self) -> None:
        self.db.close()


@pytest.mark.parametrize("move", [Path.unlink, put_another])
def test_what_was_in_it_is_kept_also_without_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, move: Callable[[Path], object]
) -> None:
    def refused(*paths: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    path = tmp_path / schema.DATABASE
    path.parent.mkdir(parents=True)
    schema.prepare(str(tmp_path), "node", "4.14.1")
    engine = EndedEngine(path)
    engine.db.execute("insert into agent (id, name, date_add) values (1, 'ours', 1)")
    engine.db.commit()
    move(path)
    monkeypatch.setattr(os, "link", refused)
    told = rescue(str(tmp_path), engine)  # type: ignore[arg-type]
    kept = [agents(one) for one in path.parent.glob("global.db.in-use-*")]
    if move is Path.unlink:
        assert ("removed" in told, agents(path), kept) == (True, [(1, "ours")], [])
    else:
        assert ("replaced" in told, agents(path), kept) == (True, [(9, "theirs")], [[(1, "ours")]])
