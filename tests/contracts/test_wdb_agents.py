"""Commands that write agents: wdb.md 3.6 to 3.13."""

import json
import time
from typing import Any

import pytest

from tests.contracts.helpers import (
    LONG_AGO,
    add_agent,
    add_agents,
    add_groups,
    add_many,
    agent,
    compact,
    fitting,
    labels,
    memberships,
    own_hash,
    put,
    set_groups,
    some,
    within,
)
from tools.rig.wdb_client import WdbClient

NEVER_ENDING = 253_402_300_799
SQL_ERROR = "err Cannot execute Global database query; "
ACTIVE = {"connection_status": "active", "group_config_status": "synced"}
TEXTS = """os_name os_version os_major os_minor os_codename os_platform os_build os_uname os_arch version config_sum
merged_sum manager_host node_name""".split()  # noqa: SIM905


def send(db: WdbClient, command: str, **members: Any) -> bytes:
    return db.raw(f"global {command} {compact(members)}")


def refused(answer: bytes, message: str) -> bool:
    return answer == (SQL_ERROR + message).encode()


# insert-agent, update-agent-name, delete-agent (3.6, 3.13).


def test_a_new_agent_has_the_given_columns_and_the_defaults(db: WdbClient) -> None:
    key = "0123456789abcdef" * 4
    request = f'{{"id":7,"name":"web-01","register_ip":"any","internal_key":"{key}","date_add":1763870000}}'
    assert db.raw(f"global insert-agent {request}") == b"ok"
    assert (
        db.raw("global get-agent-info 7")
        == (
            f'ok [{{"id":7,"name":"web-01","register_ip":"any","internal_key":"{key}","node_name":"unknown",'
            '"date_add":1763870000,"group_sync_status":"synced","sync_status":"synced",'
            '"connection_status":"never_connected","disconnection_time":0,"group_config_status":"not synced",'
            '"status_code":0}]'
        ).encode()
    )


def test_the_group_of_a_new_agent_is_a_text_only(db: WdbClient) -> None:
    add_agent(db, 7, ip="10.0.0.7", register_ip="10.0.0.0/8", group="default")
    assert some(db, 7, "ip", "register_ip", "group", "group_hash") == ("10.0.0.7", "10.0.0.0/8", "default", None)
    assert memberships(db, 7) == []
    assert own_hash(db) is None


def test_an_id_that_exists_is_refused(db: WdbClient) -> None:
    add_agent(db, 7, "first")
    assert refused(send(db, "insert-agent", id=7, name="second", date_add=1), "UNIQUE constraint failed: agent.id")
    assert refused(send(db, "insert-agent", id=0, name="second", date_add=1), "UNIQUE constraint failed: agent.id")
    assert agent(db, 7)["name"] == "first"


def test_a_name_changes(db: WdbClient) -> None:
    add_agents(db, 7, 8)
    before = agent(db, 7)
    assert send(db, "update-agent-name", id=7, name="renamed") == b"ok"
    assert agent(db, 7) == {**before, "name": "renamed"}
    assert agent(db, 8)["name"] == "agent8"


def test_deleting_an_agent_takes_its_memberships_and_labels(db: WdbClient) -> None:
    add_agents(db, 7, 8)
    for agent_id in (7, 8):
        set_groups(db, "append", agent_id, ["default"])
        assert send(db, "update-agent-data", id=agent_id, **ACTIVE, labels="a:b") == b"ok"
    assert own_hash(db)
    assert db.raw("global delete-agent 7") == b"ok"
    assert db.raw("global delete-agent 7") == b"ok"
    assert db.raw("global get-agent-info 7") == b"ok []"
    assert db.rows("select id_agent from belongs where id_agent > 0") == [{"id_agent": 8}]
    assert db.rows("select id from labels") == [{"id": 8}]
    assert own_hash(db) == "aac8edbccfab5ea7eee53016af08b756a44dc399"


# update-agent-data (3.7).


