"""Merges many answers into one (dapi.md 4.3, 4.4). `merge(left, right)` folds the answers of nodes from left to right;
an exception is a value like any other here."""

import re
from collections.abc import Callable
from typing import Any

from clusterd.dapi.protocol.item_text import ItemText
from clusterd.dapi.protocol.items import Items
from clusterd.wire.results import BAD_REQUEST, WireException, WireResult

Value = WireResult | WireException
PLAIN = "WazuhResult"
ERROR_FAMILY = frozenset(
    {BAD_REQUEST, "WazuhPermissionError", "WazuhResourceNotFound", "WazuhTooManyRequests", "WazuhNotAcceptable"}
)
_KEPT_KEYS = frozenset({"older_than"})
_DOT = re.compile(r"(?<!\\)\.")
_CASTS: dict[str, Callable[[Any], Any]] = {"int": int, "str": str, "float": float}


def merge(left: Value, right: Value) -> Value:
    """Merges the two answers. Changes neither argument. Answers that cannot be merged become an exception 1000. Raises
    ClusterError 1000 for an ItemText that is no item."""
    if isinstance(left, WireException) and isinstance(right, WireException):
        return _merge_exceptions(left, right)
    if isinstance(right, WireException):
        assert isinstance(left, WireResult)
        return _with_exception(left, right)
    if isinstance(left, WireException):
        return _with_exception(right, left)
    if left.wire_class != right.wire_class:
        return WireException(1000, "answers of different kinds cannot be merged")
    if left.wire_class == PLAIN:
        return _merge_plain(left, right)
    try:
        return _merge_items(Items.of_wire(left), Items.of_wire(right)).wire()
    except WireException as malformed:
        return malformed


def _merge_exceptions(left: WireException, right: WireException) -> WireException:
    ids = list(left.ids)
    if left.wire_class in ERROR_FAMILY and right.wire_class in ERROR_FAMILY:
        ids += _without(right.ids, ids)
    return WireException(
        left.code,
        left.extra_message,
        wire_class=left.wire_class,
        remediation=left.remediation,
        cmd_error=left.cmd_error,
        dapi_errors={**left.dapi_errors, **right.dapi_errors},
        ids=ids,
        title=left.title,
    )


def _with_exception(result: WireResult, error: WireException) -> Value:
    if result.wire_class == PLAIN or error.wire_class not in ERROR_FAMILY or not error.ids:
        return error
    try:
        items = Items.of_wire(result)
    except WireException as malformed:
        return malformed
    items.fail_all(error.ids, error)
    return items.wire()


def _merge_plain(left: WireResult, right: WireResult) -> Value:
    priority = left.fields.get("str_priority")
    ours, theirs = left.fields.get("result"), right.fields.get("result")
    if not isinstance(ours, dict) or not isinstance(theirs, dict):
        return WireException(1000, "a result without its object")
    order = [word for word in priority if isinstance(word, str)] if isinstance(priority, list) else []
    return WireResult(PLAIN, {"str_priority": priority, "result": _merge_objects(ours, theirs, order)})


def _merge_objects(left: dict[str, Any], right: dict[str, Any], priority: list[str]) -> dict[str, Any]:
    merged = dict(left)
    for key, value in right.items():
        merged[key] = _merge_values(merged[key], value, priority) if key in merged else value
    return merged


def _merge_values(left: Any, right: Any, priority: list[str]) -> Any:
    match left, right:
        case dict(), dict():
            return _merge_objects(left, right, priority)
        case list(), list():
            return left + _without(right, left)
        case int() | float(), int() | float():
            return _sum(left, right)
        case str(), str() if left != right:
            return next((word for word in priority if word in (left, right)), f"{left}|{right}")
        case _:
            return left


def _sum(left: float, right: float) -> float:
    """Returns `left` for a sum that is beyond all numbers: a node may answer any, and one of more than 4,300 digits
    cannot be written."""
    try:
        whole = left + right
        float(whole)
    except OverflowError:
        return left
    return whole


def _without(elements: list[Any], known: list[Any]) -> list[Any]:
    """Returns those that are not among `known`, in linear time."""
    seen = {repr(element) for element in known}
    return [element for element in elements if repr(element) not in seen]


def _merge_items(left: Items, right: Items) -> Items:
    all_msg, some_msg, none_msg = left.messages
    merged = Items(
        all_msg,
        some_msg,
        none_msg,
        affected=_merge_sorted(left, right),
        total=int(_sum(left.total_affected, right.total_affected)),
        sort_fields=left.sort_fields,
        sort_casting=left.sort_casting,
        sort_ascending=left.sort_ascending,
    )
    theirs = {key: value for key, value in right.extra.items() if key not in _KEPT_KEYS or key not in left.extra}
    merged.extra = _merge_objects(left.extra, theirs, [])
    for error, ids in (*left.failed, *right.failed):
        merged.fail_all(ids, error)
    return merged


def _merge_sorted(left: Items, right: Items) -> list[Any]:
    """Merges two lists that are assumed to be sorted. Of equal items left's is first, and null sorts first; nothing is
    sorted again or dropped. Items that the sort settings do not fit stay in the order of their nodes."""
    try:
        ours = [_key(item, left) for item in left.affected]
        theirs = [_key(item, left) for item in right.affected]
        merged, place = [], 0
        for key, item in zip(theirs, right.affected, strict=True):
            while place < len(ours) and not _comes_before(key, ours[place], left.sort_ascending):
                merged.append(left.affected[place])
                place += 1
            merged.append(item)
        return merged + left.affected[place:]
    except (TypeError, ValueError, OverflowError):
        return left.affected + right.affected


def _key(item: Any, settings: Items) -> list[Any]:
    """Keys are kept: of all answers those of the first one sort."""
    if isinstance(item, ItemText):
        if item.key is None:
            item.key = _key(item.value(), settings)
        return item.key
    names = settings.sort_fields
    values = [item] if names is None else [_field(item, name) for name in names]
    casts = [_CASTS.get(str(word), str) for word in settings.sort_casting]
    casts += [str] * (len(values) - len(casts))
    return [None if value is None else cast(value) for value, cast in zip(values, casts, strict=False)]


def _field(item: Any, path: str) -> Any:
    for name in _DOT.split(path):
        if not isinstance(item, dict):
            return None
        item = item.get(name.replace("\\.", "."))
    return item


def _comes_before(one: list[Any], other: list[Any], ascending: list[bool]) -> bool:
    for number, (left, right) in enumerate(zip(one, other, strict=True)):
        if left == right:
            continue
        up = ascending[number] if number < len(ascending) else True
        if left is None or right is None:
            return left is None
        return bool(left < right) if up else bool(left > right)
    return False
