"""The HTTP socket, except the exchange of agents' state: wdb.md 7 to 7.6."""

import json
from typing import Any

import pytest

from tests.contracts.helpers import add_agent, add_agents, add_groups, put, set_groups
from tests.store.lone_store import LoneStore
from tools.rig.wdb_client import WdbClient, wdb_http

pytestmark = pytest.mark.usefixtures("db")


def get(store: LoneStore, path: str) -> bytes:
    status, headers, body = wdb_http(store.root, "GET", f"/v1/agents/{path}")
    assert status == 200
    assert headers["content-type"] == "application/json"
    return body


def post(store: LoneStore, path: str, body: str | bytes = b"") -> bytes:
    status, headers, answer = wdb_http(store.root, "POST", f"/v1/agents/{path}", body)
    assert status == 200
    assert headers["content-type"] == "application/json"
    return answer


def failed(store: LoneStore, method: str, path: str, body: str | bytes | None = None) -> bool:
    status, _, answer = wdb_http(store.root, method, f"/v1/agents/{path}", body)
    return (status, answer) == (500, b"")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/v1"),
        ("GET", "/v1/agents"),
        ("GET", "/v1/nothing"),
        ("GET", "/v2/agents/ids"),
        ("GET", "/agents/ids"),
        ("GET", "/v1/agents/summary"),
        ("GET", "/v1/agents/restartinfo"),
        ("POST", "/v1/agents/ids"),
        ("POST", "/v1/agents/ids/groups"),
        ("POST", "/v1/agents/ids/groups/default"),
        ("POST", "/v1/agents/1/groups"),
        ("PUT", "/v1/agents/sync"),
        ("DELETE", "/v1/agents/sync"),
        ("GET", "/v1/agents/1/nothing"),
        ("GET", "/v1/agents/ids/groups/default/more"),
        ("GET", "/v1/agents/ids/"),
        ("GET", "/v1/agents/ids/groups/"),
        ("GET", "/v1/agents/sync/"),
        ("HEAD", "/v1/agents/ids"),
        ("HEAD", "/v1/agents/sync"),
    ],
)
def test_an_unknown_method_or_path_is_404(store: LoneStore, method: str, path: str) -> None:
    assert wdb_http(store.root, method, path, "{}" if method == "POST" else None)[0] == 404


def test_ids_of_agents(store: LoneStore, db: WdbClient) -> None:
    assert get(store, "ids") == b"[]"
    add_agents(db, 10, 2, 1)
    assert sorted(json.loads(get(store, "ids"))) == [1, 2, 10]
    assert b" " not in get(store, "ids")


def test_groups_by_agent_are_keyed_by_text(store: LoneStore, db: WdbClient) -> None:
    assert get(store, "ids/groups") == b"{}", "the client expects that"
    add_groups(db, "web", "linux")
    add_agents(db, 1, 2, 3, 10)
    assert get(store, "ids/groups") == b"{}"
    set_groups(db, "append", 10, ["web"])
    set_groups(db, "append", 1, ["default"])
    assert get(store, "ids/groups") == b'{"data":{"1":["default"],"10":["web"]}}'
    set_groups(db, "append", 2, ["default", "linux"])
    answer = json.loads(get(store, "ids/groups"))
    assert list(answer) == ["data"]
    assert list(answer["data"]) == ["1", "10", "2"], "sorted as text"
    assert {agent_id: sorted(names) for agent_id, names in answer["data"].items()} == {
        "1": ["default"],
        "10": ["web"],
        "2": ["default", "linux"],
    }


def test_members_of_a_group(store: LoneStore, db: WdbClient) -> None:
    add_groups(db, "web")
    add_agents(db, 1, 5, 7, 8)
    for agent_id in (0, 7, 1, 5):
        set_groups(db, "append", agent_id, ["default", "web"])
    assert sorted(json.loads(get(store, "ids/groups/web"))) == [1, 5, 7]
    assert get(store, "ids/groups/nope") == b"[]"
    set_groups(db, "override", 0, [])


def test_groups_of_an_agent_are_in_priority_order(store: LoneStore, db: WdbClient) -> None:
    add_groups(db, "web")
    add_agents(db, 7, 8)
    set_groups(db, "append", 7, ["default", "web"])
    assert get(store, "7/groups") == b'["default","web"]'
    assert get(store, "007/groups") == b'["default","web"]'
    set_groups(db, "append", 7, ["default"])
    assert get(store, "0007/groups") == b'["web","default"]'
    assert get(store, "8/groups") == b"[]"
    assert get(store, "99/groups") == b"[]"


@pytest.mark.parametrize("agent_id", ["abc", "x7", "-", "a%20b", "1_0"])
def test_an_id_that_is_no_number_is_a_failure(store: LoneStore, agent_id: str) -> None:
    assert failed(store, "GET", f"{agent_id}/groups")


# POST /v1/agents/summary (7.5).


def put_six(db: WdbClient) -> None:
    """Agents 1 to 21: platform pN and group gN with N agents each, N from 1 to 6."""
    add_groups(db, *(f"g{number}" for number in range(1, 7)))
    agent_id = 0
    for number in range(1, 7):
        for _ in range(number):
            agent_id += 1
            add_agent(db, agent_id)
            put(db, agent_id, os_platform=f"p{number}", connection_status="active" if agent_id % 3 else "disconnected")
            set_groups(db, "append", agent_id, [f"g{number}"])


