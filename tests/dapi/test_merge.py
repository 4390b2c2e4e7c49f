"""Answers of several nodes merged into one: the worked examples of dapi.md 4.3 and 4.4, and other cases of the
rules."""

import tracemalloc
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterd.dapi.protocol import item_text
from clusterd.dapi.protocol.item_text import pieces_of, read_answer
from clusterd.dapi.protocol.items import Items
from clusterd.dapi.protocol.merge import Value, merge
from clusterd.messages.api import CombineAnswers
from clusterd.messages.base import Text
from clusterd.pool.api import combine_answers, read_text
from clusterd.wire.results import WireException, WireResult, dump_json, load_answer, load_json


def not_found(code: int, *ids: str) -> WireException:
    return WireException(code, wire_class="WazuhResourceNotFound" if code == 1701 else "WazuhError", ids=ids)


def items(affected: list[Any], *failed: tuple[int, list[str]], **settings: Any) -> Items:
    made = Items("All", "Some", "None", affected=affected, **({"sort_casting": ["int"]} | settings))
    for code, ids in failed:
        for item in ids:
            made.fail(item, not_found(code))
    return made


def merged(*values: Items | Value) -> Value:
    """The same as objects, and with the items as texts."""
    first, *others = given = [value.wire() if isinstance(value, Items) else value for value in values]
    for other in others:
        first = merge(first, other)
    joined, *rest = [read_answer(dump_json(value)) for value in given]
    for other in rest:
        joined = merge(joined, other)
    assert b"".join(pieces_of(joined)) == dump_json(first)
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


def request(**fields: Any) -> bytes:
    name = {"__name__": "f", "__module__": "wazuh.syscollector", "__qualname__": "f", "__type__": "function"}
    return dump_json({"f": {"__callable__": name}} | fields)


def combined(tmp_path: Path, *answers: bytes) -> tuple[bytes, int]:
    """Returns the answer, and how many bytes of memory it took more than before at the most."""
    texts = []
    for number, answer in enumerate(answers):
        (tmp_path / f"{number}").write_bytes(b"before" + answer)
        texts.append(Text(b"", str(tmp_path / f"{number}"), len(answer), 6))
    allowed = Items("All", affected=["master", "worker"])
    job = CombineAnswers(Text(request()), dump_json(allowed.wire()), texts, str(tmp_path / "out"))
    tracemalloc.start()
    try:
        done = combine_answers(job, lambda: None)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    return read_text(done.answer), most


def rows(first: int, count: int, size: int) -> list[Any]:
    return [{"id": f"{number:06}", "text": "x" * size} for number in range(first, 2 * count, 2)]


def test_lists_above_the_limit_of_other_answers_are_joined_in_little_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 MiB was the limit (1 MiB here); 100,000 packages of agents have more."""
    monkeypatch.setattr(item_text, "MAX_JSON_BYTES", 1 << 20)
    monkeypatch.setattr(item_text, "load_answer", partial(load_answer, limit=1 << 20))
    halves = [items(rows(first, 50, 100_000), sort_fields=["id"]) for first in (0, 1)]
    answer, most = combined(tmp_path, *(dump_json(half.wire()) for half in halves))
    found = as_items(load_json(answer))
    assert [row["id"] for row in found.affected] == [f"{number:06}" for number in range(100)]
    assert min(len(row["text"]) for row in found.affected) == 100_000
    assert most < len(answer) / 8


def test_answer_that_is_too_large_to_be_joined_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(item_text, "MAX_JSON_BYTES", 1000)
    answer, _ = combined(tmp_path, dump_json(plain({"a": "x" * 1000})), dump_json(plain({"b": 1})))
    assert "ask for less at a time, or each node alone" in str(load_json(answer))


def test_list_that_a_node_has_computed_nan_in_is_joined_with_others(tmp_path: Path) -> None:
    good = items([{"id": "1", "cpu": 0.5}, {"id": "3"}], sort_fields=["id"])
    odd = items([{"id": "2", "cpu": float("nan")}], sort_fields=["id"])
    for answers in ((good, odd), (odd, good)):
        answer, _ = combined(tmp_path, *(dump_json(one.wire()) for one in answers))
        assert [row["id"] for row in as_items(load_answer(answer)).affected] == ["1", "2", "3"]


@pytest.mark.parametrize(
    "item",
    [
        b'{"__callable__": {"__name__": "f", "__module__": "os", "__qualname__": "f"}}',
        b'{"__wazuh_exception__": 1}',
        b"[" * 65 + b"]" * 65,
        b'"\xff"',
    ],
)
def test_item_that_is_none_is_the_failure_of_all(tmp_path: Path, item: bytes) -> None:
    good = dump_json(items(["001"]).wire())
    answer, _ = combined(tmp_path, good, good.replace(b'"001"', item))
    found = load_json(answer)
    assert isinstance(found, WireException)
    assert found.code == 1000


_DATE = b'{"__wazuh_result__": {"__class__": "AffectedItemsWazuhResult", "__object__": %b}}'
_DATE %= b'{"affected_items": [], "__wazuh_datetime__": "2020-01-01T00:00:00"}'


@pytest.mark.parametrize(
    "answer",
    [b"", b"{}", b"[]", b"1", b'{"__wazuh_result__": {}}', b"[" * 100_000, b"\xff", b'"x"', b'{"a": 1', _DATE],
)
def test_what_is_no_answer_is_the_failure_of_all(tmp_path: Path, answer: bytes) -> None:
    found = load_json(combined(tmp_path, dump_json(items(["001"]).wire()), answer)[0])
    assert isinstance(found, WireException)
    assert found.code == 1000
