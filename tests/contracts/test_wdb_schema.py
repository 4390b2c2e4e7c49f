"""The database a client of `global sql` sees: wdb.md section 6."""

import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.contracts.conftest import MakeStore
from tests.contracts.helpers import LONG_AGO, add_agent, add_groups, set_groups
from tools.rig.wdb_client import WdbClient, WdbRefused

TEXT, INTEGER = "TEXT", "INTEGER"
AGENT = [
    ("id", INTEGER, None, None),
    ("name", TEXT, 1, None),
    *((name, TEXT, 0, None) for name in ("ip", "register_ip", "internal_key")),
    *((f"os_{name}", TEXT, 0, None) for name in ("name", "version", "major", "minor", "codename", "build")),
    *((f"os_{name}", TEXT, 0, None) for name in ("platform", "uname", "arch")),
    *((name, TEXT, 0, None) for name in ("version", "config_sum", "merged_sum", "manager_host")),
    ("node_name", TEXT, 0, "unknown"),
    ("date_add", INTEGER, 1, None),
    ("last_keepalive", INTEGER, 0, None),
    ("group", TEXT, 0, "default"),
    ("group_hash", TEXT, 0, None),
    ("group_sync_status", TEXT, 1, "synced"),
    ("sync_status", TEXT, 1, "synced"),
    ("connection_status", TEXT, 1, "never_connected"),
    ("disconnection_time", INTEGER, 0, "0"),
    ("group_config_status", TEXT, 1, "not synced"),
    ("status_code", INTEGER, 0, "0"),
]
"""Name, type, NOT NULL (None: not said of a rowid), default."""

CHECKS = {
    "group_sync_status": ["synced", "syncreq"],
    "sync_status": ["synced", "syncreq", "syncreq_status", "syncreq_keepalive"],
    "connection_status": ["pending", "never_connected", "active", "disconnected"],
    "group_config_status": ["synced", "not synced"],
}


def table(db: WdbClient, name: str) -> list[dict[str, object]]:
    return db.rows(f"select name, type, `notnull`, dflt_value, pk from pragma_table_info('{name}') order by cid")


def test_the_columns_of_agent(db: WdbClient) -> None:
    rows = table(db, "agent")
    assert [row["name"] for row in rows] == [name for name, _, _, _ in AGENT]
    for row, (name, kind, not_null, default) in zip(rows, AGENT, strict=True):
        given = str(row.get("dflt_value", "null")).strip("\"'")
        assert row["type"] == kind, name
        assert not_null is None or row["notnull"] == not_null, name
        assert given == default or (default is None and given.lower() == "null"), name
        assert row["pk"] == (1 if name == "id" else 0), name


def test_defaults_apply_to_a_row_made_with_sql(db: WdbClient) -> None:
    db.command(f"global sql insert into agent (id, name, date_add) values (1, 'x', {LONG_AGO})")
    assert db.raw("global get-agent-info 1") == (
        b'ok [{"id":1,"name":"x","node_name":"unknown","date_add":1700000000,"group":"default",'
        b'"group_sync_status":"synced","sync_status":"synced","connection_status":"never_connected",'
        b'"disconnection_time":0,"group_config_status":"not synced","status_code":0}]'
    )


@pytest.mark.parametrize("column", CHECKS)
def test_only_the_words_of_a_check_are_accepted(db: WdbClient, column: str) -> None:
    add_agent(db, 1)
    for word in CHECKS[column]:
        assert db.raw(f"global sql update agent set {column} = '{word}' where id = 1") == b"ok []"
    for word in ("''", "'bogus'", "'SYNCED'", "0"):
        with pytest.raises(WdbRefused, match="CHECK constraint failed"):
            db.command(f"global sql update agent set {column} = {word} where id = 1")
    with pytest.raises(WdbRefused, match=f"NOT NULL constraint failed: agent.{column}"):
        db.command(f"global sql update agent set {column} = null where id = 1")


def indexed(db: WdbClient, name: str) -> dict[str, list[str]]:
    rows = db.rows(
        "select l.name as 'index', i.name as 'column' from pragma_index_list('"
        f"{name}') l, pragma_index_info(l.name) i order by l.name, i.seqno"
    )
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(row["index"], []).append(row["column"])
    return found


def test_the_indexes(db: WdbClient) -> None:
    assert (
        indexed(db, "agent").items()
        >= {
            "agent_name": ["name"],
            "agent_ip": ["ip"],
            "agent_group_hash": ["group_hash"],
        }.items()
    )
    assert indexed(db, "group")["group_name"] == ["name"]
    belongs = indexed(db, "belongs")
    assert {"belongs_id_agent", "belongs_id_group"} <= belongs.keys()
    assert ["id_agent", "priority"] in belongs.values()


