"""Registration as in wdb.md 8, through the store's socket."""

import hashlib
import json
import re
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.store.lone_store import LoneStore, lone_store


def frame_exchange(path: Path, payload: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(60)
        client.connect(str(path))
        client.sendall(struct.pack("<I", len(payload)) + payload)
        data = b""
        while piece := client.recv(65536):
            data += piece
        (size,) = struct.unpack("<I", data[:4])
        assert len(data) == size + 4
        return data[4:]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoneStore]:
    root = tmp_path_factory.mktemp("authd")
    with lone_store(root) as running:
        for name in ("web", "db"):
            (root / "etc/shared" / name).mkdir()
        yield running


def ask(store: LoneStore, request: object) -> Any:
    payload = request if isinstance(request, bytes) else json.dumps(request).encode()
    return json.loads(frame_exchange(store.root / "queue/sockets/auth", payload))


def add(store: LoneStore, name: str, ip: str = "any", **arguments: Any) -> Any:
    return ask(store, {"function": "add", "arguments": {"name": name, "ip": ip} | arguments})


def wdb(store: LoneStore, request: str) -> str:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(store.root / "queue/db/wdb"))
        client.sendall(struct.pack("<I", len(request)) + request.encode())
        (size,) = struct.unpack("<I", client.recv(4, socket.MSG_WAITALL))
        return client.recv(size, socket.MSG_WAITALL).decode()


def key_line(store: LoneStore, name: str) -> str:
    lines = (store.root / "etc/client.keys").read_text().splitlines()
    return next(line for line in lines if line.split(" ")[1].lstrip("!") == name)


def test_added_agent_is_in_the_file_and_the_database_when_it_is_answered(store: LoneStore) -> None:
    began = time.time()
    answer = add(store, "first", groups="web,db,web")
    assert list(answer["data"]) == ["id", "name", "ip", "key"]
    data = answer["data"]
    assert answer["error"] == 0
    assert re.fullmatch("[0-9a-f]{64}", data["key"])
    assert key_line(store, "first") == f"{data['id']} first any {data['key']}"
    assert (store.root / "etc/client.keys").stat().st_mode & 0o777 == 0o640
    stamps = (store.root / "queue/agents-timestamp").read_text()
    assert re.search(rf"^{data['id']} first any \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d$", stamps, re.M)
    row = json.loads(wdb(store, f"global get-agent-info {data['id']}")[3:])[0]
    assert (row["name"], row["register_ip"], row["internal_key"], row["group"]) == (
        "first",
        "any",
        data["key"],
        "web,db",
    )
    assert row["group_sync_status"] == "syncreq"
    assert row["group_hash"] == hashlib.sha256(b"web,db").hexdigest()[:8]
    assert int(began) <= row["date_add"] <= time.time()
    assert wdb(store, f"global select-group-belong {data['id']}") == 'ok ["web","db"]'


def test_get_answers_like_add_and_remove_keeps_the_entry_as_removed(store: LoneStore) -> None:
    added = add(store, "second")
    agent_id = added["data"]["id"]
    assert ask(store, {"function": "get", "arguments": {"id": agent_id}}) == added
    removed = ask(store, {"function": "remove", "arguments": {"id": agent_id, "purge": 1}})
    assert removed == {"error": 0, "data": "Agent deleted successfully."}
    assert key_line(store, "second") == f"{agent_id} !second any {added['data']['key']}"
    assert wdb(store, f"global get-agent-info {agent_id}") == "ok []"
    assert ask(store, {"function": "get", "arguments": {"id": agent_id}}) == {
        "error": 9011,
        "message": "Agent ID not found",
    }
    again = add(store, "second")
    assert int(again["data"]["id"]) > int(agent_id)
    ask(store, {"function": "remove", "arguments": {"id": again["data"]["id"], "purge": True}})
    assert again["data"]["id"] not in [
        line.split(" ")[0] for line in (store.root / "etc/client.keys").read_text().splitlines()
    ]


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (b'{"function":', (9002, "Parsing JSON input")),
        (b'{"arguments":{}}', (9003, "No such function")),
        (b'{"function":"add"}', (9004, "No such argument")),
        (b'{"function":"fly","arguments":{}}', (9001, "Internal error")),
        (b'{"function":"add","arguments":{"ip":"any"}}', (9005, "No such name")),
        (b'{"function":"add","arguments":{"name":"a b","ip":"any"}}', (9005, "No such name")),
        (b'{"function":"add","arguments":{"name":"n"}}', (9006, "No such IP")),
        (b'{"function":"add","arguments":{"name":"n","ip":"10.0.0.256"}}', (9006, "No such IP")),
        (b'{"function":"add","arguments":{"name":"n","ip":"10.0.0.0/33"}}', (9006, "No such IP")),
        (b'{"function":"add","arguments":{"name":"n","ip":"fe80::1%eth0"}}', (9006, "No such IP")),
        (b'{"function":"add","arguments":{"name":"n","ip":"fe80::1%a b\\n999 c any d"}}', (9006, "No such IP")),
        (b'{"function":"add","arguments":{"name":"!n","ip":"any"}}', (9005, "No such name")),
        (b'{"function":"add","arguments":{"name":"a\\u0000b","ip":"any"}}', (9005, "No such name")),
        (b'{"function":"add","arguments":{"name":"\xff","ip":"any"}}', (9002, "Parsing JSON input")),
        (b'{"function":"remove","arguments":{"id":7}}', (9010, "No such agent ID")),
        (b'{"function":"add","arguments":{"name":"n","ip":"any","force":{}}}', (9002, "Parsing JSON input")),
        (
            b'{"function":"add","arguments":{"name":"n","ip":"any","groups":"no-dir"}}',
            (9014, "Invalid Group(s) Name(s)"),
        ),
        (b'{"function":"remove","arguments":{}}', (9010, "No such agent ID")),
        (b'{"function":"get","arguments":{"id":"99999"}}', (9011, "Agent ID not found")),
        (b'{"function":"get","arguments":{"id":"x"}}', (9011, "Agent ID not found")),
    ],
)
def test_refusals_have_their_number_and_message(store: LoneStore, request_: bytes, error: tuple[int, str]) -> None:
    assert ask(store, request_) == {"error": error[0], "message": error[1]}