def test_the_example_of_the_specification(db: WdbClient) -> None:
    add_agent(db, 7, ip="any")
    set_groups(db, "append", 7, ["default"], sync_status="syncreq")
    put(db, 7, disconnection_time=5, status_code=3)
    before = time.time()
    request = (
        '{"id":7,"version":"Wazuh v4.14.1","node_name":"worker1","agent_ip":"10.0.0.7","connection_status":"active",'
        '"sync_status":"syncreq","group_config_status":"synced","labels":"env:prod\\nsite:berlin"}'
    )
    assert db.raw(f"global update-agent-data {request}") == b"ok"
    row = agent(db, 7)
    assert within(before, row.pop("last_keepalive"), time.time())
    assert row == {
        "id": 7,
        "name": "agent7",
        "ip": "10.0.0.7",
        "version": "Wazuh v4.14.1",
        "node_name": "worker1",
        "date_add": LONG_AGO,
        "group": "default",
        "group_hash": "37a8eec1",
        "group_sync_status": "syncreq",
        "sync_status": "syncreq",
        "connection_status": "active",
        "disconnection_time": 5,
        "group_config_status": "synced",
        "status_code": 3,
    }
    assert labels(db, 7) == {"env": "prod", "site": "berlin"}


def test_every_column_is_written_and_cleared_when_absent(db: WdbClient) -> None:
    add_agent(db, 7, ip="10.0.0.7")
    values = {name: f"value of {name}" for name in TEXTS}
    assert send(db, "update-agent-data", id=7, **ACTIVE, **values, sync_status="syncreq") == b"ok"
    assert some(db, 7, *TEXTS) == tuple(values.values())
    assert some(db, 7, "ip", "sync_status") == ("10.0.0.7", "syncreq")
    assert send(db, "update-agent-data", id=7, **ACTIVE) == b"ok"
    assert some(db, 7, *TEXTS) == (None,) * len(TEXTS)
    assert some(db, 7, "ip", "sync_status") == ("10.0.0.7", "synced")


@pytest.mark.parametrize("member", ["connection_status", "group_config_status"])
def test_statuses_are_required_in_practice(db: WdbClient, member: str) -> None:
    add_agent(db, 7)
    rest = {name: value for name, value in ACTIVE.items() if name != member}
    assert refused(send(db, "update-agent-data", id=7, **rest), f"NOT NULL constraint failed: agent.{member}")
    answer = send(db, "update-agent-data", id=7, **{**ACTIVE, member: "bogus"})
    assert answer.startswith((SQL_ERROR + "CHECK constraint failed: ").encode())


def test_the_keepalive_of_the_manager_never_ends(db: WdbClient) -> None:
    put(db, 0, last_keepalive=5)
    assert send(db, "update-agent-data", id=0, **ACTIVE, version="Wazuh v4.14.1", labels="k:v") == b"ok"
    assert some(db, 0, "last_keepalive", "version") == (NEVER_ENDING, "Wazuh v4.14.1")
    assert labels(db, 0) == {"k": "v"}
    assert b'"last_keepalive":253402300799,' in db.raw("global get-agent-info 0")
    send(db, "update-agent-data", id=0, **ACTIVE)


def test_labels_are_lines_split_at_their_first_colon(db: WdbClient) -> None:
    add_agent(db, 7)
    text = 'env:prod\nno colon\nurl:http://x:80/\n\nempty:\n#"_node_name":worker1\n'
    assert send(db, "update-agent-data", id=7, **ACTIVE, labels=text) == b"ok"
    assert labels(db, 7) == {"env": "prod", "url": "http://x:80/", "empty": "", '#"_node_name"': "worker1"}
    assert send(db, "update-agent-data", id=7, **ACTIVE, labels="new:one") == b"ok"
    assert db.raw("global get-labels 7") == b'ok [{"id":7,"key":"new","value":"one"}]'
    assert send(db, "update-agent-data", id=7, **ACTIVE) == b"ok"
    assert db.raw("global get-labels 7") == b"ok []"


def test_a_repeated_label_fails_and_what_was_written_before_stays(db: WdbClient) -> None:
    add_agent(db, 7)
    send(db, "update-agent-data", id=7, **ACTIVE, labels="old:1")
    answer = send(db, "update-agent-data", id=7, **ACTIVE, version="v2", labels="a:1\na:2\nb:3")
    assert refused(answer, "UNIQUE constraint failed: labels.id, labels.key")
    assert some(db, 7, "version") == ("v2",)
    found = labels(db, 7)
    assert found["a"] == "1"
    assert "old" not in found


