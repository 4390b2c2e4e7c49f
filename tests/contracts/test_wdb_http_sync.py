"""GET and POST /v1/agents/sync: wdb.md 7.7 and 7.8."""

import json
import time
from typing import Any

import pytest

from tests.contracts.helpers import add_agent, add_agents, agent, compact, labels, put, set_groups, some, within
from tests.store.lone_store import LoneStore
from tools.rig.wdb_client import WdbClient, wdb_http

FULL = """id name ip os_name os_version os_major os_minor os_codename os_build os_platform os_uname os_arch version
config_sum merged_sum manager_host node_name last_keepalive connection_status disconnection_time group_config_status
status_code""".split()  # noqa: SIM905
NUMBERS = ("last_keepalive", "disconnection_time", "status_code")
LEAST = {"connection_status": "active", "group_config_status": "synced"}


def get(store: LoneStore) -> bytes:
    status, headers, body = wdb_http(store.root, "GET", "/v1/agents/sync")
    assert status == 200
    assert headers["content-type"] == "application/json"
    return body


def post(store: LoneStore, body: Any) -> tuple[int, bytes]:
    text = body if isinstance(body, (str, bytes)) else compact(body)
    status, _, answer = wdb_http(store.root, "POST", "/v1/agents/sync", text)
    return status, answer


def full_row(agent_id: int) -> dict[str, Any]:
    known: dict[str, Any] = {"id": agent_id, "connection_status": "disconnected", "group_config_status": "synced"}
    known.update({name: 1000 + place for place, name in enumerate(NUMBERS)})
    return {name: known.get(name, f"{name} {agent_id}") for name in FULL}


def put_full(db: WdbClient, agent_id: int, sync_status: str) -> dict[str, Any]:
    add_agent(db, agent_id)
    row = full_row(agent_id)
    put(db, agent_id, **{name: value for name, value in row.items() if name != "id"}, sync_status=sync_status)
    return row


# GET.


def test_nothing_to_report_is_an_empty_object(store: LoneStore, db: WdbClient) -> None:
    add_agent(db, 1)
    assert get(store) == b"{}"


def test_each_list_has_its_members_in_order(store: LoneStore, db: WdbClient) -> None:
    nine, eight, seven = (
        put_full(db, agent_id, word)
        for agent_id, word in ((9, "syncreq_status"), (8, "syncreq_keepalive"), (7, "syncreq"))
    )
    put_full(db, 6, "synced")
    put(db, 0, sync_status="syncreq")
    for agent_id in (7, 8, 9):
        db.command(f"global sql insert into labels values ({agent_id}, 'env', 'prod')")
    whole = {**seven, "labels": [{"key": "env", "value": "prod"}]}
    keepalive = {name: eight[name] for name in ("id", "version")}
    status = {name: nine[name] for name in ("id", "version", "connection_status", "disconnection_time", "status_code")}
    wanted = {"syncreq": [whole], "syncreq_keepalive": [keepalive], "syncreq_status": [status]}
    assert get(store) == compact(wanted).encode()
    assert [some(db, agent_id, "sync_status") for agent_id in (6, 7, 8, 9)] == [("synced",)] * 4
    assert some(db, 0, "sync_status") == ("syncreq",), "only ids greater than 0"
    assert get(store) == b"{}", "an answer is not given again"


def test_the_flags_alone_are_changed(store: LoneStore, db: WdbClient) -> None:
    before = {agent_id: put_full(db, agent_id, "syncreq") for agent_id in (1, 2)}
    rows = {agent_id: agent(db, agent_id) for agent_id in before}
    get(store)
    assert {agent_id: agent(db, agent_id) for agent_id in before} == {
        agent_id: {**row, "sync_status": "synced"} for agent_id, row in rows.items()
    }