def test_too_many_groups_are_refused(store: LoneStore) -> None:
    for n in range(129):
        (store.root / "etc/shared" / f"g{n}").mkdir(exist_ok=True)
    names = [f"g{n}" for n in range(129)]
    assert add(store, "many", groups=",".join(names))["error"] == 9014
    assert add(store, "many", groups=",".join(names[:128]))["error"] == 0


def test_text_requests_and_a_trailing_nul(store: LoneStore) -> None:
    path = store.root / "queue/sockets/auth"
    answer = frame_exchange(path, b"getconfig auth\0")
    assert answer.startswith(b"ok {")
    assert json.loads(answer[3:])["auth"]["force"]["after_registration_time"] == 3600
    assert frame_exchange(path, b"hello") == b"err Unrecognized command"
    assert frame_exchange(path, b' {"function":"get"}') == b"err Unrecognized command"
    assert add(store, "nul")["error"] == 0
    assert (
        json.loads(frame_exchange(path, b'{"function":"add","arguments":{"name":"nul","ip":"any"}}\0'))["error"] == 9008
    )


def test_addresses_are_stored_in_full_and_not_given_twice(store: LoneStore) -> None:
    assert add(store, "six", "fe80::1")["data"]["ip"] == "FE80:0000:0000:0000:0000:0000:0000:0001"
    assert add(store, "net", "10.1.0.0/16")["data"]["ip"] == "10.1.0.0/16"
    assert add(store, "same-net", "10.1.0.0/016")["error"] == 9007
    assert add(store, "six-net", "2001:db8::/32")["data"]["ip"] == "2001:0DB8:0000:0000:0000:0000:0000:0000/32"
    assert add(store, "four", "10.2.0.1")["data"]["ip"] == "10.2.0.1"
    assert add(store, "other", "10.2.0.1") == {"error": 9007, "message": "Duplicate IP"}
    assert add(store, "other", "FE80::1")["error"] == 9007


def test_chosen_id_and_key_are_taken(store: LoneStore) -> None:
    key = "a" * 64
    data = add(store, "chosen", id="4711", key=key)["data"]
    assert (data["id"], data["key"]) == ("4711", key)
    assert add(store, "taken", id="4711") == {"error": 9012, "message": "Duplicate ID"}
    assert add(store, "next")["data"]["id"] == "4712"
    assert add(store, "spaced", key="a b")["error"] == 9009


def test_name_of_the_manager_is_refused(store: LoneStore) -> None:
    assert add(store, socket.gethostname()) == {"error": 9008, "message": "Duplicate name"}


def test_old_agent_is_replaced_only_when_the_rules_allow_it(store: LoneStore) -> None:
    old = add(store, "again")["data"]
    assert add(store, "again")["error"] == 9008
    force = {
        "enabled": True,
        "disconnected_time": {"enabled": True, "value": "1h"},
        "after_registration_time": "0",
        "key_mismatch": True,
    }
    wdb(store, f'global update-keepalive {{"id":{int(old["id"])},"connection_status":"active","sync_status":"synced"}}')
    assert add(store, "again", force=force)["error"] == 9008
    assert (
        add(store, "again", force=force | {"disconnected_time": {"enabled": False, "value": 0}, "enabled": False})[
            "error"
        ]
        == 9008
    )
    wdb(
        store,
        "global sql update agent set connection_status = 'disconnected', disconnection_time = strftime('%s','now') - "
        f"7200 where id = {int(old['id'])}",
    )
    same = hashlib.sha1(f"{old['id']}again{old['key']}".encode()).hexdigest()
    assert add(store, "again", force=force, key_hash=same)["error"] == 9008
    new = add(store, "again", force=force, key_hash="0" * 40)
    assert new["error"] == 0
    assert new["data"]["id"] != old["id"]
    assert wdb(store, f"global get-agent-info {old['id']}") == "ok []"
    assert f"{old['id']} !again" in (store.root / "etc/client.keys").read_text()


def test_key_hash_of_the_worked_example() -> None:
    assert hashlib.sha1(b"001alpha" + b"a" * 64).hexdigest() == "6ec678c9c129f41e91e0bc25adce5126393252ce"


@pytest.mark.slow
def test_key_answered_before_a_kill_is_there_after_it(tmp_path: Path) -> None:
    with lone_store(tmp_path) as store:
        answered = [add(store, f"agent{n}", groups="default")["data"] for n in range(20)]
        store.kill()
        store.restart()
        for data in answered:
            assert ask(store, {"function": "get", "arguments": {"id": data["id"]}})["data"] == data
            assert wdb(store, f"global select-group-belong {data['id']}") == 'ok ["default"]'
        assert not list((tmp_path / "etc").glob(".*"))


def test_file_changed_by_another_program_is_read_again(tmp_path: Path) -> None:
    with lone_store(tmp_path) as store:
        add(store, "one")
        path = tmp_path / "etc/client.keys"
        path.write_text(path.read_text() + f"0815 hand any {'b' * 64}\n")
        assert add(store, "hand")["error"] == 9008
        assert add(store, "two")["data"]["id"] == "816"
        assert "0815 hand any" in path.read_text()
