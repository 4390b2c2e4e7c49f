"""Requests that no client should send: each gets an answer of the grammar, and affects no other client."""

import json
import random
import socket
import time
from contextlib import ExitStack, closing

import pytest

from tests.contracts.helpers import LARGEST, NEEDS_ARGUMENT, add_agents, set_groups
from tests.store.lone_store import LoneStore
from tools.rig.wdb_client import WDB_HTTP, WdbClient, wdb_http

HUGE = "9" * 400
ARGUMENTS: dict[str, bytes] = {
    "no UTF-8": b'{"id":1,"name":"\xff\xfe","date_add":1}',
    "half a character": b'{"id":1,"name":"\xc3',
    "a lone surrogate": b'{"id":50,"name":"\\ud800","date_add":1}',
    "a NUL in the middle": b'{"id":1,\0"name":"x"}',
    "an escaped NUL": b'{"id":51,"name":"a\\u0000b","date_add":1}',
    "deep nesting": b"[" * 60_000,
    "deep objects": b'{"a":' * 12_000,
    "a text that does not end": b'"' + b'\\"' * 32_000,
    "an enormous integer": f'{{"id":{HUGE},"name":"x","date_add":1,"last_id":{HUGE}}}'.encode(),
    "beyond 64 bits": b'{"id":18446744073709551616,"name":"x","date_add":1}',
    "an exponent": b'{"id":1e3,"name":"x","date_add":1}',
    "a fraction": b'{"id":1.5,"name":"x","date_add":1}',
    "a negative id": b'{"id":-1,"name":"x","date_add":1}',
    "leading zeros alone": b"0" * 60_000,
    "minus zero": b'{"id":-001,"name":"x","date_add":1}',
    "members twice": b'{"id":52,"id":53,"name":"x","name":"y","date_add":1}',
    "a number": b"5",
    "a text": b'"x"',
    "null": b"null",
    "a list of nothing": b"[null,1,[],{}]",
    "digits": b"9" * 1000,
    "a quote": b"'; delete from agent; --",
    "items that are none": b'{"mode":"append","data":[null,5,"x",[],{},{"id":1},{"groups":[]},'
    b'{"id":"1","groups":["default"]}]}',
    "groups that are none": b'{"mode":"override","data":[{"id":1,"groups":null},{"id":2,"groups":"default"},'
    b'{"id":3,"groups":{}}]}',
    "labels that are none": b'[{"id":1,"name":"x","connection_status":"active","group_config_status":"synced",'
    b'"labels":[5,{}]}]',
}
for _number in (2**31, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**30):
    _least = f'{{"id":{_number},"name":"x","connection_status":"active","group_config_status":"synced"'
    ARGUMENTS |= {
        f"an item with {_number}": b'{"mode":"override","data":[{"id":%d,"name":"x","groups":["default"]}]}' % _number,
        f"a list with {_number}": f'[{_least},"last_keepalive":{_number},"status_code":{_number}}}]'.encode(),
        f"members with {_number}": (
            f'{_least},"date_add":{_number},"status_code":{_number},"sync_status":"synced"}}'.encode()
        ),
        f"a query with {_number}": f'{{"condition":"all","last_id":{_number}}}'.encode(),
        f"a delta of {_number}": f'{{"condition":"all","agent_registration_delta":{_number}}}'.encode(),
        f"an argument with {_number}": f"{_number} active node {_number}".encode(),
        f"the last id {_number}": f"last_id {_number}".encode(),
        f"a group and {_number}": f"default last_id {_number}".encode(),
        f"a row with {_number}": f"select {_number}".encode(),
    }
COMMANDS = [*NEEDS_ARGUMENT, "sync-agent-info-get", "get-distinct-groups"]


def well_formed(answer: bytes) -> bool:
    """Asserts a status word of 2.2, alone or with a payload, in a frame of its size."""
    status, space, payload = answer.partition(b" ")
    payload.decode()
    return status in (b"ok", b"due", b"err") and (not space or bool(payload)) and len(answer) <= LARGEST


def serves(store: LoneStore) -> bool:
    with WdbClient(store.root) as other:
        names = json.loads(other.command("global select-groups"))
    return {"name": "default"} in names and wdb_http(store.root, "GET", "/v1/agents/ids")[0] == 200


@pytest.mark.parametrize("command", COMMANDS)
def test_every_argument_gets_an_answer(store: LoneStore, db: WdbClient, command: str) -> None:
    add_agents(db, 1, 2, 3)
    for reason, argument in ARGUMENTS.items():
        answer = db.raw(f"global {command} ".encode() + argument)
        assert well_formed(answer), reason
    assert serves(store)


@pytest.mark.parametrize("actor", ["global", "agent 1", "agent", "wazuhdb", "wazuhdb remove", "task", "mitre"])
def test_every_actor_gives_an_answer(store: LoneStore, db: WdbClient, actor: str) -> None:
    add_agents(db, 1)
    for argument in ARGUMENTS.values():
        assert well_formed(db.raw(actor.encode() + b" " + argument))
    assert serves(store)


