"""The table of endpoints: each endpoint asks the cluster for what the cluster's functions accept (dapi.md 5)."""

from typing import Any, get_args

import msgspec
import pytest

from clusterd.api.endpoint import Endpoint
from clusterd.api.table import ENDPOINTS
from clusterd.dapi.functions.groups import Algorithm
from clusterd.dapi.functions.table import FUNCTIONS
from clusterd.dapi.protocol import policy
from clusterd.dapi.protocol.registry import arguments_of
from clusterd.dapi.protocol.request import LOCAL_MASTER
from clusterd.wire.results import WireCallable
from tests.api.endpoint_cases import CASES, XML
from tests.api.harness import Door, FakeNode, plain

BY_FUNCTION = {(endpoint.function.module, endpoint.function.qualname): endpoint for endpoint in ENDPOINTS}


def policy_row(module: str, name: str) -> policy.Row:
    found = policy.find(WireCallable(name, module, name))
    assert found is not None
    return found


@pytest.fixture(scope="module")
def door() -> Door:
    return Door()


@pytest.mark.parametrize(("line", "module", "name", "request_type", "arguments"), CASES, ids=[c[0] for c in CASES])
def test_a_call_becomes_the_request_that_the_function_takes(
    door: Door, line: str, module: str, name: str, request_type: str, arguments: dict[str, Any]
) -> None:
    method, path = line.split(" ", 1)
    door.node.asked.clear()
    answer = door.ask(method, path, **(XML if method == "PUT" and "/files/" in path else {}))
    assert answer.status_code == 200, answer.text
    (request,) = door.node.asked
    assert (request.f.module, request.f.qualname, request.f.name) == (module, name, name)
    assert request.request_type == request_type
    assert request.f_kwargs == arguments
    assert request.current_user == "admin"
    assert request.api_timeout == 10
    function = FUNCTIONS.find(WireCallable(name, module, name))
    if function is not None:
        given = {key: value for key, value in request.f_kwargs.items() if key not in ("node_id", "node_list")}
        assert isinstance(arguments_of(function, given), function.arguments)
        assert request.request_type in policy_row(module, name).types
    assert request.is_async == policy_row(module, name).is_coroutine
    is_about_nodes = "node_id" in arguments or name in ("get_nodes_info", "get_health_nodes")
    assert request.nodes == (door.node.names if is_about_nodes else ())


def test_every_endpoint_has_a_case() -> None:
    def is_of(endpoint: Endpoint, line: str) -> bool:
        method, path = line.split("?")[0].split(" ")
        wanted, found = endpoint.path.split("/"), path.split("/")
        return (
            method == endpoint.method
            and len(wanted) == len(found)
            and all(one == other or one.startswith("{") for one, other in zip(wanted, found, strict=True))
        )

    special = {
        ("GET", "/cluster/ruleset/synchronization"),
        ("POST", "/groups"),
        ("POST", "/agents"),
        ("POST", "/agents/insert"),
    }
    lines = [case[0] for case in CASES]
    missing = {
        (endpoint.method, endpoint.path) for endpoint in ENDPOINTS if not any(is_of(endpoint, line) for line in lines)
    }
    assert missing == special


def test_making_a_group_takes_its_name_from_the_body(door: Door) -> None:
    door.node.asked.clear()
    answer = door.ask("POST", "/groups", json={"group_id": "web"})
    assert answer.status_code == 200
    assert door.node.asked[0].f.name == "create_group"
    assert door.node.asked[0].f_kwargs == {"group_id": "web"}


