"""Steps of a promotion: the replica, the keys and the logins that it puts in place."""

import contextlib
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clusterd import database_copy
from clusterd.role import LEFT_BEHIND, RoleChange
from clusterd.rundir import API_FILES, REPLICA_FILE
from clusterd.store import keys as keys_module
from clusterd.store import schema
from clusterd.supervisor import promotion
from clusterd.token_secret import SECRET_FILE
from clusterd.users import USERS_FILE
from tests.base.test_database_copy import late, read_meanwhile
from tests.supervisor.promotions import KEY, agents, begin, finish, keys, make_replica, settings_of, write_keys


def test_replica_becomes_the_agent_database_and_stays_where_it_is(root: str) -> None:
    make_replica(root, {1: "a", 2: "b"})
    schema.prepare(root, "w1", "4.14.1")
    with contextlib.closing(sqlite3.connect(Path(root) / schema.DATABASE)) as db:
        db.execute("insert into agent (id, name, date_add) values (9, 'own', 1)")
        db.commit()
        assert promotion.take_replica(root).startswith("2 of the replica"), "also with a journal beside the old file"
    assert agents(root) == {1: "a", 2: "b"} == agents(root, REPLICA_FILE)
    assert promotion.take_replica(root), "again, after a kill"
    assert not list((Path(root) / "queue/db").glob("*-wal"))
    schema.prepare(root, "w1", "4.14.1")
    assert agents(root) == {1: "a", 2: "b"}


