"""Lists in memory: sort, search, q, select, distinct, cut, in that order (dapi.md 6.2, 6.4)."""

import time
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterd.dapi.query.arrays import ListArguments, Shape, cut_list
from clusterd.wire.results import WireException

NODES = [
    {"name": "master-node", "type": "master", "version": "4.14.1", "ip": "10.0.0.11"},
    {"name": "worker1", "type": "worker", "version": "4.14.1", "ip": "10.0.0.12"},
    {"name": "worker2", "type": "worker", "version": "4.12.0", "ip": "10.0.0.13"},
]
FIELDS = ("name", "type", "version", "ip")
NESTED = [
    {"id": 3, "os": {"name": "b"}, "tags": ["x", "y"], "at": "2025-11-23T10:00:00Z"},
    {"id": 20, "os": {"name": "A"}, "tags": [], "at": "2025-11-24T10:00:00Z"},
    {"id": 1, "os": {}, "at": "2025-01-01T00:00:00Z"},
]


def names(shape: Shape | None = None, **arguments: Any) -> list[str]:
    found, _ = cut_list(NODES, ListArguments(**arguments), shape or Shape(FIELDS, FIELDS))
    return [node["name"] for node in found]


def ids(**arguments: Any) -> list[int]:
    found, _ = cut_list(NESTED, ListArguments(**arguments))
    return [item["id"] for item in found]


@pytest.mark.parametrize(
    ("q", "expected"),
    [
        ("type=worker;name~2", ["worker2"]),
        ("name=master-node,name=worker2", ["master-node", "worker2"]),
        ("version<4.14.1", ["worker2"]),
        ("type!=worker", ["master-node"]),
        ("(type=worker)", ["worker1", "worker2"]),
        ("(name=worker1", ["worker1"]),
        ("name=WORKER1", []),
        ("nothing=1", []),
        ("name~worker;version>4.13", ["worker1"]),
    ],
)
def test_queries_over_nodes(q: str, expected: list[str]) -> None:
    assert names(q=q) == expected


@pytest.mark.parametrize(
    ("q", "expected"),
    [
        ("id>2", [3, 20]),
        ("id<10", [3, 1]),
        ("id=x", []),
        ("os.name=b", [3]),
        ("tags=y", [3]),
        ("tags!=y", [3]),
        ("at>2025-11-23", [3, 20]),
        ("at<2025-11-23 10:00:01", [3, 1]),
        ("at=2025-11-23T10:00:00Z", [3]),
    ],
)
def test_queries_over_nested_values(q: str, expected: list[int]) -> None:
    assert ids(q=q) == expected


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"q": "name"}, 1407),
        ({"q": ";name=a"}, 1407),
        ({"q": "name=a,"}, 1407),
        ({"q": "=a"}, 1407),
        ({"q": "name=" + "a" * 9000}, 1407),
        ({"q": "name==a"}, 1409),
        ({"q": "name<=a"}, 1409),
        ({"sort_by": ["nothing"]}, 1403),
        ({"select": ["nothing"]}, 1724),
        ({"limit": 0}, 1406),
        ({"limit": 100_001}, 1405),
        ({"limit": -1}, 1401),
        ({"offset": -1}, 1400),
    ],
)
def test_what_cannot_be_asked_has_its_code(arguments: dict[str, Any], code: int) -> None:
    with pytest.raises(WireException) as found:
        names(**arguments)
    assert found.value.code == code
    assert cut_list([], ListArguments(**arguments), Shape(FIELDS, FIELDS)) == ([], 0)


def test_sort_is_by_lower_case_and_null_stays_apart() -> None:
    assert names(sort_by=["name"], sort_ascending=False) == ["worker2", "worker1", "master-node"]
    shape = Shape(sort_fields=("id", "os.name"))
    for ascending, expected in ((True, [1, 20, 3]), (False, [3, 20, 1])):
        found, _ = cut_list(NESTED, ListArguments(sort_by=["os.name"], sort_ascending=ascending), shape)
        assert [item["id"] for item in found] == expected
    assert cut_list(["b", "C", "a"], ListArguments(sort_by=[""]))[0] == ["a", "b", "C"]


