"""`q` over lists in memory (dapi.md 6.4): a text to a predicate. AND binds tighter than OR, nothing groups."""

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from clusterd.wire.results import BAD_REQUEST, WireException, shorten

Predicate = Callable[[Any], bool]
LONGEST = 8192
_VALUE = r"[\w \-.:?\\/'\"=@%<>{}\[\]]"
_CLAUSE = re.compile(rf"\(?(?P<field>\w+(?:\.\w+)*)(?P<op>!=|[=<>~])(?P<value>(?:{_VALUE}|\({_VALUE}*\))+)", re.ASCII)
_TWO = re.compile(r"\(?\w+(?:\.\w+)*(?:[=<>~][=<>~!]|!(?!=))", re.ASCII)
_DATES = ("%Y-%m-%d", "%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S.%fZ")


def matcher(q: str) -> Predicate:
    """Raises WireException 1407 for a clause that is none, 1409 for an operator that is none."""
    if len(q) > LONGEST:
        raise WireException(1407, f"a query of {len(q)} characters", wire_class=BAD_REQUEST)
    alternatives = [[_clause(text) for text in part.split(";")] for part in q.split(",")]
    return lambda element: any(all(clause(element) for clause in clauses) for clauses in alternatives)


def _clause(text: str) -> Predicate:
    if _TWO.match(text):
        raise WireException(1409, shorten(text, 100), wire_class=BAD_REQUEST)
    found = _CLAUSE.match(text)
    if found is None:
        raise WireException(1407, shorten(text, 100), wire_class=BAD_REQUEST)
    path, operator, operand = found["field"].split("."), found["op"], found["value"]
    date = _date(operand)

    def satisfied(element: Any) -> bool:
        return any(_compare(value, operator, operand, date) for value in _values(element, path))

    return satisfied


def _values(element: Any, path: list[str]) -> Iterator[Any]:
    """Every value at a dotted path, through objects and lists."""
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
    for form in _DATES:
        try:
            return datetime.strptime(text, form).replace(tzinfo=UTC)
        except ValueError:
            continue
    return None


def _utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
