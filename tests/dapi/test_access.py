"""What a request may read, applied to its arguments (docs/protocol/dapi.md 3.8)."""

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from clusterd.agent_keys import parse_id, parse_keys, registered_ids
from clusterd.dapi.functions.table import FUNCTIONS
from clusterd.dapi.protocol.access import SHORTEST_ID, Access, Scope, check
from clusterd.dapi.protocol.registry import Function
from clusterd.dapi.protocol.request import ApiRequest
from clusterd.wire.results import WireCallable, WireException

NODES = ["m", "w1", "w2"]
NODE_INFO = WireCallable("get_nodes_info", "wazuh.cluster", "get_nodes_info")
ONLY_W1 = {"rbac_mode": "white", "cluster:read": {"node:id:w1": "allow"}}
NOTHING = {"rbac_mode": "white"}


def checked(function: Function, request: ApiRequest) -> Access:
    return check(function, request, Scope("/nowhere", "m"))


@pytest.fixture
def function() -> Function:
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


def test_nothing_permitted_of_what_was_named_is_4000(function: Function) -> None:
    for names in (["m"], ["m", "w2"]):
        with pytest.raises(WireException) as refusal:
            checked(function, asked(ONLY_W1, names))
        assert refusal.value.code == 4000
    with pytest.raises(WireException):
        checked(function, asked(NOTHING, ["w1"]))


def test_permitted_part_is_answered_and_the_rest_is_named(function: Function) -> None:
    access = checked(function, asked(ONLY_W1, ["m", "w1"]))
    assert access.request.f_kwargs["filter_node"] == ["w1"]
    assert [(name, denied.code) for name, denied in access.denied] == [("m", 4000)]
    assert not access.is_filled


def test_request_that_names_nothing_is_about_what_is_permitted(function: Function) -> None:
    access = checked(function, asked(ONLY_W1, None))
    assert access.request.f_kwargs["filter_node"] == ["w1"]
    assert access.denied == []
    assert access.is_filled


def test_node_that_does_not_exist_is_left_to_the_function(function: Function) -> None:
    access = checked(function, asked(ONLY_W1, ["nobody"]))
    assert access.request.f_kwargs["filter_node"] == ["nobody"]


def test_broadcast_does_not_name_what_it_may_not_see(function: Function) -> None:
    access = checked(function, asked(ONLY_W1, ["m", "w1"], broadcasting=True))
    assert access.denied == []