def test_empty_texts_are_left_out_and_empty_numbers_are_zero(store: LoneStore, db: WdbClient) -> None:
    add_agent(db, 7, "x")
    put(db, 7, sync_status="syncreq", node_name="", os_name=" ", os_version="  ", ip=None, disconnection_time=None)
    put(db, 7, status_code=None, last_keepalive=None)
    db.command("global sql insert into labels values (7, 'nothing', ''), (7, 'space', ' ')")
    row = json.loads(get(store))["syncreq"][0]
    row["labels"].sort(key=lambda label: label["key"])
    assert compact(row) == (
        '{"id":7,"name":"x","os_version":"  ","last_keepalive":0,"connection_status":"never_connected",'
        '"disconnection_time":0,"group_config_status":"not synced","status_code":0,'
        '"labels":[{"key":"nothing"},{"key":"space"}]}'
    )
    put(db, 7, sync_status="syncreq_keepalive", version=None)
    assert get(store) == b'{"syncreq_keepalive":[{"id":7}]}'
    put(db, 7, sync_status="syncreq_status")
    assert get(store) == (
        b'{"syncreq_status":[{"id":7,"connection_status":"never_connected","disconnection_time":0,"status_code":0}]}'
    )


def test_large_integers_and_texts_beyond_ascii_are_whole(store: LoneStore, db: WdbClient) -> None:
    add_agent(db, 7, 'Jürgen 😀 / "q" \\ \n')
    put(db, 7, sync_status="syncreq", last_keepalive=253_402_300_799)
    body = get(store)
    assert '"name":"Jürgen 😀 / \\"q\\" \\\\ \\n"'.encode() in body
    assert b'"last_keepalive":253402300799,' in body


@pytest.mark.slow
def test_the_answer_is_never_split(store: LoneStore, db: WdbClient) -> None:
    db.command(
        "global sql with recursive n(i) as (select 1 union all select i + 1 from n where i < 5000) "
        "insert into agent (id, name, date_add, sync_status) select i, 'agent' || i, 5, 'syncreq' from n"
    )
    body = get(store)
    assert len(body) > 500_000
    assert sorted(row["id"] for row in json.loads(body)["syncreq"]) == list(range(1, 5001))
    assert post(store, body) == (200, b"")
    assert get(store) == b"{}"
    db.command("global sql delete from agent where id > 0")


def test_a_head_request_takes_nothing(store: LoneStore, db: WdbClient) -> None:
    add_agent(db, 7)
    put(db, 7, sync_status="syncreq_keepalive")
    assert wdb_http(store.root, "HEAD", "/v1/agents/sync")[0] == 404
    assert get(store) == b'{"syncreq_keepalive":[{"id":7}]}'


# POST.


def test_a_whole_report_is_taken_over(store: LoneStore, db: WdbClient) -> None:
    add_agent(db, 7, register_ip="any", internal_key="secret")
    set_groups(db, "append", 7, ["default"], sync_status="syncreq")
    put(db, 7, sync_status="syncreq")
    kept = ("register_ip", "internal_key", "date_add", "group", "group_hash", "group_sync_status")
    before = some(db, 7, *kept)
    row = {**full_row(7), "last_keepalive": 253_402_300_799}
    report = {"syncreq": [{**row, "labels": [{"key": "a", "value": "1"}, {"key": "b", "value": ""}]}]}
    assert post(store, report) == (200, b"")
    assert some(db, 7, *FULL) == tuple(row.values())
    assert some(db, 7, "sync_status") == ("synced",)
    assert labels(db, 7) == {"a": "1", "b": ""}
    assert some(db, 7, *kept) == before


def test_what_a_report_leaves_out_becomes_empty_or_zero(store: LoneStore, db: WdbClient) -> None:
    put_full(db, 7, "syncreq")
    db.command("global sql insert into labels values (7, 'old', 'one')")
    assert post(store, {"syncreq": [{"id": 7, **LEAST}]}) == (200, b"")
    wanted = {name: 0 if name in NUMBERS else LEAST.get(name, "") for name in FULL}
    assert some(db, 7, *FULL) == tuple({**wanted, "id": 7}.values())
    assert labels(db, 7) == {}, "all labels go, and none came"


def test_a_keepalive_is_of_now(store: LoneStore, db: WdbClient) -> None:
    put_full(db, 7, "syncreq")
    db.command("global sql insert into labels values (7, 'kept', 'one')")
    row = agent(db, 7)
    before = time.time()
    sent = {"id": 7, "version": "new", "last_keepalive": 5, "connection_status": "pending", "name": "ignored"}
    assert post(store, {"syncreq_keepalive": [sent]}) == (200, b"")
    after = agent(db, 7)
    assert within(before, after.pop("last_keepalive"), time.time())
    changed = {"version": "new", "connection_status": "active", "disconnection_time": 0, "status_code": 0}
    del row["last_keepalive"]
    assert after == {**row, **changed, "sync_status": "synced"}
    assert labels(db, 7) == {"kept": "one"}
    assert post(store, {"syncreq_keepalive": [{"id": 7}]}) == (200, b"")
    assert some(db, 7, "version") == ("",)