def test_a_summary_of_no_agents_is_an_empty_object(store: LoneStore) -> None:
    assert post(store, "summary") == b"{}"
    assert post(store, "summary", "[]") == b"{}"
    assert post(store, "summary", "[1,2]") == b"{}"


def test_a_summary_of_all_has_five_entries_each(store: LoneStore, db: WdbClient) -> None:
    put_six(db)
    put(db, 0, os_platform="manager")
    answer = json.loads(post(store, "summary"))
    assert list(answer) == ["agents_by_status", "agents_by_groups", "agents_by_os"]
    assert answer == {
        "agents_by_status": {"active": 14, "disconnected": 7},
        "agents_by_groups": {f"g{number}": number for number in range(2, 7)},
        "agents_by_os": {f"p{number}": number for number in range(2, 7)},
    }


@pytest.mark.parametrize(
    "body",
    [json.dumps(list(range(1, 22))), ",".join(map(str, range(1, 22))), "ids: " + " and ".join(map(str, range(1, 22)))],
)
def test_a_summary_of_some_has_no_limit(store: LoneStore, db: WdbClient, body: str) -> None:
    put_six(db)
    answer = json.loads(post(store, "summary", body))
    assert answer["agents_by_groups"] == {f"g{number}": number for number in range(1, 7)}
    assert answer["agents_by_os"] == {f"p{number}": number for number in range(1, 7)}
    assert answer["agents_by_status"] == {"active": 14, "disconnected": 7}


def test_a_summary_counts_only_the_ids_named(store: LoneStore, db: WdbClient) -> None:
    put_six(db)
    wanted = b'{"agents_by_status":{"active":1},"agents_by_groups":{"g1":1},"agents_by_os":{"p1":1}}'
    for body in ("[1]", "1", "[1,99]", "[ 001 ]", "[1,1]"):
        assert post(store, "summary", body) == wanted
    assert post(store, "summary", "nothing") == b"{}"


def test_members_of_the_summary_without_entries_are_left_out(store: LoneStore, db: WdbClient) -> None:
    add_agents(db, 1, 2)
    assert post(store, "summary") == b'{"agents_by_status":{"never_connected":2}}'
    put(db, 1, os_platform="")
    assert post(store, "summary") == b'{"agents_by_status":{"never_connected":2}}'
    put(db, 1, os_platform="ubuntu")
    assert post(store, "summary") == b'{"agents_by_status":{"never_connected":2},"agents_by_os":{"ubuntu":1}}'
    set_groups(db, "append", 2, ["default"])
    assert post(store, "summary", "2") == b'{"agents_by_status":{"never_connected":1},"agents_by_groups":{"default":1}}'


# POST /v1/agents/restartinfo (7.6).


def put_active(db: WdbClient) -> None:
    """The manager, 1 and 2 are active, 3 is not."""
    add_agents(db, 1, 2, 3)
    put(db, 0, connection_status="active", version="v0")
    put(db, 1, connection_status="active", version="Wazuh v4.14.1")
    put(db, 2, connection_status="active", version=None)
    put(db, 3, connection_status="pending", version="v3")


def items(answer: bytes) -> dict[int, str]:
    parsed: dict[str, Any] = json.loads(answer)
    assert list(parsed) == ["items"]
    assert all(list(item) == ["id", "version"] for item in parsed["items"])
    return {item["id"]: item["version"] for item in parsed["items"]}


@pytest.mark.parametrize(
    "body", ["", "{}", '{"ids":[]}', '{"ids":[],"negate":true}', '{"negate":false}', '{"other":1}']
)
def test_restart_info_of_all_active_agents_has_the_manager(store: LoneStore, db: WdbClient, body: str) -> None:
    put_active(db)
    assert items(post(store, "restartinfo", body)) == {0: "v0", 1: "Wazuh v4.14.1", 2: ""}


def test_restart_info_of_some_and_of_all_but_some(store: LoneStore, db: WdbClient) -> None:
    put_active(db)
    assert post(store, "restartinfo", '{"ids":[1],"negate":false}') == (
        b'{"items":[{"id":1,"version":"Wazuh v4.14.1"}]}'
    )
    assert post(store, "restartinfo", '{"ids":[2]}') == b'{"items":[{"id":2,"version":""}]}'
    assert items(post(store, "restartinfo", '{"ids": [1, 2, 3, 99]}')) == {1: "Wazuh v4.14.1", 2: ""}
    assert items(post(store, "restartinfo", '{"ids":[1],"negate":true}')) == {0: "v0", 2: ""}
    assert items(post(store, "restartinfo", '{"negate":true,"ids":[0,1]}')) == {2: ""}
    assert post(store, "restartinfo", '{"ids":[3,99]}') == b'{"items":[]}'


@pytest.mark.parametrize("body", ["no", "{", '{"ids":5}', '{"ids":["1"]}', '{"ids":[1],"negate":1}', '{"ids":null}'])
def test_a_filter_that_is_not_understood_is_a_failure(store: LoneStore, body: str) -> None:
    assert failed(store, "POST", "restartinfo", body)
