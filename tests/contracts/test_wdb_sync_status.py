"""`sync_status` and its precedence (wdb.md 4.1), `sync-agent-info-get` and `-set` (3.5)."""

import json
from typing import Any

import pytest

from tests.contracts.helpers import CHUNK, add_agent, add_agents, agent, compact, labels, put, some
from tools.rig.wdb_client import WdbClient

WORDS = ["synced", "syncreq_keepalive", "syncreq_status", "syncreq"]
WRITERS: dict[str, dict[str, Any]] = {
    "update-agent-data": {"connection_status": "active", "group_config_status": "synced"},
    "update-keepalive": {"connection_status": "active"},
    "update-connection-status": {"connection_status": "active", "status_code": 0},
    "update-status-code": {"status_code": 0},
}
SQL_ERROR = "err Cannot execute Global database query; "
INFO = """id name ip os_name os_version os_major os_minor os_codename os_build os_platform os_uname os_arch version
config_sum merged_sum manager_host node_name last_keepalive connection_status disconnection_time group_config_status
status_code""".split()  # noqa: SIM905


def precedence(stored: str, requested: str) -> str:
    """The table of 4.1."""
    if (stored, requested) == ("syncreq_status", "syncreq_keepalive"):
        return "syncreq_status"
    if stored == "syncreq" and requested in ("syncreq_keepalive", "syncreq_status"):
        return "syncreq"
    return requested


@pytest.mark.parametrize("command", WRITERS)
def test_a_weaker_request_never_hides_a_stronger_one(db: WdbClient, command: str) -> None:
    add_agent(db, 1)
    for stored in WORDS:
        for requested in WORDS:
            put(db, 1, sync_status=stored)
            members = {"id": 1, **WRITERS[command], "sync_status": requested}
            assert db.raw(f"global {command} {compact(members)}") == b"ok"
            assert some(db, 1, "sync_status") == (precedence(stored, requested),), (stored, requested)


@pytest.mark.parametrize("stored", WORDS)
def test_reset_and_disconnect_write_without_the_table(db: WdbClient, stored: str) -> None:
    add_agents(db, 1, 2)
    for requested in WORDS:
        for agent_id in (1, 2):
            put(db, agent_id, sync_status=stored, connection_status="active", last_keepalive=5)
        db.command(f"global disconnect-agents 1 10 {requested}")
        db.command(f"global reset-agents-connection {requested}")
        assert [some(db, agent_id, "sync_status") for agent_id in (1, 2)] == [(requested,)] * 2


# sync-agent-info-get.


def full_row(agent_id: int) -> dict[str, Any]:
    numbers = {"id": agent_id, "last_keepalive": 1000, "disconnection_time": 2000, "status_code": 3}
    words = {"connection_status": "disconnected", "group_config_status": "synced"}
    return {name: numbers.get(name, words.get(name, f"{name} of {agent_id}")) for name in INFO}


def put_full(db: WdbClient, agent_id: int, sync_status: str) -> dict[str, Any]:
    add_agent(db, agent_id)
    row = full_row(agent_id)
    put(db, agent_id, **{name: value for name, value in row.items() if name != "id"}, sync_status=sync_status)
    return row


def test_three_passes_give_what_each_word_asks_for(db: WdbClient) -> None:
    rows = {
        agent_id: put_full(db, agent_id, word)
        for agent_id, word in ((1, "syncreq_keepalive"), (2, "syncreq_status"), (3, "synced"), (4, "syncreq"))
    }
    add_agent(db, 5)
    put(db, 5, sync_status="syncreq", node_name=None)
    put(db, 0, sync_status="syncreq")
    db.command("global sql insert into labels values (4, 'env', 'prod')")
    fourth = compact({**rows[4], "labels": [{"id": 4, "key": "env", "value": "prod"}]})
    fifth = (
        '{"id":5,"name":"agent5","connection_status":"never_connected","disconnection_time":0,'
        '"group_config_status":"not synced","status_code":0}'
    )
    status = ("id", "last_keepalive", "connection_status", "disconnection_time", "status_code")
    second = compact({name: rows[2][name] for name in status})
    assert db.raw("global sync-agent-info-get last_id 0") == (
        f'ok [{fourth},{fifth},{second},{{"id":1,"last_keepalive":1000}}]'.encode()
    )
    assert [some(db, agent_id, "sync_status") for agent_id in (1, 2, 3, 4, 5)] == [("synced",)] * 5
    assert db.raw("global sync-agent-info-get") == b"ok []"
    assert db.raw("global sync-agent-info-get last_id 0") == b"ok []"


def test_only_agents_above_the_last_id_are_returned(db: WdbClient) -> None:
    add_agents(db, 1, 2)
    for agent_id in (1, 2):
        put(db, agent_id, sync_status="syncreq_keepalive")
    assert db.raw("global sync-agent-info-get last_id 1") == b'ok [{"id":2}]'
    assert some(db, 1, "sync_status") == ("syncreq_keepalive",)
    assert db.raw("global sync-agent-info-get") == b'ok [{"id":1}]'