def test_a_status_leaves_the_last_keepalive(store: LoneStore, db: WdbClient) -> None:
    put_full(db, 7, "syncreq")
    row = agent(db, 7)
    sent = {"version": "new", "connection_status": "pending", "disconnection_time": 77, "status_code": 4}
    assert post(store, {"syncreq_status": [{"id": 7, **sent, "last_keepalive": 5}]}) == (200, b"")
    assert agent(db, 7) == {**row, **sent, "sync_status": "synced"}
    assert post(store, {"syncreq_status": [{"id": 7, "connection_status": "active"}]}) == (200, b"")
    assert some(db, 7, "version", "disconnection_time", "status_code", "last_keepalive") == (
        "",
        0,
        0,
        row["last_keepalive"],
    )


def test_lists_are_processed_in_their_order_not_the_body_s(store: LoneStore, db: WdbClient) -> None:
    add_agent(db, 7)
    before = time.time()
    body = {
        "syncreq_status": [{"id": 7, "version": "3", "connection_status": "disconnected", "status_code": 3}],
        "syncreq_keepalive": [{"id": 7, "version": "2"}],
        "syncreq": [{"id": 7, "version": "1", "name": "reported", "last_keepalive": 5, **LEAST}],
    }
    assert post(store, body) == (200, b"")
    version, status, code, name, keepalive = some(
        db, 7, "version", "connection_status", "status_code", "name", "last_keepalive"
    )
    assert (version, status, code, name) == ("3", "disconnected", 3, "reported")
    assert within(before, keepalive, time.time())


def test_elements_are_processed_in_order(store: LoneStore, db: WdbClient) -> None:
    add_agent(db, 7)
    elements = [{"id": 7, "name": name, **LEAST} for name in ("one", "two", "three")]
    assert post(store, {"syncreq": elements}) == (200, b"")
    assert agent(db, 7)["name"] == "three"


@pytest.mark.parametrize(
    "body", ["{}", ' { "other" : [null, {"id":"x"}] } ', '{"syncreq":[]}', '{"syncreq_status":[]}']
)
def test_a_report_of_nothing_is_fine(store: LoneStore, db: WdbClient, body: str) -> None:
    assert post(store, body) == (200, b"")


def test_an_unknown_agent_is_skipped_with_its_labels(store: LoneStore, db: WdbClient) -> None:
    add_agents(db, 1, 2)
    marks = [{"key": "a", "value": "1"}, {"key": "b", "value": "2"}]
    elements = [{"id": agent_id, "name": f"n{agent_id}", **LEAST, "labels": marks} for agent_id in (1, 99, 2)]
    assert post(store, {"syncreq": elements, "syncreq_keepalive": [{"id": 98}]}) == (200, b"")
    assert db.ids("get-all-agents last_id") == [1, 2]
    assert [agent(db, agent_id)["name"] for agent_id in (1, 2)] == ["n1", "n2"]
    assert [labels(db, agent_id) for agent_id in (1, 2)] == [{"a": "1", "b": "2"}] * 2
    assert db.raw("global sql select id from labels where id = 99") == b"ok []"