def test_search_looks_into_every_value() -> None:
    assert names(search_text="WORKER") == ["worker1", "worker2"]
    assert names(search_text="10.0.0.12", complementary_search=True) == ["master-node", "worker2"]
    assert ids(search_text="y") == [3]
    assert ids(search_text="20") == [3, 20, 1]


def test_search_looks_into_the_fields_that_are_named() -> None:
    assert names(search_text="4.14", search_in_fields=["version"]) == ["master-node", "worker1"]
    assert names(search_text="4.14", search_in_fields=["name", "ip"]) == []
    assert names(search_text="4.14", complementary_search=True, search_in_fields=["version"]) == ["worker2"]
    assert ids(search_text="b", search_in_fields=["os.name"]) == [3]
    assert ids(search_text="b", complementary_search=True, search_in_fields=["os.name"]) == [20, 1]
    assert ids(search_text="none", search_in_fields=["os.name"]) == []
    assert ids(search_text="x", search_in_fields=["tags", "nothing"]) == [3]
    assert cut_list(["web", "db"], ListArguments(search_text="w", search_in_fields=["name"])) == (["web"], 1)


def test_select_keeps_what_is_required_and_distinct_does_not() -> None:
    shape = Shape(FIELDS, FIELDS, required=("name",))
    found, _ = cut_list(NODES, ListArguments(select=["type"]), shape)
    assert found[0] == {"name": "master-node", "type": "master"}
    found, total = cut_list(NODES, ListArguments(select=["type"], distinct=True), shape)
    assert (found, total) == ([{"type": "master"}, {"type": "worker"}], 2)
    found, _ = cut_list(NESTED, ListArguments(select=["os.name", "id"]))
    assert found == [{"os": {"name": "b"}, "id": 3}, {"os": {"name": "A"}, "id": 20}, {"id": 1}]


def test_page_is_cut_last_and_the_total_counts_all() -> None:
    found, total = cut_list(NODES, ListArguments(offset=1, limit=1, sort_by=["name"]), Shape(FIELDS, FIELDS))
    assert ([node["name"] for node in found], total) == (["worker1"], 3)
    assert len(cut_list(NODES, ListArguments(limit=None, offset=2))[0]) == 3


def test_dates_compare_as_moments() -> None:
    elements = [{"at": datetime(2025, 11, 23, 10, tzinfo=UTC)}, {"at": datetime(2025, 11, 23, 12)}]
    assert len(cut_list(elements, ListArguments(q="at>2025-11-23T11:00:00Z"))[0]) == 1


@given(st.text(alphabet="abnametype.=!<>~;,()[]'\" 12:-", max_size=40))
def test_any_query_is_answered_or_refused(q: str) -> None:
    code = 0
    try:
        found, total = cut_list(NODES, ListArguments(q=q))
        assert len(found) == total <= 3
    except WireException as refusal:
        code = refusal.code
    assert code in (0, 1407, 1409)


@given(st.lists(st.one_of(st.none(), st.integers(), st.text(max_size=3)), max_size=20), st.booleans())
def test_sort_loses_nothing_whatever_the_values(values: list[Any], ascending: bool) -> None:
    elements = [{"v": value, "n": number} for number, value in enumerate(values)]
    found, _ = cut_list(elements, ListArguments(sort_by=["v"], sort_ascending=ascending, limit=None))
    assert sorted(item["n"] for item in found) == list(range(len(values)))


def test_a_request_costs_little_whatever_it_repeats() -> None:
    """Sync answers for nodes on its loop."""
    nodes = [{"name": f"w{number}", "ip": f"10.0.0.{number}"} for number in range(50)]
    began = time.process_time()
    arguments = ListArguments(sort_by=["name"] * 400_000, q=",".join(["ip=2024-01-01"] * 580))
    assert cut_list(nodes, arguments) == ([], 0)
    assert time.process_time() - began < 1
