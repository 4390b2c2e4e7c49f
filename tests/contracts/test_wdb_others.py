"""Actors other than `global`, concurrency and transactions: wdb.md 2.6 and 2.7."""

import json
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.contracts.conftest import MakeStore
from tests.contracts.helpers import (
    add_agent,
    add_agents,
    add_groups,
    agent,
    compact,
    global_hash,
    own_hash,
    put,
    set_groups,
)
from tests.store.lone_store import LoneStore
from tools.rig.wdb_client import WdbClient, wdb_http

SCA = {
    "sca_policy": "name file id description references hash_file",
    "sca_scan_info": "id start_scan end_scan policy_id pass fail invalid total_checks score hash",
    "sca_check": "scan_id id policy_id title description rationale remediation file process directory registry command "
    "references result reason condition",
    "sca_check_rules": "id_check type rule",
    "sca_check_compliance": "id_check key value",
}


def private(store: LoneStore, agent_id: int) -> Path:
    return store.root / f"queue/db/{agent_id:03}.db"


# agent ⟨id⟩ ...


@pytest.mark.parametrize("agent_id", ["abc", "1x", "-1", "001a"])
def test_an_agent_s_id_is_digits_alone(db: WdbClient, agent_id: str) -> None:
    add_agent(db, 1)
    assert db.raw(f"agent {agent_id} sql select 1") == f"err Invalid agent ID '{agent_id}'".encode()


def test_an_agent_must_be_known(store: LoneStore, db: WdbClient) -> None:
    assert db.raw("agent 99 sql select 1") == b"err Agent not found"
    assert not private(store, 99).exists()
    assert db.raw("agent 0 sql select 1 as n") == b'ok [{"n":1}]'
    assert db.raw("agent 000 sql select 1 as n") == b'ok [{"n":1}]'


def test_the_private_database_is_made_when_it_is_missing(store: LoneStore, db: WdbClient) -> None:
    add_agent(db, 7)
    assert db.raw("agent 007 sql select count(*) as n, null as x from sca_check") == b'ok [{"n":0}]'
    assert private(store, 7).is_file()
    for name, columns in SCA.items():
        answer = json.loads(db.command(f"agent 7 sql select name from pragma_table_info('{name}') order by cid"))
        assert [row["name"] for row in answer] == columns.split(), name


def test_statements_of_a_private_database(db: WdbClient) -> None:
    add_agents(db, 7, 8)
    assert db.raw("agent 007 begin") == b"ok"
    assert db.raw("agent 7 sql insert into sca_policy (id, name) values ('cis', 'CIS')") == b"ok []"
    assert db.raw("agent 7 commit") == b"ok"
    assert db.raw("agent 7 sql select * from sca_policy") == b'ok [{"name":"CIS","id":"cis"}]'
    assert db.raw("agent 8 sql select * from sca_policy") == b"ok []"
    assert db.raw("agent 7 sql selec") == b"err Cannot execute SQL query"
    assert db.raw("agent 7 sql select * from agent") == b"err Cannot execute SQL query"
    assert db.raw("agent 7 close") == b"ok"
    assert db.raw("agent 7 sql select name from sca_policy where id = 'cis'") == b'ok [{"name":"CIS"}]'


def test_removing_a_private_database(store: LoneStore, db: WdbClient) -> None:
    add_agent(db, 7)
    db.command("agent 7 sql insert into sca_policy (id) values ('x')")
    assert db.raw("agent 7 remove") == b"ok"
    assert not private(store, 7).exists()
    assert db.raw("agent 7 sql select * from sca_policy") == b"ok []"


def test_wazuhdb_removes_private_databases(store: LoneStore, db: WdbClient) -> None:
    add_agents(db, 1, 2, 1000)
    for agent_id in (1, 1000):
        db.command(f"agent {agent_id} sql select 1")
    private(store, 2).unlink(missing_ok=True)
    assert db.raw("wazuhdb remove 001 2 1000") == b'ok {"agents":{"001":"ok","002":"Can\'t delete","1000":"ok"}}'
    assert not private(store, 1).exists()
    assert not private(store, 1000).exists()
    assert list(json.loads(db.command("wazuhdb remove abc"))["agents"].values()) == ["Invalid agent ID"]


