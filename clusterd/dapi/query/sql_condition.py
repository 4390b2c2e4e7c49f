"""SQL conditions with their values (dapi.md 6.5, 6.6): joined, over sets of numbers, over ages and moments."""

import re
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from clusterd.wdb.blocking import Value
from clusterd.wire.results import WireException, shorten

LONGEST_LIST = 20_000
LONGEST_CONDITION = 48_400
"""Most characters of a condition: databases accept requests of 65,536 bytes at most (wdb.md 2.2)."""
FARTHEST = 1000
"""Numbers with a larger gap between them are not in one bitmap: the gap would take more room than a second bitmap."""
BITMAP_FRAME = 200
"""Characters of a bitmap's condition besides the bitmap itself."""
MOST_DIGITS = 18
_AGE = re.compile(r"(?:\d{1,9}[dhms])+", re.ASCII)
_AGE_PART = re.compile(r"(\d+)([dhms])", re.ASCII)
_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_MOMENT = re.compile(r"(\d{4}-\d\d-\d\d)(?:[ T](\d\d:\d\d:\d\d)(?:\.\d+)?Z?)?", re.ASCII)
_QUOTES = re.compile("['\"]")
_LIKE = "like ? escape '\\'"


class Condition(NamedTuple):
    """SQL with placeholders, and the values for them. Complete in itself: it may be joined with others without
    parentheses."""

    sql: str
    values: tuple[Value, ...] = ()


TRUE, FALSE = Condition("1"), Condition("0")


def all_of(conditions: Sequence[Condition]) -> Condition:
    return _joined(conditions, "and") if conditions else TRUE


def any_of(conditions: Sequence[Condition]) -> Condition:
    return _joined(conditions, "or") if conditions else FALSE


def _joined(conditions: Sequence[Condition], word: str) -> Condition:
    """Joins them as a balanced tree: SQLite refuses expressions deeper than 1,000 levels, and a chain is as deep as it
    is long."""
    if len(conditions) == 1:
        return conditions[0]
    middle = len(conditions) // 2
    left, right = _joined(conditions[:middle], word), _joined(conditions[middle:], word)
    return Condition(f"({left.sql} {word} {right.sql})", left.values + right.values)


# ---- numbers ---------------------------------------------------------------------------------------------------------


def number_of(text: str) -> int | None:
    return int(text) if text.isdecimal() and len(text) <= MOST_DIGITS else None


def among(column: str, numbers: Collection[int]) -> Condition:
    """Matches rows whose integer column is one of these: as a list with ranges, or as bitmaps where the list would be
    long.

    Raises WireException 1731 if even those are too long, which needs thousands of numbers that are far apart."""
    ordered = sorted(set(numbers))
    found = _listed(column, ordered)
    if len(found.sql) > LONGEST_LIST:
        found = _mapped(column, ordered)
    if len(found.sql) > LONGEST_CONDITION:
        raise WireException(1731, "so many of them cannot be named at once")
    return found


def _listed(column: str, ordered: Sequence[int]) -> Condition:
    singles: list[int] = []
    ranges: list[Condition] = []
    start = 0
    for place, number in enumerate(ordered):
        if place + 1 < len(ordered) and ordered[place + 1] == number + 1:
            continue
        if place - start < 2:
            singles += ordered[start : place + 1]
        else:
            ranges.append(Condition(f"{column} between {ordered[start]} and {number}"))
        start = place + 1
    if singles:
        ranges.append(Condition(f"{column} in ({','.join(map(str, singles))})"))
    return any_of(ranges)


def _mapped(column: str, ordered: Sequence[int]) -> Condition:
    """Lists what is far apart, and has a bitmap for each part in which the numbers are close together."""
    parts: list[list[int]] = []
    for number in ordered:
        if not parts or number - parts[-1][-1] > FARTHEST:
            parts.append([])
        parts[-1].append(number)
    maps: list[Condition] = []
    others: list[int] = []
    for part in parts:
        if len(_listed(column, part).sql) > BITMAP_FRAME + (part[-1] - part[0]) // 4:
            maps.append(_bitmap(column, part))
        else:
            others += part
    return any_of([*maps, *([_listed(column, others)] if others else [])])


def _bitmap(column: str, ordered: Sequence[int]) -> Condition:
    """Builds the bitmap: number `first` + n is bit n % 8 of byte n / 8."""
    first = ordered[0]
    bits = bytearray((ordered[-1] - first) // 8 + 1)
    for number in ordered:
        bits[(number - first) // 8] |= 1 << (number - first) % 8
    place = f"({column} - {first})"
    nibble = f"substr(hex(substr(x'{bits.hex()}', {place} / 8 + 1, 1)), 2 - {place} % 8 / 4, 1)"
    inside = f"{column} between {first} and {first + 8 * len(bits) - 1}"
    return Condition(f"({inside} and (instr('0123456789ABCDEF', {nibble}) - 1) >> ({place} % 4) & 1)")


# ---- texts -----------------------------------------------------------------------------------------------------------


def contains(column: str, text: str) -> Condition:
    """Matches text in the column, ignoring ASCII case; null contains nothing."""
    return Condition(f"{column} {_LIKE}", (f"%{_escaped(text)}%",))


def compares(column: str, operator: str, text: str) -> Condition:
    """Compares by `=`, `!=`, `<` or `>`, ignoring ASCII case. A quote in the text matches any one character, as in
    stock."""
    if not _QUOTES.search(text):
        return Condition(f"{column} {operator} ? collate nocase", (text,))
    negated = "not " if operator == "!=" else ""
    return Condition(f"{column} {negated}{_LIKE}", (_QUOTES.sub("_", _escaped(text)),))


def negated(condition: Condition) -> Condition:
    """Negates a condition. The result is also true where the condition is null."""
    return Condition(f"({condition.sql}) is not 1", condition.values)


def _escaped(text: str) -> str:
    return re.sub(r"([\\%_])", r"\\\1", text)


# ---- times -----------------------------------------------------------------------------------------------------------


def age_of(text: str) -> int | None:
    """Converts `7d`, `1d12h` or `90` to seconds; None for any other text."""
    if text.isdecimal():
        return number_of(text)
    if not _AGE.fullmatch(text):
        return None
    return sum(int(number) * _UNITS[unit] for number, unit in _AGE_PART.findall(text))


def date_compares(column: str, operator: str, text: str, now: Callable[[], float]) -> Condition:
    """Compares with an age (`<7d` and `=7d`: younger than; `>7d`: older than) or a moment. Raises WireException
    1412."""
    age = age_of(text)
    if age is not None:
        return Condition(f"{column} {'<' if operator == '>' else '>'} ?", (int(now()) - age,))
    found = _MOMENT.fullmatch(text)
    try:
        if found is None:
            raise ValueError(text)
        moment = datetime.fromisoformat(f"{found[1]} {found[2] or '00:00:00'}").replace(tzinfo=UTC)
    except ValueError:
        raise WireException(1412, shorten(text, 100)) from None
    return Condition(f"{column} {'=' if operator == '~' else operator} ?", (int(moment.timestamp()),))
