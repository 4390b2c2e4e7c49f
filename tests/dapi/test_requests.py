"""Requests as they arrive: which parts are read, what is refused, and what is never executed for them (dapi.md 2,
8)."""

import json
from typing import Any

import pytest

from clusterd.dapi.protocol.envelope import read_envelope
from clusterd.dapi.protocol.permissions import permitted
from clusterd.dapi.protocol.registry import Arguments, Call, Registry, arguments_of, not_available
from clusterd.dapi.protocol.request import BASIC_SERVICES, LARGEST_REQUEST, LOCAL_MASTER, parse_request
from clusterd.errors import ClusterError
from clusterd.wire.results import WireCallable, WireException

NAMED = {
    "__callable__": {
        "__name__": "get_agents",
        "__module__": "wazuh.agent",
        "__qualname__": "get_agents",
        "__type__": "function",
    }
}


def text(**fields: Any) -> bytes:
    return json.dumps({"f": NAMED} | fields).encode()


def test_only_the_function_is_needed_and_null_means_the_default() -> None:
    for given in (
        text(),
        text(f_kwargs=None, nodes=None, rbac_permissions=None, basic_services=None, api_timeout=None),
    ):
        found = parse_request(given)
        assert found.f == WireCallable("get_agents", "wazuh.agent", "get_agents")
        assert (found.request_type, found.f_kwargs, found.nodes) == (LOCAL_MASTER, {}, ())
        assert found.basic_services == BASIC_SERVICES
        assert found.rbac_permissions == {"rbac_mode": "black"}
    assert parse_request(text(basic_services=[])).basic_services == BASIC_SERVICES


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"[]",
        b"{",
        b"\xff",
        json.dumps({"f_kwargs": {}}).encode(),
        json.dumps({"f": "wazuh.agent.get_agents"}).encode(),
        json.dumps({"f": {"__callable__": {"__name__": "x"}}}).encode(),
        text(request_type="local"),
        text(unknown=1),
        text(nodes="worker1"),
        text(f_kwargs=[]),
        text(from_cluster="yes"),
        text(f_kwargs={"x": NAMED}),
        text(f_kwargs={"deep": json.loads("[" * 200 + "]" * 200)}),
        b'{"f": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
def test_what_is_no_request_is_1000(bad: bytes) -> None:
    with pytest.raises(ClusterError) as found:
        parse_request(bad)
    assert found.value.code == 1000


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        text(request_type="local"),
        text(f={"__callable__": NAMED["__callable__"] | {"__wazuh__": {"path": "x" * 70_000}}}),
        b'{"f": ' + b"[" * 100_000,
        b" " * (LARGEST_REQUEST + 1),
    ],
)
def test_envelope_refuses_what_cannot_be_routed(bad: bytes) -> None:
    with pytest.raises(ClusterError) as found:
        read_envelope(bad)
    assert found.value.code == 1000


def test_envelope_reads_the_way_and_not_the_arguments() -> None:
    found = read_envelope(
        text(f_kwargs={"x": {"__unhandled_exc__": 1}}, request_type="local_any", from_cluster=True, api_timeout=7)
    )
    assert (found.request_type, found.from_cluster, found.api_timeout_s) == ("local_any", True, 7)


class Wanted(Arguments, frozen=True):
    limit: int = 5
    agent_list: list[str] | None = None


registry = Registry()


@registry.function("wazuh.agent", "get_agents", needs=())
def get_agents(call: Call, given: Wanted) -> dict[str, int]:
    return {"limit": given.limit}


@pytest.mark.parametrize(
    ("name", "module", "qualname"),
    [
        ("system", "os", "system"),
        ("run", "subprocess", "run"),
        ("eval", "builtins", "eval"),
        ("get_agents", "wazuh", "get_agents"),
        ("get_agents", "wazuh.agent", "Agent.get_agents"),
        ("os", "wazuh.agent", "get_agents"),
        ("get_agents", "wazuh.agent", "get_agents.__globals__"),
        ("__globals__", "wazuh.agent", "get_agents.__globals__"),
        ("function", "clusterd.dapi.protocol.registry", "Registry.function"),
    ],
)
def test_names_that_are_not_registered_are_nothing(name: str, module: str, qualname: str) -> None:
    wanted = WireCallable(name, module, qualname)
    assert registry.find(wanted) is None
    answer = not_available(wanted, "worker1")
    assert (answer.code, answer.wire_class, answer.ids) == (3009, "WazuhError", ["worker1"])
    assert answer.dapi_errors == {"worker1": {"error": f"function not available: {module}.{qualname}"}}


def test_registered_name_is_found_and_its_arguments_are_validated() -> None:
    function = registry.find(WireCallable("get_agents", "wazuh.agent", "get_agents"))
    assert function is not None
    assert arguments_of(function, {"limit": 3}) == Wanted(limit=3)
    for bad in ({"limit": "3"}, {"limit": True}, {"lc": 1}, {"agent_list": [1]}):
        with pytest.raises(WireException) as found:
            arguments_of(function, bad)
        assert found.value.code == 1000


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ValueError, match="registered twice"):
        Registry().join(registry, registry)


@pytest.mark.parametrize(
    ("permissions", "expected"),
    [
        ({"rbac_mode": "black"}, {"001", "002", "003"}),
        ({"rbac_mode": "white"}, set()),
        ({}, set()),
        ({"rbac_mode": "white", "agent:read": {"agent:id:*": "allow", "agent:id:002": "deny"}}, {"001", "003"}),
        ({"rbac_mode": "white", "agent:read": {"agent:id:002": "deny", "agent:id:*": "allow"}}, {"001", "002", "003"}),
        ({"rbac_mode": "white", "agent:read": {"agent:group:web": "allow"}}, {"001", "002"}),
        ({"rbac_mode": "white", "agent:read": {"agent:group:web&agent:id:002": "allow"}}, {"002"}),
        ({"rbac_mode": "white", "agent:read": {"*:*:*": "allow"}}, {"001", "002", "003"}),
        ({"rbac_mode": "black", "agent:read": {"agent:group:web": "deny"}}, {"003"}),
        ({"rbac_mode": "white", "sca:read": {"agent:id:*": "allow"}}, set()),
        ({"rbac_mode": "white", "agent:read": {"node:id:*": "allow", "agent": "allow", "agent:id:9": "allow"}}, set()),
        ({"rbac_mode": "white", "agent:read": ["agent:id:*"]}, set()),
    ],
)
def test_permissions_are_applied_in_order(permissions: dict[str, Any], expected: set[str]) -> None:
    found = permitted(
        permissions, "agent:read", "agent", ["001", "002", "003"], lambda group: {"web": ["001", "002"]}[group]
    )
    assert found == expected