def test_labels_of_an_unknown_agent_break_the_foreign_key(db: WdbClient) -> None:
    answer = send(db, "update-agent-data", id=99, **ACTIVE, labels="a:1")
    assert refused(answer, "FOREIGN KEY constraint failed")


# Keepalive, connection status, status code (3.8 to 3.10).


def test_a_keepalive_clears_disconnection_and_code(db: WdbClient) -> None:
    add_agent(db, 7)
    put(db, 7, disconnection_time=5, status_code=3, version="v1", ip="1.2.3.4")
    row = agent(db, 7)
    before = time.time()
    assert send(db, "update-keepalive", id=7, connection_status="pending", sync_status="syncreq_status") == b"ok"
    after = agent(db, 7)
    assert within(before, after.pop("last_keepalive"), time.time())
    assert after == {
        **row,
        "connection_status": "pending",
        "sync_status": "syncreq_status",
        "disconnection_time": 0,
        "status_code": 0,
    }


@pytest.mark.parametrize("status", ["active", "pending", "never_connected", "disconnected"])
def test_a_connection_status_sets_the_time_of_disconnection(db: WdbClient, status: str) -> None:
    add_agent(db, 7)
    put(db, 7, disconnection_time=5, last_keepalive=6)
    row = agent(db, 7)
    before = time.time()
    answer = send(
        db, "update-connection-status", id=7, connection_status=status, sync_status="syncreq_status", status_code=3
    )
    assert answer == b"ok"
    after = agent(db, 7)
    if status == "disconnected":
        assert within(before, after["disconnection_time"], time.time())
    else:
        assert after["disconnection_time"] == 0
    changed = {"connection_status": status, "sync_status": "syncreq_status", "status_code": 3}
    assert after == {**row, **changed, "disconnection_time": after["disconnection_time"]}


def test_a_status_code_brings_a_version_or_clears_it(db: WdbClient) -> None:
    add_agent(db, 7)
    row = agent(db, 7)
    sent = {"status_code": 1, "version": "Wazuh v9.0.0", "sync_status": "syncreq_status"}
    assert send(db, "update-status-code", id=7, **sent) == b"ok"
    assert agent(db, 7) == {**row, **sent}
    assert send(db, "update-status-code", id=7, status_code=2, sync_status="synced") == b"ok"
    assert agent(db, 7) == {**row, "status_code": 2, "sync_status": "synced"}


@pytest.mark.parametrize(
    ("command", "members"),
    [
        ("update-keepalive", {"connection_status": "bogus", "sync_status": "synced"}),
        ("update-keepalive", {"connection_status": "active", "sync_status": "bogus"}),
        ("update-connection-status", {"connection_status": "", "sync_status": "synced", "status_code": 0}),
        ("update-connection-status", {"connection_status": "active", "sync_status": "", "status_code": 0}),
        ("update-status-code", {"sync_status": "SYNCED", "status_code": 0}),
    ],
)
def test_a_word_outside_the_check_changes_nothing(db: WdbClient, command: str, members: dict[str, Any]) -> None:
    add_agent(db, 7)
    before = agent(db, 7)
    answer = send(db, command, id=7, **members)
    assert answer.startswith((SQL_ERROR + "CHECK constraint failed: ").encode())
    assert agent(db, 7) == before


# reset-agents-connection, disconnect-agents (3.11, 3.12).

STATUSES = ["active", "pending", "disconnected", "never_connected"]


def put_statuses(db: WdbClient) -> None:
    """Agents 1 to 4 with one of STATUSES each."""
    for agent_id, status in enumerate(STATUSES, 1):
        add_agent(db, agent_id)
        put(db, agent_id, connection_status=status, disconnection_time=7, status_code=1, last_keepalive=1000)