def test_items_that_are_not_understood_fail_and_the_others_do_not(db: WdbClient) -> None:
    add_agents(db, 1, 2)
    items = '[null,5,{"id":1},{"groups":["default"]},{"id":"x","groups":["default"]},{"id":2,"groups":["default"]}]'
    answer = db.raw(f'global set-agent-groups {{"mode":"append","data":{items}}}')
    assert answer.startswith(b"err ")
    assert db.raw("global select-group-belong 2") == b'ok ["default"]'
    assert db.raw("global select-group-belong 1") == b"ok []"


def test_noise_is_answered_or_ends_its_own_connection(store: LoneStore, db: WdbClient) -> None:
    noise = random.Random(4)
    for _ in range(300):
        payload = noise.randbytes(noise.randrange(1, 200))
        if payload.startswith(b"{") or not payload.strip(b" \n\0"):
            continue
        assert db.raw(payload).startswith(b"err Invalid DB query ")
    assert serves(store)


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 10**30, 1.5])
@pytest.mark.parametrize("member", ["id", "last_keepalive"])
def test_numbers_beyond_64_bits_are_a_failure_over_http(
    store: LoneStore, db: WdbClient, member: str, number: float
) -> None:
    row = {"id": 1, "connection_status": "active", "group_config_status": "synced", member: number}
    assert wdb_http(store.root, "POST", "/v1/agents/sync", json.dumps({"syncreq": [row]}))[::2] == (500, b"")
    assert serves(store)


@pytest.mark.parametrize("path", ["9" * 30, "-5", str(2**63), "0" * 5000])
def test_enormous_ids_in_a_path_are_refused(store: LoneStore, db: WdbClient, path: str) -> None:
    status, _, body = wdb_http(store.root, "GET", f"/v1/agents/{path}/groups")
    assert (status, body) in ((200, b"[]"), (500, b""))
    assert wdb_http(store.root, "POST", "/v1/agents/summary", f"[{path}]")[0] in (200, 500)
    assert wdb_http(store.root, "POST", "/v1/agents/restartinfo", f'{{"ids":[{path}]}}')[0] in (200, 500)
    assert serves(store)


def test_a_client_that_does_not_read_its_answers_delays_no_other_client(store: LoneStore, db: WdbClient) -> None:
    with WdbClient(store.root) as stuck:
        for _ in range(40):
            stuck.send("global sql select replace(hex(zeroblob(70000)), '00', 'x') as t")
        started = time.monotonic()
        for _ in range(50):
            add_agents(db, 1)
            db.command("global delete-agent 1")
        assert serves(store)
        assert time.monotonic() - started < 60
        assert all(len(stuck.receive()) == LARGEST for _ in range(40))


def test_hundreds_of_silent_connections_delay_no_other(store: LoneStore) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(WdbClient(store.root)) for _ in range(300)]
        for client in clients[::2]:
            client.send_bytes(b"\x14\0\0")
        assert serves(store)
        for client in clients[1::2]:
            assert client.raw("global find-group nope") == b"ok []"


def test_a_frozen_page_of_context_does_not_stop_writers(store: LoneStore, db: WdbClient) -> None:
    """Its client reads nothing while another client writes."""
    with WdbClient(store.root) as slow:
        slow.send("global get-all-agents context")
        for agent_id in range(1, 30):
            add_agents(db, agent_id)
            assert set_groups(db, "append", agent_id, ["default"]) == b"ok"


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"POST /v1/agents/sync HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n{}",
        b"POST /v1/agents/sync HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n{}",
        b"POST /v1/agents/sync HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{}",
        b"GET /" + b"x" * 200_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /v1/agents/%ff%00/groups HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\0" * 1000,
    ],
)
def test_malformed_http_affects_no_other_client(store: LoneStore, db: WdbClient, data: bytes) -> None:
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as connection:
        connection.settimeout(60)
        connection.connect(str(store.root / WDB_HTTP))
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(65_536)
        assert not answer.startswith(b"HTTP/1.1 200")
    assert serves(store)


def test_a_body_of_many_megabytes_is_read(store: LoneStore, db: WdbClient) -> None:
    body = '{"other":"' + "x" * 20_000_000 + '","syncreq":[]}'
    assert wdb_http(store.root, "POST", "/v1/agents/sync", body)[::2] == (200, b"")


def test_several_http_requests_follow_on_one_connection_or_it_closes(store: LoneStore, db: WdbClient) -> None:
    request = b"GET /v1/agents/ids HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n\r\n"
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as connection:
        connection.settimeout(60)
        connection.connect(str(store.root / WDB_HTTP))
        connection.sendall(request)
        answer = b""
        while not answer.endswith(b"\r\n\r\n[]"):
            piece = connection.recv(65_536)
            assert piece, answer
            answer += piece
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"content-length: 2\r\n" in answer.lower()
