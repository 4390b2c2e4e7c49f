"""`q` over lists in memory (dapi.md 6.4): turns a text into a predicate."""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from clusterd.dapi.query.parser import OF_LISTS, Clause, parse_query

Predicate = Callable[[Any], bool]
_DATES = ("%Y-%m-%d", "%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S.%fZ")


def matcher(q: str) -> Predicate:
    """Builds the predicate. Raises WireException 1407 for an invalid clause, 1409 for an invalid operator."""
    return parse_query(q, OF_LISTS, _predicate, _all_of, _any_of)


def _all_of(parts: Sequence[Predicate]) -> Predicate:
    return lambda element: all(part(element) for part in parts)


def _any_of(parts: Sequence[Predicate]) -> Predicate:
    return lambda element: any(part(element) for part in parts)


def _predicate(clause: Clause) -> Predicate:
    path, date = clause.field.split("."), _date(clause.value)

    def satisfied(element: Any) -> bool:
        return any(_compare(value, clause.operator, clause.value, date) for value in _values(element, path))

    return satisfied


def _values(element: Any, path: list[str]) -> Iterator[Any]:
    """Yields every value at a dotted path, through objects and lists."""
    if isinstance(element, list):
        for inner in element:
            yield from _values(inner, path)
    elif not path:
        yield element
    elif isinstance(element, dict) and path[0] in element:
        yield from _values(element[path[0]], path[1:])


def _compare(value: Any, operator: str, operand: str, date: datetime | None) -> bool:
    if operator == "~":
        return operand in str(value)
    left, right = value, operand
    if isinstance(value, int) and not isinstance(value, bool):
        try:
            right = int(operand)  # type: ignore[assignment]
        except ValueError:
            return False
    elif date is not None:
        left = value if isinstance(value, datetime) else _date(str(value))
        if left is None:
            return False
        left, right = _utc(left), date  # type: ignore[assignment]
    else:
        left = str(value)
    match operator:
        case "=":
            return bool(left == right)
        case "!=":
            return bool(left != right)
        case "<":
            return bool(left < right)
        case _:
            return bool(left > right)


def _date(text: str) -> datetime | None:
    if text[4:5] != "-":
        return None  # in a thousandth of the time: sync looks at nodes on its loop
    for form in _DATES:
        try:
            return datetime.strptime(text, form).replace(tzinfo=UTC)
        except ValueError:
            continue
    return None


def _utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