@pytest.mark.parametrize(("total", "fits"), [(CHUNK - 1, True), (CHUNK, False)])
def test_waiting_agents_come_in_chunks(db: WdbClient, total: int, fits: bool) -> None:
    shape = (
        '{{"id":{},"name":"{}","connection_status":"never_connected","disconnection_time":0,'
        '"group_config_status":"not synced","status_code":0}}'
    )
    room = total - 2 - 2 * (len(shape.format(1, "")) + 1)
    names = ["a" * (room // 2), "b" * (room - room // 2)]
    for agent_id, name in enumerate(names, 1):
        add_agent(db, agent_id, name)
        put(db, agent_id, sync_status="syncreq", node_name=None)
    items = [shape.format(agent_id, name) for agent_id, name in enumerate(names, 1)]
    if fits:
        assert db.raw("global sync-agent-info-get last_id 0") == f"ok [{','.join(items)}]".encode()
    else:
        assert db.raw("global sync-agent-info-get last_id 0") == f"due [{items[0]}]".encode()
        assert some(db, 2, "sync_status") == ("syncreq",)
        assert db.raw("global sync-agent-info-get last_id 1") == f"ok [{items[1]}]".encode()
    assert db.raw("global sync-agent-info-get last_id 0") == b"ok []"


# sync-agent-info-set.


def test_every_column_of_a_reported_agent_is_overwritten(db: WdbClient) -> None:
    add_agent(db, 7, register_ip="any", internal_key="secret", group="text")
    put(db, 7, sync_status="syncreq", group_hash="37a8eec1", group_sync_status="syncreq")
    kept = ("register_ip", "internal_key", "date_add", "group", "group_hash", "group_sync_status")
    before = some(db, 7, *kept)
    row = full_row(7)
    assert db.raw(f"global sync-agent-info-set [{compact(row)}]") == b"ok"
    assert some(db, 7, *INFO) == tuple(row.values())
    assert some(db, 7, "sync_status") == ("synced",)
    least = {"id": 7, "name": "x", "connection_status": "active", "group_config_status": "synced"}
    assert db.raw(f"global sync-agent-info-set [{compact(least)}]") == b"ok"
    assert some(db, 7, *INFO) == tuple(least.get(name) for name in INFO)
    assert some(db, 7, *kept) == before


@pytest.mark.parametrize("member", ["name", "connection_status", "group_config_status"])
def test_the_first_sql_error_ends_the_command(db: WdbClient, member: str) -> None:
    add_agents(db, 1, 2, 3)
    least = {"name": "x", "connection_status": "active", "group_config_status": "synced"}
    rows: list[dict[str, Any]] = [{"id": agent_id, **least} for agent_id in (1, 2, 3)]
    del rows[1][member]
    answer = db.raw(f"global sync-agent-info-set {compact(rows)}")
    assert answer == f"{SQL_ERROR}NOT NULL constraint failed: agent.{member}".encode()
    assert [agent(db, agent_id)["name"] for agent_id in (1, 2, 3)] == ["x", "agent2", "agent3"]


def test_labels_are_replaced_when_there_is_an_array_of_them(db: WdbClient) -> None:
    add_agent(db, 1)
    least: dict[str, Any] = {"id": 1, "name": "x", "connection_status": "active", "group_config_status": "synced"}

    def report(**more: Any) -> bytes:
        return db.raw(f"global sync-agent-info-set {compact([{**least, **more}])}")

    one = [{"id": 1, "key": "a", "value": "1"}, {"id": 1, "key": "b", "value": "2"}]
    assert report(labels=one) == b"ok"
    assert labels(db, 1) == {"a": "1", "b": "2"}
    assert report() == b"ok"
    assert labels(db, 1) == {"a": "1", "b": "2"}, "without an array they stay"
    assert report(labels=[{"id": 1, "key": "c", "value": "3"}]) == b"ok"
    assert labels(db, 1) == {"c": "3"}
    assert report(labels=[]) == b"ok"
    assert labels(db, 1) == {}


def test_labels_of_an_agent_without_a_numeric_id_are_refused(db: WdbClient) -> None:
    for wrong in ({"id": "1"}, {}):
        row = {**wrong, "name": "x", "connection_status": "active", "group_config_status": "synced", "labels": []}
        answer = db.raw(f"global sync-agent-info-set {compact([row])}")
        assert answer == b"err Cannot update labels due to invalid id."


def test_an_unknown_agent_is_skipped_unless_it_brings_labels(db: WdbClient) -> None:
    add_agent(db, 1)
    least = {"name": "x", "connection_status": "active", "group_config_status": "synced"}
    assert db.raw(f"global sync-agent-info-set {compact([{'id': 99, **least}, {'id': 1, **least}])}") == b"ok"
    assert db.ids("get-all-agents last_id") == [1]
    assert agent(db, 1)["name"] == "x"
    row = {"id": 99, **least, "labels": [{"id": 99, "key": "a", "value": "1"}]}
    answer = db.raw(f"global sync-agent-info-set {compact([row])}")
    assert answer == (SQL_ERROR + "FOREIGN KEY constraint failed").encode()


def test_what_one_node_reports_another_takes_over(db: WdbClient, worker_db: WdbClient) -> None:
    for node in (db, worker_db):
        add_agents(node, 1, 2)
    members = {"id": 1, **WRITERS["update-agent-data"], "version": "v", "sync_status": "syncreq", "labels": "a:b\nc:d"}
    worker_db.command(f"global update-agent-data {compact(members)}")
    reported = worker_db.command("global sync-agent-info-get last_id 0")
    assert db.raw(f"global sync-agent-info-set {reported}") == b"ok"
    assert some(db, 1, *INFO) == some(worker_db, 1, *INFO)
    assert labels(db, 1) == {"a": "b", "c": "d"}
    assert [row["id"] for row in json.loads(reported)] == [1]