@pytest.mark.slow
def test_nothing_is_missed_while_another_program_reads_the_replica(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it was told last is what the old master has answered to agents."""
    monkeypatch.setattr(database_copy, "WAIT_S", 0.05)
    make_replica(root, {1: "a"})
    with read_meanwhile(Path(root) / REPLICA_FILE):
        assert promotion.take_replica(root).startswith("1 of the replica")
    assert late(Path(root) / schema.DATABASE) == 3000


@pytest.mark.slow
def test_nothing_is_missed_of_a_database_that_was_read_when_it_is_put_back(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_copy, "WAIT_S", 0.05)
    make_replica(root, {1: "a"})
    schema.prepare(root, "w1", "4.14.1")
    with read_meanwhile(Path(root) / schema.DATABASE):
        promotion.keep_before(settings_of(root))
        promotion.take_replica(root)
    assert agents(root) == {1: "a"}
    promotion.put_back(settings_of(root))
    assert late(Path(root) / schema.DATABASE) == 3000
    assert not [path for path in (Path(root) / schema.DATABASE).parent.iterdir() if "promot" in path.name]


def test_no_replica_and_a_damaged_one_are_refused(root: str) -> None:
    with pytest.raises(promotion.NotPromoted, match="no replica"):
        promotion.take_replica(root)
    (Path(root) / REPLICA_FILE).write_bytes(b"x" * 9000)
    with pytest.raises((promotion.NotPromoted, sqlite3.DatabaseError)):
        promotion.take_replica(root)
    assert not (Path(root) / schema.DATABASE).exists()


def test_keys_follow_the_replica_and_newer_ones_stay(root: str) -> None:
    make_replica(root, {1: "a", 2: "b", 3: "c"}, greatest=5)
    promotion.take_replica(root)
    # 2 and 3 have not arrived with the files yet; 4 was removed; 6 arrived with the files and is not in the replica.
    write_keys(root, {1: "a", 4: "gone", 6: "new"})
    assert promotion.take_keys(settings_of(root), 7) == "2 added to etc/client.keys, 1 removed; ids go on after 6"
    assert keys(root) == {1: "a", 2: "b", 3: "c", 6: "new"}
    before = (Path(root) / LEFT_BEHIND / "7/files/etc/client.keys").read_text()
    assert "gone" in before
    assert promotion.take_keys(settings_of(root), 7).startswith("0 added")
    assert (Path(root) / LEFT_BEHIND / "7/files/etc/client.keys").read_text() == before


@pytest.mark.parametrize("meanwhile", [False, True])
def test_keys_are_compared_once_unless_the_file_changes(
    root: str, monkeypatch: pytest.MonkeyPatch, meanwhile: bool
) -> None:
    """With 100,000 agents each time takes half a second of CPU, in which nobody registers agents."""
    make_replica(root, {1: "a", 2: "b"}, greatest=5)
    write_keys(root, {1: "a"})
    files: list[int] = []

    def counted(data: bytes | None) -> Any:
        files.append(1)
        return parsed(data)

    parsed = keys_module._parsed
    monkeypatch.setattr(keys_module, "_parsed", counted)
    named = dict(promotion.steps(settings_of(root), 7, without_agents=False))
    named["agents"]()
    if meanwhile:
        write_keys(root, {1: "a", 6: "new"})
    assert named["keys"]().startswith("1 added")
    assert len(files) == (3 if meanwhile else 1)
    assert keys(root) == {1: "a", 2: "b"} | ({6: "new"} if meanwhile else {})


def test_an_id_that_was_given_to_another_agent_has_that_ones_key(root: str) -> None:
    """Its registration was answered when the candidate had it in its replica; the file was still on its way."""
    make_replica(root, {1: "a", 2: "new"})
    promotion.take_replica(root)
    (Path(root) / "etc/client.keys").write_text(f"001 a any {KEY}\n2 old 10.0.0.1 {'b' * 64}\n")
    assert promotion.take_keys(settings_of(root), 7).startswith("1 added to etc/client.keys, 0 removed")
    assert (Path(root) / "etc/client.keys").read_text() == f"001 a any {KEY}\n002 new any {KEY}\n"
    assert "2 old 10.0.0.1" in (Path(root) / LEFT_BEHIND / "7/files/etc/client.keys").read_text()
    written = (Path(root) / "etc/client.keys").stat().st_mtime_ns
    assert promotion.take_keys(settings_of(root), 7).startswith("0 added")
    assert (Path(root) / "etc/client.keys").stat().st_mtime_ns == written


def test_key_file_with_bytes_that_are_no_text_is_left_as_it_is(root: str) -> None:
    make_replica(root, {1: "a\N{REPLACEMENT CHARACTER}"})
    promotion.take_replica(root)
    (Path(root) / "etc/client.keys").write_bytes(b"1 a\xff any " + KEY.encode() + b"\n")
    assert promotion.take_keys(settings_of(root), 7).startswith("0 added")


def test_an_agent_whose_key_was_removed_is_not_brought_back(root: str) -> None:
    make_replica(root, {1: "a", 2: "b"}, keyless=(2,))
    promotion.take_replica(root)
    write_keys(root, {1: "a"})
    promotion.take_keys(settings_of(root), 1)
    assert keys(root) == {1: "a"}


def test_replica_that_does_not_fit_the_keys_replaces_nothing(root: str) -> None:
    make_replica(root, {1: "a"}, greatest=9)
    schema.prepare(root, "w1", "4.14.1")
    write_keys(root, {one: f"agent{one}" for one in range(1, 6)})
    with contextlib.closing(sqlite3.connect(Path(root) / schema.DATABASE)) as db:
        db.execute("insert into agent (id, name, date_add) values (9, 'own', 1)")
        db.commit()
    code, why = finish(root, begin(root, RoleChange("promote")))
    assert (code, "lacks 4 of the 5" in why) == (1, True)
    assert agents(root) == {9: "own"}, "the worker that it was"


def test_replica_that_lacks_most_agents_removes_no_keys(root: str) -> None:
    make_replica(root, {1: "a"}, greatest=9)
    promotion.take_replica(root)
    write_keys(root, {one: f"agent{one}" for one in range(1, 6)})
    with pytest.raises(promotion.NotPromoted, match="lacks 4 of the 5"):
        promotion.take_keys(settings_of(root), 1)
    assert len(keys(root)) == 5


@pytest.mark.parametrize("own", [(), ("cert",), ("key",), ("cert", "key")])
def test_logins_are_taken_and_a_certificate_with_its_key_only_where_there_is_neither(
    root: str, own: tuple[str, ...]
) -> None:
    """Another node's key does not fit the own certificate: the REST API would not start."""
    api = Path(root) / API_FILES
    api.mkdir()
    for name in ("users.json", "token.key", "certificate.pem", "key.pem"):
        (api / name).write_text(f"theirs {name}")
    settings = settings_of(root)
    pair = {"cert": Path(root) / settings.clusterd.api.cert, "key": Path(root) / settings.clusterd.api.key}
    for name in own:
        pair[name].write_text("mine")
    (Path(root) / USERS_FILE).write_text("mine")
    taken = "token.key, users.json of the REST API"
    assert promotion.take_users(settings) == (taken if own else f"certificate.pem, key.pem, {taken}")
    assert {name: path.read_text()[:6] for name, path in pair.items() if path.exists()} == (
        dict.fromkeys(own, "mine") if own else {"cert": "theirs", "key": "theirs"}
    )
    assert (Path(root) / USERS_FILE).read_text() == "theirs users.json"
    assert (Path(root) / SECRET_FILE).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("killed", [False, True])
def test_journal_that_was_kept_is_not_laid_beside_a_database_that_went_on_without_it(
    root: str, monkeypatch: pytest.MonkeyPatch, killed: bool
) -> None:
    """The program that had locked it has closed it, opened it again and written to it; no step has replaced it."""
    monkeypatch.setattr(database_copy, "WAIT_S", 0.05)
    make_replica(root, {1: "a"})
    schema.prepare(root, "w1", "4.14.1")
    database = Path(root) / schema.DATABASE
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as locking:
        locking.execute("pragma locking_mode = exclusive").fetchone()
        locking.execute("create table own (number integer)")
        locking.execute("insert into own values (1)")
        promotion.keep_before(settings_of(root))
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as again:
        again.execute("update own set number = 2")
    if killed:
        monkeypatch.setattr(Path, "unlink", _killed_at(".before-promotion", Path.unlink))
        with pytest.raises(ZeroDivisionError):
            promotion.put_back(settings_of(root))
        monkeypatch.undo()
    promotion.put_back(settings_of(root))
    with contextlib.closing(sqlite3.connect(database)) as db:
        assert db.execute("select number from own").fetchall() == [(2,)]
        assert db.execute("pragma quick_check").fetchone() == ("ok",)


def _killed_at(ending: str, unlink: Callable[..., None]) -> Callable[..., None]:
    def removed(path: Path, **how: bool) -> None:
        unlink(path, **how)
        if path.name.endswith(ending):
            raise ZeroDivisionError

    return removed


LOCKING = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("pragma locking_mode = exclusive")
db.execute("begin")
db.execute("create table late (id integer primary key, text)")
db.executemany("insert into late (text) values (?)", [("x" * 100,)] * 3000)
db.execute("commit")
print(flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("until", ["kept", "replaced", "put back in part"])
def test_nothing_is_missed_of_a_database_that_was_locked_when_it_is_put_back(
    root: str, monkeypatch: pytest.MonkeyPatch, until: str
) -> None:
    """The program that locks it has what it wrote last in the journal only, and dies."""
    monkeypatch.setattr(database_copy, "WAIT_S", 0.05)
    make_replica(root, {1: "a"})
    schema.prepare(root, "w1", "4.14.1")
    database = Path(root) / schema.DATABASE
    locking = subprocess.Popen(
        [sys.executable, "-c", LOCKING, str(database)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with locking:
        assert locking.stdout is not None
        locking.stdout.readline()
        promotion.keep_before(settings_of(root))
        if until != "kept":
            promotion.take_replica(root)
        locking.kill()
    if until == "put back in part":
        monkeypatch.setattr(promotion, "_put_back_journal", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            promotion.put_back(settings_of(root))
        monkeypatch.undo()
    promotion.put_back(settings_of(root))
    assert late(database) == 3000
    assert not [path for path in database.parent.iterdir() if "promot" in path.name]
