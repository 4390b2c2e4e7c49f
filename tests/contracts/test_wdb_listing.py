"""Commands that list agents: wdb.md 3.14 to 3.17."""

import json

import pytest

from tests.contracts.helpers import (
    LONG_AGO,
    add_agent,
    add_agents,
    add_groups,
    add_many,
    fitting,
    put,
    set_groups,
)
from tests.store.lone_store import LoneStore
from tools.rig.wdb_client import WdbClient

COLUMNS = """id name ip register_ip internal_key os_name os_version os_major os_minor os_codename os_build os_platform
os_uname os_arch version config_sum merged_sum manager_host node_name date_add last_keepalive group group_hash
group_sync_status sync_status connection_status disconnection_time group_config_status status_code""".split()  # noqa: SIM905


def first_ids(count: int) -> bytes:
    return ",".join(f'{{"id":{number}}}' for number in range(1, count + 1)).encode()


@pytest.mark.parametrize(
    ("request_text", "message"),
    [
        ("get-all-agents foo", "Invalid arguments 'last_id' or 'context' not found"),
        ("get-all-agents last_id", "Invalid arguments 'last_id' not found"),
        ("get-agents-by-connection-status  ", "Invalid arguments 'last_id' not found"),
        ("get-agents-by-connection-status 0", "Invalid arguments 'connection_status' not found"),
        ("get-agents-by-connection-status 0 active worker1", "Invalid arguments 'limit' not found"),
    ],
)
def test_missing_arguments_are_named(db: WdbClient, request_text: str, message: str) -> None:
    assert db.raw(f"global {request_text}") == f"err {message}".encode()


def test_all_agents_are_listed_above_the_last_id(db: WdbClient) -> None:
    assert db.raw("global get-all-agents last_id 0") == b"ok []"
    assert db.raw("global get-all-agents last_id -1") == b'ok [{"id":0}]'
    add_agents(db, 10, 2, 1)
    assert db.raw("global get-all-agents last_id 0") == b'ok [{"id":1},{"id":2},{"id":10}]'
    assert db.raw("global get-all-agents last_id -1") == b'ok [{"id":0},{"id":1},{"id":2},{"id":10}]'
    assert db.raw("global get-all-agents last_id 002") == b'ok [{"id":10}]'
    assert db.raw("global get-all-agents last_id 10") == b"ok []"


def test_long_lists_come_in_chunks(db: WdbClient) -> None:
    add_many(db, 6000, "active")
    count = fitting(len(f'{{"id":{number}}}') for number in range(1, 6001))
    for command, argument in (("get-all-agents last_id 0", ""), ("get-agents-by-connection-status 0", " active")):
        assert db.raw(f"global {command}{argument}") == b"due [" + first_ids(count) + b"]"
    assert db.ids("get-all-agents last_id") == list(range(1, 6001))
    rest = json.loads(db.command(f"global get-agents-by-connection-status {count} active"))
    assert [row["id"] for row in rest] == list(range(count + 1, 6001))
    put(db, 1, node_name="n1")
    db.command("global sql update agent set node_name = 'n1' where id > 0")
    assert db.raw("global get-agents-by-connection-status 0 active n1 6000") == b"due [" + first_ids(count) + b"]"
    db.command("global sql delete from agent where id > 0")


def test_the_context_of_all_agents_has_a_frame_each(db: WdbClient) -> None:
    put(db, 0, version=None)
    add_agent(db, 1, "alpha", ip="10.0.0.1")
    add_agent(db, 2, "bêta")
    put(db, 1, version="Wazuh v4.14.1")
    db.send("global get-all-agents context")
    frames = [db.receive()]
    while frames[-1].startswith(b"due "):
        frames.append(db.receive())
    assert frames[-1] == b"ok []"
    assert len(frames) == 4
    assert b'due {"id":1,"version":"Wazuh v4.14.1","name":"alpha","ip":"10.0.0.1"}' in frames
    assert 'due {"id":2,"name":"bêta"}'.encode() in frames
    (manager,) = [json.loads(frame[4:]) for frame in frames if frame.startswith(b'due {"id":0,')]
    assert list(manager) == ["id", "name", "ip"]
    assert db.raw("global find-group nope") == b"ok []", "the connection goes on"


