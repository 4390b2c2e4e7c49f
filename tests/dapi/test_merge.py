"""Answers of several nodes merged into one: the worked examples of dapi.md 4.3 and 4.4, and other cases of the
rules."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterd.dapi.protocol.items import Items
from clusterd.dapi.protocol.merge import Value, merge
from clusterd.wire.results import WireException, WireResult, dump_json, load_json


def not_found(code: int, *ids: str) -> WireException:
    return WireException(code, wire_class="WazuhResourceNotFound" if code == 1701 else "WazuhError", ids=ids)


def items(affected: list[Any], *failed: tuple[int, list[str]], **settings: Any) -> Items:
    made = Items("All", "Some", "None", affected=affected, **({"sort_casting": ["int"]} | settings))
    for code, ids in failed:
        for item in ids:
            made.fail(item, not_found(code))
    return made


def merged(*values: Items | Value) -> Value:
    first, *others = [value.wire() if isinstance(value, Items) else value for value in values]
    for other in others:
        first = merge(first, other)
    return load_json(dump_json(first))  # type: ignore[no-any-return]


def plain(result: dict[str, Any], priority: list[str] | None = None) -> WireResult:
    return WireResult("WazuhResult", {"str_priority": priority, "result": result})


def as_items(value: Value) -> Items:
    assert isinstance(value, WireResult), value
    return Items.of_wire(value)


def test_worked_example_of_two_nodes_and_one_that_is_away() -> None:
    left = items(["001", "003"], (1701, ["010"]))
    right = items(["002", "004"], (1701, ["011"]), (1703, ["000"]))
    away = WireException(3022, "worker9", wire_class="WazuhError", ids=["worker9"])
    for order in ((left, right, away), (away, left, right), (left, away, right)):
        found = as_items(merged(*order))
        assert found.affected == ["001", "002", "003", "004"]
        assert found.total_affected == 4
        assert found.total_failed == 4
        assert {error.code: sorted(ids) for error, ids in found.failed} == {
            1701: ["010", "011"],
            1703: ["000"],
            3022: ["worker9"],
        }
        assert found.rendered()["message"] == "Some"
        assert found.rendered()["error"] == 2


def test_lists_are_taken_as_sorted_and_never_sorted_again() -> None:
    assert as_items(merged(items(["001"]), items(["000", "099", "003"]))).affected == ["000", "001", "099", "003"]


def test_order_of_fields_directions_and_missing_values() -> None:
    settings = {"sort_fields": ["os.name", "count"], "sort_casting": ["str", "int"], "sort_ascending": [True, False]}
    left = items([{"count": 1}, {"os": {"name": "b"}, "count": 3}, {"os": {"name": "b"}, "count": 1}], **settings)
    right = items([{"os": {"name": "a"}, "count": 9}, {"os": {"name": "b"}, "count": 2}], **settings)
    assert [(item.get("os", {}).get("name"), item["count"]) for item in as_items(merged(left, right)).affected] == [
        (None, 1),
        ("a", 9),
        ("b", 3),
        ("b", 2),
        ("b", 1),
    ]


def test_items_that_cannot_be_cast_stay_in_the_order_of_their_nodes() -> None:
    assert as_items(merged(items([{"name": "b"}]), items([{"name": "a"}]))).affected == [{"name": "b"}, {"name": "a"}]


def test_internal_error_of_one_node_is_the_whole_answer() -> None:
    broken = WireException(1901, wire_class="WazuhInternalError", dapi_errors={"worker1": {"error": "x"}})
    for order in ((items(["1"]), broken, items(["2"])), (broken, items(["1"]))):
        found = merged(*order)
        assert isinstance(found, WireException)
        assert found.code == 1901
    both = merged(broken, WireException(1901, wire_class="WazuhInternalError", dapi_errors={"worker2": {"error": "y"}}))
    assert isinstance(both, WireException)
    assert both.dapi_errors == {"worker1": {"error": "x"}, "worker2": {"error": "y"}}


def test_plain_results_are_merged_key_by_key() -> None:
    left = plain({"n": 1, "ok": True, "list": [1, 2], "s": "a", "same": "x", "in": {"n": 2, "left": 1}, "nothing": 1})
    right = plain(
        {"n": 2, "ok": True, "list": [2, 3], "s": "b", "same": "x", "in": {"n": 3}, "nothing": None, "new": 1}
    )
    found = merged(left, right)
    assert isinstance(found, WireResult)
    assert found.fields["result"] == {
        "n": 3,
        "ok": 2,
        "list": [1, 2, 3],
        "s": "a|b",
        "same": "x",
        "in": {"n": 5, "left": 1},
        "nothing": 1,
        "new": 1,
    }
    found = merged(plain({"s": "late"}, ["early", "late"]), plain({"s": "early"}))
    assert isinstance(found, WireResult)
    assert found.fields["result"] == {"s": "early"}


def test_extra_keys_are_merged_and_older_than_is_lefts() -> None:
    left, right = items([]), items([])
    left.extra, right.extra = {"older_than": "7d", "n": 1}, {"older_than": "9d", "n": 2}
    assert as_items(merged(left, right)).extra == {"older_than": "7d", "n": 3}


LARGEST = int("9" * 4300)
"""Python neither reads nor writes more digits."""


def test_numbers_beyond_all_measure_spoil_nothing_but_themselves() -> None:
    """A node may answer any: the others' answers were lost with them, in a job that met a bug."""
    found = merged(plain({"a": LARGEST, "b": LARGEST, "c": 1}), plain({"a": LARGEST, "b": 1.5, "c": 2}))
    assert found == plain({"a": LARGEST, "b": LARGEST, "c": 3})
    for cast in ("int", "float"):
        for value in (LARGEST, float("inf")):
            settings: dict[str, Any] = {"sort_fields": ["x"], "sort_casting": [cast]}
            made = merge(items([{"x": 2}], **settings).wire(), items([{"x": value}, {"x": 1}], **settings).wire())
            assert sorted(item["x"] for item in as_items(made).affected) == [1, 2, value]
    left, right = items([1]), items([2])
    left.total = right.total = LARGEST
    assert as_items(merged(left, right)).total_affected == LARGEST
    failed = items([], (1701, ["1" * 5000, "2"]))
    assert failed.rendered()["data"]["failed_items"][0]["id"] == ["1" * 5000, "2"]


@pytest.mark.parametrize("odd", [plain({}), WireResult("AffectedItemsWazuhResult", {"affected_items": []})])
def test_answers_that_do_not_fit_are_1000(odd: WireResult) -> None:
    for found in (merged(items(["1"]), odd), merged(odd, items(["1"]))):
        assert isinstance(found, WireException)
        assert found.code == 1000


numbers = st.lists(st.integers(0, 50), max_size=30).map(lambda found: [f"{n:03}" for n in sorted(found)])


@pytest.mark.slow
@given(numbers, numbers)
def test_merged_sorted_lists_are_sorted_and_complete(one: list[str], other: list[str]) -> None:
    assert as_items(merged(items(one), items(other))).affected == sorted(one + other)
