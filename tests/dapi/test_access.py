"""Which objects a request may read, applied to its arguments (docs/protocol/dapi.md 3.8)."""

import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from clusterd.agent_keys import parse_id, parse_keys, registered_ids
from clusterd.dapi.functions.table import FUNCTIONS
from clusterd.dapi.protocol.access import SHORTEST_ID, Access, Scope, check
from clusterd.dapi.protocol.registry import RegisteredFunction
from clusterd.dapi.protocol.request import ApiRequest
from clusterd.wire.results import PERMISSION_ERROR, WireCallable, WireException

NODES = ["m", "w1", "w2"]
NODE_INFO = WireCallable("get_nodes_info", "wazuh.cluster", "get_nodes_info")
ONLY_W1 = {"rbac_mode": "white", "cluster:read": {"node:id:w1": "allow"}}
NOTHING = {"rbac_mode": "white"}


def checked(function: RegisteredFunction, request: ApiRequest) -> Access:
    return check(function, request, Scope("/nowhere", "m"))


@pytest.fixture
def function() -> RegisteredFunction:
    found = FUNCTIONS.find(NODE_INFO)
    assert found is not None
    return found


def asked(permissions: dict[str, Any], filter_node: object, *, broadcasting: bool = False) -> ApiRequest:
    arguments = {} if filter_node is None else {"filter_node": filter_node}
    return ApiRequest(
        f=NODE_INFO, f_kwargs=arguments, rbac_permissions=permissions, nodes=NODES, broadcasting=broadcasting
    )


@given(st.text(alphabet="0123 !#\ta\r\n\ufeff\x85", max_size=60))
@example("001 a any k\n002 !b any k\n3 c any k\n000004 d 10.0.0.1 k\r\n#005 e any k\n006 f any\n")
def test_ids_alone_are_those_of_the_keys(text: str) -> None:
    keys, _ = parse_keys(text)
    expected = [key.id for key in keys if not key.is_removed and len(key.id) >= SHORTEST_ID]
    assert [one for one in registered_ids(text) if parse_id(one) is not None] == expected


def test_nothing_permitted_of_what_was_named_is_4000(function: RegisteredFunction) -> None:
    for names in (["m"], ["m", "w2"]):
        with pytest.raises(WireException) as refusal:
            checked(function, asked(ONLY_W1, names))
        assert (refusal.value.code, refusal.value.wire_class) == (4000, PERMISSION_ERROR)
    with pytest.raises(WireException):
        checked(function, asked(NOTHING, ["w1"]))


def test_permitted_part_is_answered_and_the_rest_is_named(function: RegisteredFunction) -> None:
    access = checked(function, asked(ONLY_W1, ["m", "w1"]))
    assert access.request.f_kwargs["filter_node"] == ["w1"]
    assert [(names, denied.code) for names, denied in access.denied] == [(["m"], 4000)]
    assert not access.names_none


def test_many_names_and_resources_take_no_time(function: RegisteredFunction) -> None:
    """Sync does this on its loop, for whatever a worker states."""
    names = [f"n{number}" for number in range(60_000)]
    resources = {"&".join(["node:id:*"] * (2 + number)): "allow" for number in range(60)}
    resources |= {f"node:id:{name}": "deny" for name in names[::2]}
    request = ApiRequest(
        f=NODE_INFO,
        f_kwargs={"filter_node": names},
        rbac_permissions={"rbac_mode": "white", "cluster:read": resources},
        nodes=tuple(names),
    )
    began = time.process_time()
    access = check(function, request, Scope("/nowhere", "m"))
    assert time.process_time() - began < 2
    assert access.request.f_kwargs["filter_node"] == names[1::2]
    assert [denied for denied, _ in access.denied] == [names[::2]]


def test_request_that_names_nothing_is_about_what_is_permitted(function: RegisteredFunction) -> None:
    access = checked(function, asked(ONLY_W1, None))
    assert access.request.f_kwargs["filter_node"] == ["w1"]
    assert access.denied == []
    assert access.names_none


def test_node_that_does_not_exist_is_left_to_the_function(function: RegisteredFunction) -> None:
    access = checked(function, asked(ONLY_W1, ["nobody"]))
    assert access.request.f_kwargs["filter_node"] == ["nobody"]


def test_broadcast_does_not_name_what_it_may_not_see(function: RegisteredFunction) -> None:
    access = checked(function, asked(ONLY_W1, ["m", "w1"], broadcasting=True))
    assert access.denied == []


@pytest.mark.parametrize("names", [5, {"m": 1}, ["m", 5]], ids=["number", "object", "list with a number"])
def test_argument_of_another_kind_is_left_to_the_function(function: RegisteredFunction, names: object) -> None:
    assert checked(function, asked(ONLY_W1, names)).request.f_kwargs["filter_node"] == names


def test_function_about_the_node_it_runs_on_needs_leave_for_that_one_only() -> None:
    about = WireCallable("get_status", "wazuh.manager", "get_status")
    function = FUNCTIONS.find(about)
    assert function is not None
    request = ApiRequest(f=about, f_kwargs={}, rbac_permissions=ONLY_W1, nodes=NODES)
    assert check(function, request, Scope("/nowhere", "w1")).request == request
    with pytest.raises(WireException, match="node:id"):
        check(function, request, Scope("/nowhere", "m"))


def permitted_for_all_but(tmp_path: Path, name: str, argument: str, kind: str, denied: str) -> object:
    """Returns the objects of a request that names none, for a user who may read all of this kind except `denied`."""
    about = WireCallable(name, "wazuh.agent", name)
    function = FUNCTIONS.find(about)
    assert function is not None
    rules = {f"{kind}:id:*": "allow", f"{kind}:id:{denied}": "deny"}
    request = ApiRequest(f=about, f_kwargs={}, rbac_permissions={"rbac_mode": "white", f"{kind}:read": rules})
    return check(function, request, Scope(str(tmp_path), "m")).request.f_kwargs[argument]


def test_agents_are_the_lines_of_the_keys_whatever_else_is_in_them(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/client.keys").write_bytes(
        "001 größe any k\n".encode() + b"002 caf\xe9 any k\n003 !gone any k\n004 d any k\nno line\n"
    )
    assert permitted_for_all_but(tmp_path, "get_agents_keys", "agent_list", "agent", "004") == ["000", "001", "002"]


def test_node_without_keys_and_groups_has_the_manager_and_nothing_to_narrow(tmp_path: Path) -> None:
    assert permitted_for_all_but(tmp_path, "get_agents_keys", "agent_list", "agent", "004") == ["000"]
    assert permitted_for_all_but(tmp_path, "get_agent_groups", "group_list", "group", "a") == []


def test_groups_are_directories_with_names_of_groups(tmp_path: Path) -> None:
    for name in ("default", "linux", "a b", "secret"):
        (tmp_path / "etc/shared" / name).mkdir(parents=True)
    names = permitted_for_all_but(tmp_path, "get_agent_groups", "group_list", "group", "secret")
    assert names == ["default", "linux"]