def test_wazuhdb_knows_one_word(db: WdbClient) -> None:
    assert db.raw("wazuhdb forget 001") == b"err No agents id provided"


# Requests as JSON.


@pytest.mark.parametrize(
    "request_text",
    [
        '{"command":"getstats"}',
        '{"command":"getconfig","parameters":{"section":"internal"}}',
        '{"command": "getconfig", "parameters": {"section": "wdb"}}',
    ],
)
def test_a_json_request_is_answered_with_json_alone(db: WdbClient, request_text: str) -> None:
    for end in ("", "\0"):
        answer = db.raw(request_text + end)
        assert answer.startswith(b'{"error":0,"message":"ok","data":{')
        assert isinstance(json.loads(answer)["data"], dict)


@pytest.mark.parametrize(
    ("request_text", "number", "message"),
    [
        ("{", 1, "Invalid JSON input"),
        ('{"command":', 1, "Invalid JSON input"),
        ("{}", 2, "Empty command"),
        ('{"parameters":{"section":"wdb"}}', 2, "Empty command"),
        ('{"command":"nothing"}', 3, "Unrecognized command"),
        ('{"command":"getconfig"}', 4, "Empty parameters"),
        ('{"command":"getconfig","parameters":{"other":1}}', 5, "Empty section"),
        ('{"command":"getconfig","parameters":{"section":"no"}}', 6, "Unrecognized or not configured section"),
    ],
)
def test_errors_of_json_requests(db: WdbClient, request_text: str, number: int, message: str) -> None:
    assert db.raw(request_text) == f'{{"error":{number},"message":"{message}","data":{{}}}}'.encode()


# Concurrency and transactions.


@pytest.mark.slow
def test_every_connection_sees_what_was_answered_before(store: LoneStore, db: WdbClient) -> None:
    add_agent(db, 1)
    with WdbClient(store.root) as other:
        for number in range(100):
            db.command(f'global update-agent-name {{"id":1,"name":"n{number}"}}')
            wanted = b'ok [{"name":"n%d"}]' % number
            assert other.raw("global select-agent-name 1") == wanted
            assert other.raw("global sql select name from agent where id = 1") == wanted
            put(other, 1, sync_status="syncreq")
            answer = json.loads(wdb_http(store.root, "GET", "/v1/agents/sync")[2])
            assert answer["syncreq"][0]["name"] == f"n{number}"
            assert db.raw("global sql select sync_status from agent where id = 1") == b'ok [{"sync_status":"synced"}]'


def test_a_read_behind_a_write_on_one_connection_sees_it(db: WdbClient) -> None:
    """Does not wait for the answer of the write."""
    add_groups(db, "web")
    add_agent(db, 1)
    for number in range(50):
        group = ("web", "default")[number % 2]
        db.send(f'global set-agent-groups {{"mode":"override","data":[{{"id":1,"groups":["{group}"]}}]}}')
        db.send("global select-group-belong 1")
        db.send('global sync-agent-groups-get {"condition":"all"}')
        assert db.receive() == b"ok"
        assert db.receive() == f'ok ["{group}"]'.encode()
        assert db.receive() == f'ok [{{"data":[{{"id":1,"name":"agent1","groups":["{group}"]}}]}}]'.encode()


