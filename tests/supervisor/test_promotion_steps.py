"""Steps of a promotion: the replica, the keys and the logins that it puts in place."""

import contextlib
import sqlite3
from pathlib import Path

import pytest

from clusterd import database_copy
from clusterd.role import LEFT_BEHIND, RoleChange
from clusterd.rundir import API_FILES, REPLICA_FILE
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


def test_nothing_is_missed_while_another_program_reads_the_replica(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it was told last is what the old master has answered to agents."""
    monkeypatch.setattr(database_copy, "WAIT_S", 0.05)
    make_replica(root, {1: "a"})
    with read_meanwhile(Path(root) / REPLICA_FILE):
        assert promotion.take_replica(root).startswith("1 of the replica")
    assert late(Path(root) / schema.DATABASE) == 3000


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


def test_logins_are_taken_and_a_certificate_only_where_there_is_none(root: str) -> None:
    api = Path(root) / API_FILES
    api.mkdir()
    for name in ("users.json", "token.key", "certificate.pem", "key.pem"):
        (api / name).write_text(f"theirs {name}")
    settings = settings_of(root)
    own = Path(root) / settings.clusterd.api.cert
    own.write_text("mine")
    (Path(root) / USERS_FILE).write_text("mine")
    assert promotion.take_users(settings) == "key.pem, token.key, users.json of the REST API"
    assert own.read_text() == "mine"
    assert (Path(root) / USERS_FILE).read_text() == "theirs users.json"
    assert (Path(root) / SECRET_FILE).stat().st_mode & 0o777 == 0o600
