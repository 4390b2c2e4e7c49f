"""Test vectors of wdb.md section 13, to the letter."""

import struct

import pytest

from tests.contracts.helpers import add_groups, group_columns, memberships, own_hash
from tests.store.lone_store import LoneStore
from tools.rig.wdb_client import WdbClient, parted, wdb_http

FRAME = bytes.fromhex("14000000 676c6f62616c2073656c6563742d67726f757073")
FRAME_ANSWER = bytes.fromhex("17000000 6f6b205b7b226e616d65223a2264656661756c74227d5d")


@pytest.mark.parametrize("frame", [FRAME, b"\x15" + FRAME[1:] + b"\0"])
def test_the_frame_of_13_1(db: WdbClient, frame: bytes) -> None:
    db.send_bytes(frame)
    answer = db.receive()
    assert struct.pack("<I", len(answer)) + answer == FRAME_ANSWER


def test_the_groups_of_13_2(db: WdbClient) -> None:
    add_groups(db, "linux", "web", "db")
    for agent_id, name in enumerate(("alpha", "beta", "gamma"), 1):
        assert db.raw(f'global insert-agent {{"id":{agent_id},"name":"{name}","date_add":1700000000}}') == b"ok"
    assert own_hash(db) is None

    def request(mode: str, status: str, data: str) -> None:
        assert db.raw(f'global set-agent-groups {{"mode":"{mode}","sync_status":"{status}","data":[{data}]}}') == b"ok"

    request(
        "override",
        "syncreq",
        '{"id":1,"groups":["default"]},{"id":2,"groups":["default","linux"]},{"id":3,"groups":["web","db","default"]}',
    )
    a = "2fe17f231655dfb69e1978ca8b523048a186af26"
    assert [group_columns(db, agent_id) for agent_id in (1, 2, 3)] == [
        ("default", "37a8eec1", "syncreq"),
        ("default,linux", "fe375984", "syncreq"),
        ("web,db,default", "6d9091db", "syncreq"),
    ]
    assert [memberships(db, agent_id) for agent_id in (1, 2, 3)] == [
        [("default", 0)],
        [("default", 0), ("linux", 1)],
        [("web", 0), ("db", 1), ("default", 2)],
    ]
    assert own_hash(db) == a

    get = 'global sync-agent-groups-get {"condition":"sync_status","set_synced":true,"get_global_hash":true}'
    assert db.raw(get) == (
        b'ok [{"data":[{"id":1,"name":"alpha","groups":["default"]},'
        b'{"id":2,"name":"beta","groups":["default","linux"]},'
        b'{"id":3,"name":"gamma","groups":["web","db","default"]}],"hash":"2fe17f231655dfb69e1978ca8b523048a186af26"}]'
    )
    assert db.raw(get) == b'ok [{"data":[],"hash":"2fe17f231655dfb69e1978ca8b523048a186af26"}]'
    assert db.raw('global sync-agent-groups-get {"condition":"sync_status","set_synced":true}') == b'ok [{"data":[]}]'

    request("append", "syncreq", '{"id":2,"groups":["default"]}')
    assert group_columns(db, 2) == ("linux,default", "3896ccb4", "syncreq")
    assert memberships(db, 2) == [("linux", 1), ("default", 2)]
    assert own_hash(db) == "55804e2e46cd19056e86d6068ae5ea96e165e159"

    request("remove", "syncreq", '{"id":2,"groups":["linux","default"]}')
    assert group_columns(db, 2) == ("default", "37a8eec1", "syncreq")
    c = "b00aba5068ec17070d649711f418b6b8ef434bb7"
    assert own_hash(db) == c

    request("empty_only", "syncreq", '{"id":1,"groups":["web"]}')
    assert group_columns(db, 1) == ("default", "37a8eec1", "synced")
    assert own_hash(db) == c

    request("override", "synced", '{"id":1,"groups":[]}')
    assert group_columns(db, 1) == (None, None, "synced")
    assert group_columns(db, 2)[:2] == ("default", "37a8eec1")
    assert group_columns(db, 3)[:2] == ("web,db,default", "6d9091db")
    assert own_hash(db) == "8f2e520195dd880f664ba748049e43861343c7bb"


@pytest.mark.parametrize(
    ("request_text", "answer"),
    [
        ("global", "err Invalid DB query syntax, near 'global'"),
        ("foo bar", "err Invalid DB query actor: 'foo'"),
        ("global nothing", "err Invalid DB query syntax, near 'nothing'"),
        ("global set-agent-groups", "err Invalid DB query syntax, near 'set-agent-groups'"),
        (
            'global set-agent-groups {"mode":"merge","data":[]}',
            "err Invalid mode 'merge' in set_agent_groups command",
        ),
        ('global set-agent-groups {"mode":"append"}', "err Invalid JSON data, missing required fields"),
        ('global set-agent-groups {"mode":"append","data":[{"id":001,"groups":["default"]}]}', "ok"),
        (
            'global set-agent-groups {"mode":"append","data":[{"id":99,"groups":["default"]}]}',
            "err An error occurred during the set of the groups",
        ),
        ("global sync-agent-groups-get {}", 'ok [{"data":[]}]'),
        (
            'global sync-agent-groups-get {"last_id":-1}',
            "err Invalid JSON data, invalid alternative fields data",
        ),
        (
            'global sync-agent-groups-get {"condition":"some"}',
            "err Could not obtain a response from wdb_global_sync_agent_groups_get",
        ),
        (
            "global get-groups-integrity abc",
            "err Hash hex-digest does not have the expected length. Expected (40) got (3)",
        ),
        ("global find-group nope", "ok []"),
        ("global insert-agent-group a/b", "err Error inserting group in global.db."),
        ("global select-agent-group 1", "ok [{}]"),
    ],
)
def test_the_small_ones_of_13_3(db: WdbClient, request_text: str, answer: str) -> None:
    db.command('global insert-agent {"id":1,"name":"alpha","date_add":1700000000}')
    assert db.raw(request_text) == answer.encode()


def test_the_sync_status_of_13_4(store: LoneStore, db: WdbClient) -> None:
    wdb_http(store.root, "GET", "/v1/agents/sync")
    db.command('global insert-agent {"id":1,"name":"alpha","date_add":1700000000}')

    def status() -> str:
        (row,) = db.rows("select sync_status from agent where id = 1")
        return str(row["sync_status"])

    assert status() == "synced"
    keepalive = 'global update-keepalive {"id":1,"connection_status":"active","sync_status":"syncreq_keepalive"}'
    connection = (
        'global update-connection-status {"id":1,"connection_status":"active","sync_status":"syncreq_status",'
        '"status_code":0}'
    )
    data = (
        'global update-agent-data {"id":1,"connection_status":"active","group_config_status":"synced",'
        '"sync_status":"syncreq"}'
    )
    for request, after in (
        (keepalive, "syncreq_keepalive"),
        (connection, "syncreq_status"),
        (keepalive, "syncreq_status"),
        (data, "syncreq"),
        (connection, "syncreq"),
    ):
        assert parted(db.raw(request)) == ("ok", "")
        assert status() == after
    code, _, body = wdb_http(store.root, "GET", "/v1/agents/sync")
    assert code == 200
    assert body.startswith(b'{"syncreq":[{"id":1,"name":"alpha",')
    assert status() == "synced"
    assert wdb_http(store.root, "GET", "/v1/agents/sync")[2] == b"{}"