FAILURES: dict[str, Any] = {
    "no body": "",
    "no JSON": "{",
    "text behind the JSON": "{} x",
    "a list that is an object": {"syncreq": {}},
    "a list that is null": {"syncreq": None},
    "no id": {"syncreq": [{"name": "x", **LEAST}]},
    "no id in a keepalive": {"syncreq_keepalive": [{"version": "x"}]},
    "no id in a status": {"syncreq_status": [{"connection_status": "active"}]},
    "a text for an id": {"syncreq": [{"id": "1", **LEAST}]},
    "null for an id": {"syncreq_keepalive": [{"id": None}]},
    "null for a text": {"syncreq": [{"id": 1, "name": None, **LEAST}]},
    "null for a number": {"syncreq": [{"id": 1, "last_keepalive": None, **LEAST}]},
    "a number for a text": {"syncreq_keepalive": [{"id": 1, "version": 5}]},
    "a text for a number": {"syncreq_status": [{"id": 1, "connection_status": "active", "status_code": "5"}]},
    "labels that are no array": {"syncreq": [{"id": 1, **LEAST, "labels": "a:b"}]},
    "no connection status": {"syncreq": [{"id": 1, "group_config_status": "synced"}]},
    "no group_config_status": {"syncreq": [{"id": 1, "connection_status": "active"}]},
    "no connection status in a status": {"syncreq_status": [{"id": 1}]},
    "a word outside the check": {"syncreq": [{"id": 1, **LEAST, "connection_status": "bogus"}]},
}


@pytest.mark.parametrize("reason", FAILURES)
def test_a_failure_is_500_without_a_body(store: LoneStore, db: WdbClient, reason: str) -> None:
    add_agent(db, 1)
    before = agent(db, 1)
    assert post(store, FAILURES[reason]) == (500, b"")
    assert agent(db, 1) == before


def test_what_was_done_before_a_failure_stays(store: LoneStore, db: WdbClient) -> None:
    add_agents(db, 1, 2, 3)
    elements: list[dict[str, Any]] = [{"id": agent_id, "name": "new", **LEAST} for agent_id in (1, 2, 3)]
    elements[1]["connection_status"] = "bogus"
    assert post(store, {"syncreq": elements}) == (500, b"")
    assert agent(db, 1)["name"] == "new"
    assert agent(db, 2)["name"] == "agent2"


def test_labels_go_with_their_element(store: LoneStore, db: WdbClient) -> None:
    """Each element is applied by itself: elements before a failure are applied whole, and the last of several for one
    agent counts."""
    add_agents(db, 1, 2)
    marks = [[{"key": key, "value": key}] for key in ("a", "b")]
    twice: list[dict[str, Any]] = [{"id": 1, "name": "x", **LEAST, "labels": mark} for mark in marks]
    assert post(store, {"syncreq": twice}) == (200, b"")
    assert labels(db, 1) == {"b": "b"}
    broken = {"id": 2, "connection_status": "bogus", "group_config_status": "synced"}
    assert post(store, {"syncreq": [twice[0], broken]}) == (500, b"")
    assert labels(db, 1) == {"a": "a"}


def test_a_repeated_label_is_a_failure(store: LoneStore, db: WdbClient) -> None:
    """A constraint of SQL; only the foreign key of an unknown agent is tolerated."""
    add_agent(db, 1)
    mark = {"key": "a", "value": "1"}
    assert post(store, {"syncreq": [{"id": 1, **LEAST, "labels": [mark, mark]}]}) == (500, b"")
    assert labels(db, 1) == {"a": "1"}


def test_a_report_goes_from_a_worker_to_its_master(
    store: LoneStore, worker_store: LoneStore, db: WdbClient, worker_db: WdbClient
) -> None:
    for node in (db, worker_db):
        add_agents(node, 1, 2, 3)
    worker_db.command(
        "global update-agent-data "
        f"{compact({'id': 1, 'version': 'v1', **LEAST, 'sync_status': 'syncreq', 'labels': 'a:b'})}"
    )
    worker_db.command('global update-keepalive {"id":2,"connection_status":"active","sync_status":"syncreq_keepalive"}')
    worker_db.command(
        'global update-connection-status {"id":3,"connection_status":"disconnected","sync_status":"syncreq_status",'
        '"status_code":3}'
    )
    report = get(worker_store)
    assert list(json.loads(report)) == ["syncreq", "syncreq_keepalive", "syncreq_status"]
    assert post(store, report) == (200, b"")
    columns = ("connection_status", "disconnection_time", "status_code", "group_config_status")
    for agent_id in (1, 2, 3):
        assert some(db, agent_id, *columns) == some(worker_db, agent_id, *columns)
    assert some(db, 1, "version", "last_keepalive") == some(worker_db, 1, "version", "last_keepalive")
    assert labels(db, 1) == {"a": "b"}
    assert get(worker_store) == b"{}"
    assert get(store) == b"{}"