AGE = {"enabled": True, "value": "1h"}


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("/agents", {"name": "web-01"}, {"name": "web-01", "ip": "any"}),
        (
            "/agents",
            {"name": "web-01", "ip": "10.0.0.0/24", "force": {}},
            {
                "name": "web-01",
                "ip": "10.0.0.0/24",
                "force": {"enabled": True, "disconnected_time": AGE, "after_registration_time": "1h"},
            },
        ),
        (
            "/agents/insert",
            {
                "name": "w",
                "id": "001",
                "key": "k" * 64,
                "force": {"disconnected_time": {"value": "2d"}, "enabled": False},
            },
            {
                "name": "w",
                "ip": "any",
                "agent_id": "001",
                "key": "k" * 64,
                "force": {
                    "enabled": False,
                    "disconnected_time": {"enabled": True, "value": "2d"},
                    "after_registration_time": "1h",
                },
            },
        ),
    ],
)
def test_adding_an_agent_takes_all_from_the_body(door: Door, path: str, body: Any, expected: dict[str, Any]) -> None:
    door.node.asked.clear()
    answer = door.ask("POST", path, json=body)
    assert answer.status_code == 200, answer.text
    (request,) = door.node.asked
    assert (request.f.module, request.f.name, request.request_type) == ("wazuh.agent", "add_agent", LOCAL_MASTER)
    assert request.f_kwargs == expected
    function = FUNCTIONS.find(request.f)
    assert function is not None
    arguments_of(function, request.f_kwargs)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/agents", {}),
        ("/agents", {"name": "a b"}),
        ("/agents", {"name": "a\n"}),
        ("/agents", {"name": "a", "ip": None}),
        ("/agents", {"name": "a", "id": "001"}),
        ("/agents", {"name": "a", "force": {"disconnected_time": {"value": "soon"}}}),
        ("/agents", {"name": "a", "force": {"key_mismatch": True}}),
        ("/agents", ["a"]),
        ("/agents/insert", {"name": "a", "id": "001"}),
        ("/agents/insert", {"name": "a", "id": "1", "key": "k" * 64}),
        ("/agents/insert", {"name": "a", "id": "001", "key": "short"}),
        ("/agents/insert", {"name": "a", "agent_id": "001", "key": "k" * 64}),
    ],
)
def test_a_body_that_is_no_agent_is_refused_without_its_values(door: Door, path: str, body: Any) -> None:
    door.node.asked.clear()
    answer = door.ask("POST", path, json=body)
    assert (answer.status_code, answer.json()["error"]) == (400, 1018)
    assert door.node.asked == []
    assert "soon" not in answer.text
    assert "short" not in answer.text.replace("shorter", "")


def test_ruleset_equality_asks_the_master_first_and_then_all_nodes() -> None:
    hashes = {"etc/rules/local_rules.xml": "7cad"}
    door = Door(FakeNode(lambda request: plain(hashes)))
    assert door.get("/cluster/ruleset/synchronization").status_code == 200
    first, second = door.node.asked
    assert (first.f.module, first.f.name, first.f_kwargs) == (
        "wazuh.core.cluster.control",
        "get_node_ruleset_integrity",
        {},
    )
    assert second.f.name == "get_ruleset_sync_status"
    assert second.f_kwargs == {"master_md5": hashes, "node_list": "*"}
    assert second.broadcasting
    assert second.nodes == door.node.names


def test_ruleset_equality_of_some_nodes_is_no_broadcast() -> None:
    door = Door(FakeNode(lambda request: plain({})))
    assert door.get("/cluster/ruleset/synchronization?nodes_list=worker1").status_code == 200
    assert door.node.asked[1].f_kwargs["node_list"] == ["worker1"]
    assert not door.node.asked[1].broadcasting


def test_digests_offered_are_those_that_the_function_knows() -> None:
    parameters = {parameter.name: parameter for parameter in BY_FUNCTION["wazuh.agent", "get_agent_groups"].parameters}
    assert set(parameters["hash"].choices) == set(get_args(Algorithm))


def test_names_of_endpoints_are_unique() -> None:
    names = [endpoint.name for endpoint in ENDPOINTS]
    assert len(names) == len(set(names))


def test_a_call_does_not_change_the_table(door: Door) -> None:
    before = msgspec.json.encode([dict(endpoint.constants) for endpoint in ENDPOINTS])
    door.get("/agents?name=web")
    assert msgspec.json.encode([dict(endpoint.constants) for endpoint in ENDPOINTS]) == before