def test_the_other_tables(db: WdbClient) -> None:
    def shape(name: str) -> list[tuple[object, ...]]:
        return [(row["name"], row["type"], row["pk"]) for row in table(db, name)]

    assert shape("labels") == [("id", INTEGER, 1), ("key", TEXT, 2), ("value", TEXT, 0)]
    assert [row["notnull"] for row in table(db, "labels")[1:]] == [1, 1]
    assert shape("group") == [("id", INTEGER, 1), ("name", TEXT, 0)]
    assert shape("belongs") == [("id_agent", INTEGER, 1), ("id_group", INTEGER, 2), ("priority", INTEGER, 0)]
    priority = table(db, "belongs")[2]
    assert (priority["notnull"], priority["dflt_value"]) == (1, "0")
    for name in ("info", "metadata"):
        assert shape(name) == [("key", TEXT, 1), ("value", TEXT, 0)]
    assert db.raw("global sql select value from metadata where key = 'db_version'") == b'ok [{"value":"7"}]'
    assert db.raw("global sql select value from info where key = 'openssl_support'") == b'ok [{"value":"yes"}]'


def test_the_foreign_keys(db: WdbClient) -> None:
    def references(name: str) -> set[tuple[object, ...]]:
        rows = db.rows(f"select `from`, `table`, `to`, on_delete from pragma_foreign_key_list('{name}')")
        return {(row["from"], row["table"], row.get("to", "id"), row["on_delete"]) for row in rows}

    assert references("labels") == {("id", "agent", "id", "CASCADE")}
    assert references("belongs") == {
        ("id_agent", "agent", "id", "CASCADE"),
        ("id_group", "group", "id", "CASCADE"),
    }


def test_foreign_keys_and_uniqueness_are_enforced(db: WdbClient) -> None:
    add_groups(db, "web")
    add_agent(db, 1)
    set_groups(db, "append", 1, ["web"])
    for statement, message in (
        ("insert into labels values (99, 'a', 'b')", "FOREIGN KEY constraint failed"),
        ("insert into belongs values (1, 99999, 5)", "FOREIGN KEY constraint failed"),
        ("insert into `group` (name) values ('web')", "UNIQUE constraint failed: group.name"),
        (
            "insert into belongs select 1, id, 0 from `group` where name = 'default'",
            "UNIQUE constraint failed: belongs.id_agent, belongs.priority",
        ),
        (
            "insert into belongs select 1, id, 9 from `group` where name = 'web'",
            "UNIQUE constraint failed: belongs.id_agent, belongs.id_group",
        ),
    ):
        assert db.raw(f"global sql {statement}") == f"err Cannot execute Global database query; {message}".encode()
    db.command("global sql insert into labels values (1, 'a', 'b')")
    db.command("global sql delete from agent where id = 1")
    assert db.raw("global sql select * from labels") == b"ok []"
    assert db.raw("global sql select * from belongs") == b"ok []"
    add_agent(db, 2)
    set_groups(db, "append", 2, ["web"])
    db.command("global sql delete from `group` where name = 'web'")
    assert db.raw("global sql select * from belongs") == b"ok []"


def test_a_new_database_has_the_manager_and_the_groups_of_etc_shared(make_store: MakeStore) -> None:
    before = int(time.time())
    store = make_store()
    with WdbClient(store.root) as db:
        (row,) = db.rows("select * from agent")
        assert before <= row["date_add"] <= int(time.time())
        wanted = {
            "id": 0,
            "ip": "127.0.0.1",
            "register_ip": "127.0.0.1",
            "last_keepalive": 253_402_300_799,
            "connection_status": "active",
            "sync_status": "synced",
            "group_sync_status": "synced",
        }
        assert row.items() >= wanted.items()
        assert row["name"]
        assert not {"group", "group_hash", "internal_key"} & row.keys()
        assert db.raw("global select-groups") == b'ok [{"name":"default"}]'
        assert db.raw('global sync-agent-groups-get {"get_global_hash":true}') == b'ok [{"data":[],"hash":null}]'


@pytest.mark.slow
def test_the_file_is_a_database_of_version_7_with_wal(make_store: MakeStore) -> None:
    store = make_store()
    with WdbClient(store.root) as db:
        add_agent(db, 1)
    path: Path = store.root / "queue/db/global.db"
    assert store.stop() == 0
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("select value from metadata where key = 'db_version'").fetchall() == [("7",)]
        assert file.execute("select name from agent where id = 1").fetchall() == [("agent1",)]
        assert file.execute("pragma integrity_check").fetchall() == [("ok",)]
        assert file.execute("pragma journal_mode").fetchall() == [("wal",)]
    store.restart()