@pytest.mark.slow
def test_clients_at_once_lose_nothing(store: LoneStore, db: WdbClient) -> None:
    clients, each = 8, 50
    problems: list[Any] = []

    def register(client: int) -> None:
        try:
            with WdbClient(store.root) as own:
                for number in range(each):
                    agent_id = 1 + client * each + number
                    add_agent(own, agent_id)
                    if set_groups(own, "append", agent_id, ["default"], sync_status="syncreq") != b"ok":
                        problems.append(agent_id)
        except Exception as failure:
            problems.append(failure)

    threads = [threading.Thread(target=register, args=(client,)) for client in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    assert db.ids("get-all-agents last_id") == list(range(1, clients * each + 1))
    assert own_hash(db) == global_hash(["37a8eec1"] * clients * each)
    waiting, _ = db.agent_groups(condition="sync_status", set_synced=True)
    assert len(waiting) == clients * each


def test_a_waiting_agent_is_handed_to_one_client_only(store: LoneStore, db: WdbClient) -> None:
    count = 300
    add_agents(db, *range(1, count + 1))
    db.command("global sql update agent set group_sync_status = 'syncreq' where id > 0")
    got: list[int] = []

    def take() -> None:
        with WdbClient(store.root) as own:
            agents, _ = own.agent_groups(condition="sync_status", set_synced=True)
            got.extend(item["id"] for item in agents)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == list(range(1, count + 1))


def test_a_failing_statement_undoes_only_itself(db: WdbClient) -> None:
    add_agents(db, 1, 2, 3)
    put(db, 1, ip="before")
    assert db.raw("global sql update agent set name = null where id = 2").startswith(b"err ")
    statement = "update agent set name = case id when 3 then null else 'new' end where id > 0"
    assert db.raw(f"global sql {statement}").startswith(b"err ")
    assert [agent(db, agent_id)["name"] for agent_id in (1, 2, 3)] == ["agent1", "agent2", "agent3"]
    assert agent(db, 1)["ip"] == "before"
    rows = [
        {"id": 1, "name": "new", "connection_status": "active", "group_config_status": "synced"},
        {"id": 2, "name": "new", "connection_status": "bogus", "group_config_status": "synced"},
    ]
    assert db.raw(f"global sync-agent-info-set {compact(rows)}").startswith(b"err ")
    assert [agent(db, agent_id)["name"] for agent_id in (1, 2)] == ["new", "agent2"]


@pytest.mark.slow
def test_the_store_is_consistent_after_it_was_killed(make_store: MakeStore) -> None:
    store = make_store()
    with WdbClient(store.root) as db:
        add_groups(db, "web")
        for agent_id in range(1, 201):
            add_agent(db, agent_id)
            set_groups(db, "append", agent_id, ["default", "web"][: agent_id % 3], sync_status="syncreq")
    # Not before, because the store may add agents by their keys at any moment between two requests.
    keys = store.root / "etc/client.keys"
    keys.write_text("".join(f"{number:03} agent{number} any {'0' * 64}\n" for number in range(1, 201)))
    store.kill()
    store.restart()
    with WdbClient(store.root) as db:
        with closing(sqlite3.connect(store.root / "queue/db/global.db")) as file:
            assert file.execute("pragma integrity_check").fetchall() == [("ok",)]
        hashes = [row["h"] for row in db.rows("select group_hash as h from agent where id > 0 order by id") if row]
        assert own_hash(db) == (global_hash(hashes) if hashes else None)
        db.command("global recalculate-agent-group-hashes")
        again = [row["h"] for row in db.rows("select group_hash as h from agent where id > 0 order by id") if row]
        assert again == hashes, "memberships and the columns made of them were written together"


@pytest.mark.slow
def test_a_stop_keeps_everything(make_store: MakeStore) -> None:
    store = make_store()
    with WdbClient(store.root) as db:
        add_groups(db, "web")
        add_agent(db, 1)
        (store.root / "etc/client.keys").write_text(f"001 agent1 any {'0' * 64}\n")
        set_groups(db, "append", 1, ["default", "web"], sync_status="syncreq")
        # Our store takes the key from the file at a moment of its own, at the latest at its next start.
        before = {**agent(db, 1), "register_ip": "any", "internal_key": "0" * 64}
    assert store.stop() == 0
    store.restart()
    with WdbClient(store.root) as db:
        assert agent(db, 1) == before
        assert db.raw("global select-group-belong 1") == b'ok ["default","web"]'
        assert own_hash(db) == global_hash([agent(db, 1)["group_hash"]])