@pytest.mark.parametrize("word", ["synced", "syncreq_keepalive"])
def test_reset_disconnects_connected_agents(db: WdbClient, word: str) -> None:
    put_statuses(db)
    put(db, 1, sync_status="syncreq")
    before = time.time()
    assert db.raw(f"global reset-agents-connection {word}") == b"ok"
    for agent_id in (1, 2):
        status, code, since, sync = some(
            db, agent_id, "connection_status", "status_code", "disconnection_time", "sync_status"
        )
        assert (status, code, sync) == ("disconnected", 5, word), "written without the precedence of 4.1"
        assert within(before, since, time.time())
        assert some(db, agent_id, "last_keepalive") == (1000,)
    for agent_id in (3, 4):
        assert some(db, agent_id, "connection_status", "status_code", "disconnection_time", "sync_status") == (
            STATUSES[agent_id - 1],
            1,
            7,
            "synced",
        )
    assert some(db, 0, "connection_status") == ("active",)


def test_reset_with_another_word_changes_nothing(db: WdbClient) -> None:
    put_statuses(db)
    answer = db.raw("global reset-agents-connection bogus")
    assert answer.startswith((SQL_ERROR + "CHECK constraint failed: ").encode())
    assert [some(db, agent_id, "connection_status")[0] for agent_id in (1, 2, 3, 4)] == STATUSES


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        (" ", "last id not found"),
        ("0", "keepalive not found"),
        ("0 1763869000", "sync_status not found"),
    ],
)
def test_arguments_of_disconnect_agents_are_checked_in_turn(db: WdbClient, argument: str, message: str) -> None:
    assert db.raw(f"global disconnect-agents {argument}") == f"err Invalid arguments {message}".encode()


def test_silent_agents_are_disconnected_and_returned(db: WdbClient) -> None:
    put_statuses(db)
    add_agents(db, 5, 6)
    put(db, 5, connection_status="active", last_keepalive=1001)
    put(db, 6, connection_status="active", last_keepalive=999, sync_status="syncreq")
    before = time.time()
    assert db.raw("global disconnect-agents 1 1001 syncreq_status") == b'ok [{"id":2},{"id":6}]'
    for agent_id in (2, 6):
        status, code, since, sync = some(
            db, agent_id, "connection_status", "status_code", "disconnection_time", "sync_status"
        )
        assert (status, code, sync) == ("disconnected", 4, "syncreq_status"), "written without the precedence of 4.1"
        assert within(before, since, time.time())
    for agent_id in (1, 5):
        assert some(db, agent_id, "connection_status") == ("active",), "not greater than the last id, or not silent"
    assert db.raw("global disconnect-agents 0 1001 synced") == b'ok [{"id":1}]'
    assert db.raw("global disconnect-agents 0 1001 synced") == b"ok []"
    assert some(db, 0, "connection_status") == ("active",)


def test_a_failing_update_turns_the_status_into_err(db: WdbClient) -> None:
    put_statuses(db)
    status, _, payload = db.raw("global disconnect-agents 0 5000 bogus").partition(b" ")
    assert status == b"err"
    assert isinstance(json.loads(payload), list)
    assert some(db, 1, "connection_status") == ("active",)


def test_disconnected_agents_come_in_chunks_and_the_rest_waits(db: WdbClient) -> None:
    add_many(db, 6000, "active")
    count = fitting(len(f'{{"id":{number}}}') for number in range(1, 6001))
    assert count == 5510, "section 12"
    answer = db.raw("global disconnect-agents 0 100 synced")
    assert answer == b"due [" + ",".join(f'{{"id":{number}}}' for number in range(1, count + 1)).encode() + b"]"
    left = db.rows("select count(*) as n, min(id) as first from agent where connection_status = 'active' and id > 0")
    assert left == [{"n": 6000 - count, "first": count + 1}], "nothing is done to what did not fit"
    assert len(json.loads(db.command(f"global disconnect-agents {count} 100 synced"))) == 6000 - count
    db.command("global sql delete from agent where id > 0")


def test_groups_survive_what_the_agent_reports(db: WdbClient) -> None:
    add_groups(db, "web")
    add_agent(db, 7)
    set_groups(db, "append", 7, ["web", "default"], sync_status="syncreq")
    columns = ("group", "group_hash", "group_sync_status", "register_ip", "internal_key", "date_add", "name")
    before = some(db, 7, *columns)
    send(db, "update-agent-data", id=7, **ACTIVE, sync_status="syncreq")
    send(db, "update-keepalive", id=7, connection_status="active", sync_status="syncreq")
    db.command("global reset-agents-connection synced")
    assert some(db, 7, *columns) == before
