"""get_nodes and get_health (wire.md 8, dapi.md 1.6, 1.7, 6.3)."""

from types import SimpleNamespace
from typing import Any

import pytest

from clusterd.settings import ClusterBlock, Settings
from clusterd.sync.requests.nodes import Nodes
from clusterd.sync.requests.queries import Row, get_nodes, health_names
from clusterd.wire.results import WireException

ROWS: list[Row] = [
    {"name": "m", "type": "master", "version": "4.14.1", "ip": "10.0.0.1"},
    {"name": "w2", "type": "worker", "version": "4.14.1", "ip": "10.0.0.3"},
    {"name": "W1", "type": "worker", "version": "4.14.1", "ip": "10.0.0.2"},
]


def names(arguments: dict[str, Any]) -> list[str]:
    return [item["name"] for item in get_nodes(ROWS, arguments)["items"]]


def test_without_arguments_the_master_comes_first_then_workers_as_they_registered() -> None:
    assert get_nodes(ROWS, {}) == {"items": ROWS, "totalItems": 3}
    assert list(get_nodes(ROWS, {})["items"][0]) == ["name", "type", "version", "ip"]


def test_filters_by_name_and_type() -> None:
    assert names({"filter_node": "w2"}) == ["w2"]
    assert names({"filter_node": ["W1", "m"]}) == ["m", "W1"]
    assert names({"filter_type": "worker"}) == ["w2", "W1"]
    assert get_nodes(ROWS, {"filter_node": "m", "filter_type": "worker", "limit": 0}) == {"items": [], "totalItems": 0}


def test_select_keeps_its_own_order_and_decides_what_sort_and_search_see() -> None:
    assert get_nodes(ROWS, {"select": ["ip", "name"]})["items"][0] == {"ip": "10.0.0.1", "name": "m"}
    assert list(get_nodes(ROWS, {"select": ["ip", "name"]})["items"][0]) == ["ip", "name"]
    assert get_nodes(ROWS, {"select": ["name"], "search": {"value": "10.0.0", "negation": False}})["totalItems"] == 0


def test_sort_ignores_case() -> None:
    assert names({"sort": {"fields": ["name"], "order": "asc"}}) == ["m", "W1", "w2"]
    assert names({"sort": {"fields": ["name"], "order": "desc"}}) == ["w2", "W1", "m"]


def test_search_and_its_negation() -> None:
    assert names({"search": {"value": "MASTER", "negation": False}}) == ["m"]
    assert names({"search": {"value": "master", "negation": True}}) == ["w2", "W1"]


def test_distinct_and_cut_count_before_the_cut() -> None:
    assert get_nodes(ROWS, {"select": ["type"], "distinct": True}) == {
        "items": [{"type": "master"}, {"type": "worker"}],
        "totalItems": 2,
    }
    assert get_nodes(ROWS, {"offset": 1, "limit": 1})["items"] == [ROWS[1]]
    assert get_nodes(ROWS, {"offset": 1, "limit": 1})["totalItems"] == 3
    assert get_nodes(ROWS, {"offset": 2, "limit": None})["items"] == ROWS


@pytest.mark.parametrize(
    ("arguments", "wire_class", "code"),
    [
        ({"filter_node": ["nope"]}, "WazuhResourceNotFound", 1730),
        ({"filter_type": "nope"}, "WazuhError", 1728),
        ({"select": ["nope"]}, "WazuhError", 1724),
        ({"sort": {"fields": ["nope"], "order": "asc"}}, "WazuhError", 1403),
        ({"limit": 0}, "WazuhError", 1406),
        ({"limit": -1}, "WazuhError", 1401),
        ({"limit": 100001}, "WazuhError", 1405),
        ({"offset": -1}, "WazuhError", 1400),
        ({"bad": 1}, "WazuhInternalError", 1000),
        ({"limit": "5"}, "WazuhInternalError", 1000),
        ({"search": "x"}, "WazuhInternalError", 1000),
        ({"sort": {"order": "asc"}}, "WazuhInternalError", 1000),
        ([], "WazuhInternalError", 1000),
    ],
)
def test_wrong_arguments_are_refused_with_stocks_class_and_code(arguments: object, wire_class: str, code: int) -> None:
    with pytest.raises(WireException) as refused:
        get_nodes(ROWS, arguments)
    assert (refused.value.wire_class, refused.value.code) == (wire_class, code)


def test_a_wrong_select_names_the_wrong_and_the_allowed_fields() -> None:
    with pytest.raises(WireException) as refused:
        get_nodes(ROWS, {"select": ["nope"]})
    assert refused.value.extra == "nope"
    assert refused.value.remediation == "name, type, version, ip"


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (None, (["a", "b"], True)),
        ({}, (["a", "b"], False)),
        (["a", "m", "unknown"], (["a"], True)),
        ({"b": 1}, (["b"], False)),
        ("a", (["a"], False)),
        ([], ([], False)),
    ],
)
def test_health_filters(wanted: object, expected: tuple[list[str], bool]) -> None:
    assert health_names(["a", "b"], wanted, "m") == expected


def test_a_health_filter_of_another_kind_is_refused() -> None:
    with pytest.raises(WireException):
        health_names([], 3, "m")


@pytest.mark.parametrize(
    ("node", "ip"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("10.0.0.1:1517", "10.0.0.1"),
        ("[fd00::1]:1516", "fd00::1"),
        ("fd00::1", "fd00::1"),
        ("master.lab:1516", "master.lab"),
    ],
)
def test_address_of_the_master_has_no_port(node: str, ip: str) -> None:
    """A promoted node's first address in its settings has one."""
    context: Any = SimpleNamespace(settings=Settings("/", cluster=ClusterBlock(nodes=(node,))))
    nobody: Any = None
    assert Nodes(context, nobody, nobody, nobody).master_row()["ip"] == ip