@pytest.mark.slow
def test_the_context_of_many_agents_arrives_whole(db: WdbClient, store: LoneStore) -> None:
    add_many(db, 5000)
    assert [row["id"] for row in db.context()] == list(range(5001))
    with WdbClient(store.root) as other:
        other.send("global get-all-agents context")
        other.receive()
    assert db.raw("global find-group nope") == b"ok []", "a client that left in the middle harms nobody"
    db.command("global sql delete from agent where id > 0")


def test_the_info_of_an_agent_has_its_columns_in_order(db: WdbClient) -> None:
    add_agent(db, 7)
    numbers = ("date_add", "last_keepalive", "disconnection_time", "status_code")
    words = {
        "group_sync_status": "syncreq",
        "sync_status": "syncreq_status",
        "connection_status": "pending",
        "group_config_status": "synced",
    }
    values = {
        name: words.get(name, f"the {name}") if name not in numbers else 1000 + place
        for place, name in enumerate(COLUMNS)
        if name != "id"
    }
    put(db, 7, **values)
    body = ",".join(f'"{name}":{json.dumps(value)}' for name, value in {"id": 7, **values}.items())
    assert db.raw("global get-agent-info 007") == f"ok [{{{body}}}]".encode()


def test_agents_by_connection_status(db: WdbClient) -> None:
    statuses = {1: "active", 2: "pending", 3: "active", 4: "disconnected", 5: "active", 6: "never_connected"}
    for agent_id, status in statuses.items():
        add_agent(db, agent_id)
        put(db, agent_id, connection_status=status, node_name="n1" if agent_id < 5 else "n2")
    ask = "global get-agents-by-connection-status"
    assert db.raw(f"{ask} 0 active") == b'ok [{"id":1},{"id":3},{"id":5}]'
    assert db.raw(f"{ask} 1 active") == b'ok [{"id":3},{"id":5}]'
    assert db.raw(f"{ask} 0 never_connected") == b'ok [{"id":6}]'
    assert db.raw(f"{ask} 0 bogus") == b"ok []"
    assert db.raw(f"{ask} 0 active n1 100") == b'ok [{"id":1},{"id":3}]'
    assert db.raw(f"{ask} 0 active n1 1") == b'ok [{"id":1}]', "cut by the limit, and still ok"
    assert db.raw(f"{ask} 1 active n1 1") == b'ok [{"id":3}]'
    assert db.raw(f"{ask} 3 active n1 1") == b"ok []"
    assert db.raw(f"{ask} 0 active nowhere 5") == b"ok []"


def test_small_readers(db: WdbClient) -> None:
    add_groups(db, "web")
    add_agent(db, 7, "web-01")
    db.command("global sql insert into labels values (7, 'env', 'prod')")
    assert db.raw("global get-labels 7") == b'ok [{"id":7,"key":"env","value":"prod"}]'
    assert db.raw("global select-agent-name 7") == b'ok [{"name":"web-01"}]'
    assert db.raw("global select-agent-group 7") == b"ok [{}]"
    assert db.raw("global select-group-belong 7") == b"ok []"
    set_groups(db, "append", 7, ["default", "web"])
    assert db.raw("global select-agent-group 7") == b'ok [{"group":"default,web"}]'
    assert db.raw("global select-group-belong 7") == b'ok ["default","web"]'
    set_groups(db, "append", 7, ["default"])
    assert db.raw("global select-group-belong 7") == b'ok ["web","default"]'
    assert db.raw("global select-group-belong 99") == b"ok []"


def test_an_agent_is_found_by_name_and_registered_address(db: WdbClient) -> None:
    for agent_id, name, address in (
        (1, "web-01", "10.0.0.7"),
        (2, "web-01", "10.0.0.7/32"),
        (3, "web-01", "10.0.0.70"),
        (4, "web-02", "10.0.0.7"),
        (5, "web-01", "any"),
    ):
        add_agent(db, agent_id, name, register_ip=address, date_add=LONG_AGO)
    add_agent(db, 6, "web-01", ip="10.0.0.7")
    found = json.loads(db.command('global find-agent {"name":"web-01","ip":"10.0.0.7"}'))
    assert sorted(row["id"] for row in found) == [1, 2]
    assert db.raw('global find-agent {"name":"web-02","ip":"10.0.0.7"}') == b'ok [{"id":4}]'
    assert db.raw('global find-agent {"ip": "any", "name": "web-01"}') == b'ok [{"id":5}]'
    assert db.raw('global find-agent {"name":"web-02","ip":"10.0.0"}') == b"ok []"
    assert db.raw('global find-agent {"name":"WEB-02","ip":"10.0.0.7"}') == b"ok []"
