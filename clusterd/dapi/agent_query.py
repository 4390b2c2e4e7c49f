"""The agent list as SQL (dapi.md 6.5, 6.6): filters, `q`, search, sort and pages, over the node's agent database.

Every value is quoted, every field comes from COLUMNS; nothing of a request becomes SQL text by itself.
"""

import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from clusterd.dapi.agent_fields import COLUMNS, DATES, NUMBERS, agent_object, selected_fields
from clusterd.dapi.arrays import MOST
from clusterd.dapi.query_parser import Clause, parse_query
from clusterd.wdb.blocking import BlockingDatabase, Value
from clusterd.wire.results import BAD_REQUEST, WireException, shorten

_AGE = re.compile(r"(?:\d{1,9}[dhms])+")
_AGE_PART = re.compile(r"(\d+)([dhms])")
_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_MOMENT = re.compile(r"(\d{4}-\d\d-\d\d)(?:[ T](\d\d:\d\d:\d\d)(?:\.\d+)?Z?)?")
_VERSION = re.compile(r"(?:wazuh )?v?(\d.*)", re.IGNORECASE)
_QUOTES = re.compile("['\"]")
_OS_VERSION = ("cast(os_major as integer)", "cast(os_minor as integer)", "os_version")


LONGEST_CONDITION = 48_000


class Condition(NamedTuple):
    """SQL with places, and the values for them."""

    sql: str
    values: tuple[Value, ...] = ()


TRUE, FALSE = Condition("1"), Condition("0")


class AgentQuery(msgspec.Struct, frozen=True):
    """What is wanted. `ids`: only these agents, None for all. `filters`: field to a value or values (any of them)."""

    ids: Sequence[int] | None = None
    filters: Mapping[str, Any] = {}
    q: str | None = None
    search: str | None = None
    search_negated: bool = False
    sort: Sequence[str] | None = None
    ascending: bool = True
    select: Sequence[str] | None = None
    distinct: bool = False
    offset: int = 0
    limit: int | None = 500


def find_agents(database: BlockingDatabase, query: AgentQuery) -> tuple[list[dict[str, Any]], int]:
    """The page that was asked for, and how many agents there are in all pages. Raises WireException 1400 to 1412, 1724,
    DatabaseError."""
    if query.limit is not None:
        _check_page(query.offset, query.limit)
    fields = selected_fields(query.select, distinct=query.distinct)
    where = _all_of(_conditions(query, fields))
    columns = ", ".join(f"{COLUMNS[field]} as f{number}" for number, field in enumerate(fields))
    body = f"{'distinct ' if query.distinct else ''}{columns} from agent where {where.sql}"
    counted = database.rows(f"select count(*) as n from (select {body})", where.values)[0]["n"]
    rows = database.pages(
        f"select {body} order by {_order(query, fields)}",
        where.values,
        offset=query.offset if query.limit is not None else 0,
        limit=query.limit,
    )
    found = [agent_object(row, fields) for row in rows]
    if query.sort and list(query.sort) == ["version"]:
        found.sort(key=lambda agent: _numbers(agent.get("version", "")), reverse=not query.ascending)
    return found, int(counted)


def _check_page(offset: int, limit: int) -> None:
    if limit > MOST:
        raise WireException(1405, str(limit), wire_class=BAD_REQUEST)
    if limit <= 0:
        raise WireException(1406 if limit == 0 else 1401, wire_class=BAD_REQUEST)
    if offset < 0:
        raise WireException(1400, wire_class=BAD_REQUEST)


def _conditions(query: AgentQuery, fields: Sequence[str]) -> list[Condition]:
    found = []
    if query.ids is not None:
        found.append(Condition(among(query.ids)))
    found += [_filter(field, value) for field, value in query.filters.items() if value is not None]
    if query.q:
        found.append(parse_query(query.q, COLUMNS, _clause, _all_of, _any_of))
    if query.search:
        found.append(_search(query.search, negated=query.search_negated))
    if query.distinct:
        found += [Condition(f"{COLUMNS[field]} is not null and {COLUMNS[field]} <> ''") for field in fields]
    return found


def among(ids: Sequence[int]) -> str:
    """The condition that an agent is one of these, as ranges: databases take requests of 65,536 bytes at most (wdb.md 2.2).

    Raises WireException 1731 when even that is too long."""
    parts: list[str] = []
    numbers = sorted(set(ids))
    start = 0
    for place, number in enumerate(numbers):
        if place + 1 < len(numbers) and numbers[place + 1] == number + 1:
            continue
        parts.append(f"id = {number}" if numbers[start] == number else f"id between {numbers[start]} and {number}")
        start = place + 1
    text = " or ".join(parts) if parts else "0"
    if len(text) > LONGEST_CONDITION:
        raise WireException(1731, "so many single agents cannot be named at once", wire_class=BAD_REQUEST)
    return f"({text})"


def _all_of(conditions: Sequence[Condition]) -> Condition:
    return _joined(conditions, " and ") if conditions else TRUE


def _any_of(conditions: Sequence[Condition]) -> Condition:
    return _joined(conditions, " or ") if conditions else FALSE


def _joined(conditions: Sequence[Condition], word: str) -> Condition:
    return Condition(
        "(" + word.join(one.sql for one in conditions) + ")", tuple(value for one in conditions for value in one.values)
    )


# ---- filters ---------------------------------------------------------------------------------------------------------------


def _filter(field: str, value: Any) -> Condition:
    """A field that must equal a value, or one of a list; `all` filters nothing, `null` means is null."""
    if field == "older_than":
        return _older_than(value)
    if field not in COLUMNS:
        raise WireException(1408, shorten(field, 100), wire_class=BAD_REQUEST)
    values = value if isinstance(value, list) else [value]
    if any(one == "all" for one in values):
        return TRUE
    return _any_of([_equals(field, one) for one in values])


def _equals(field: str, value: Any) -> Condition:
    column = COLUMNS[field]
    if value == "null":
        return Condition(f"{column} is null")
    if not isinstance(value, str | int):
        raise WireException(1408, f"{field} has no value of this kind", wire_class=BAD_REQUEST)
    text = str(value)
    if field == "group":
        return _member(text)
    if field == "version" and (found := _VERSION.fullmatch(text)):
        text = f"Wazuh v{found[1]}"
    if field in NUMBERS:
        return Condition(f"{column} = ?", (int(text),)) if text.isdecimal() and len(text) <= 18 else FALSE
    return Condition(f"{column} collate nocase = ?", (text,))


def _member(group: str) -> Condition:
    return Condition("""instr(',' || "group" || ',', ?) > 0""", (f",{group},",))


def _older_than(value: Any) -> Condition:
    """Agents not heard of for so long or, if never connected, registered so long ago."""
    seconds = _age(str(value))
    if seconds is None:
        raise WireException(1411, shorten(str(value), 100), wire_class=BAD_REQUEST)
    if seconds == 0:
        return TRUE
    before = int(time.time()) - seconds
    return Condition(
        "id <> 0 and ((connection_status <> 'never_connected' and last_keepalive < ?)"
        " or (connection_status = 'never_connected' and date_add < ?))",
        (before, before),
    )


def _age(text: str) -> int | None:
    """`7d`, `1d12h`, `90` in seconds; None for anything else."""
    if text.isdecimal() and len(text) <= 12:
        return int(text)
    if not _AGE.fullmatch(text):
        return None
    return sum(int(number) * _UNITS[unit] for number, unit in _AGE_PART.findall(text))


# ---- q ---------------------------------------------------------------------------------------------------------------------


def _clause(clause: Clause) -> Condition:
    field, operator, value = clause
    column = COLUMNS[field]
    if value == "all":
        return TRUE
    if value == "null":
        return Condition(f"{column} is not null" if operator == "!=" else f"{column} is null")
    if field in DATES:
        return _date_clause(column, operator, value)
    if field == "group":
        return _group_clause(operator, value)
    if operator == "~":
        return Condition(f"{column} like ? escape '\\'", (f"%{_like(value)}%",))
    if field in NUMBERS:
        return Condition(f"{column} {operator} ?", (int(value),)) if value.isdecimal() and len(value) < 19 else FALSE
    if _QUOTES.search(value):
        # A quote stands for any one character, as it does in stock.
        negated = "not " if operator == "!=" else ""
        pattern = _QUOTES.sub("_", _like(value))
        return Condition(f"{column} {negated}like ? escape '\\'", (pattern,))
    return Condition(f"{column} collate nocase {operator} ?", (value,))


def _group_clause(operator: str, value: str) -> Condition:
    match operator:
        case "=":
            return _member(value)
        case "!=":
            member = _member(value)
            return Condition(f'("group" is null or not {member.sql})', member.values)
        case "~":
            return Condition("\"group\" like ? escape '\\'", (f"%{_like(value)}%",))
        case _:
            raise WireException(1409, f"group{operator}", wire_class=BAD_REQUEST)


def _date_clause(column: str, operator: str, value: str) -> Condition:
    """An age (`<7d`: younger than) or a moment."""
    age = _age(value)
    if age is not None:
        compared = "<" if operator == ">" else ">"
        return Condition(f"({column} {compared} ? and id <> 0)", (int(time.time()) - age,))
    found = _MOMENT.fullmatch(value)
    if found is None:
        raise WireException(1412, shorten(value, 100), wire_class=BAD_REQUEST)
    moment = f"cast(strftime('%s', '{found[1]} {found[2] or '00:00:00'}') as integer)"
    compared = "=" if operator == "~" else operator
    return Condition(f"({column} {compared} {moment} and id <> 0)")


def _like(value: str) -> str:
    return re.sub(r"([\\%_])", r"\\\1", value)


# ---- search, sort ----------------------------------------------------------------------------------------------------------


def _search(text: str, *, negated: bool) -> Condition:
    """Somewhere in any field; an id counts when it is the number."""
    pattern = f"%{_like(text)}%"
    parts = [
        Condition(f"ifnull({column}, '') like ? escape '\\'", (pattern,))
        for field, column in COLUMNS.items()
        if field != "id"
    ]
    if text.isdecimal() and len(text) <= 18:
        parts.append(Condition("id = ?", (int(text),)))
    found = _any_of(parts)
    return Condition(f"not {found.sql}", found.values) if negated else found


def _order(query: AgentQuery, fields: Sequence[str]) -> str:
    wrong = [field for field in query.sort or () if field not in COLUMNS]
    if wrong:
        raise WireException(
            1403, f"Allowed sort fields: {', '.join(COLUMNS)}. Fields: {', '.join(wrong)[:500]}", wire_class=BAD_REQUEST
        )
    way = "asc" if query.ascending else "desc"
    parts = []
    for field in query.sort or ():
        if query.distinct and field not in fields:
            continue
        columns = _OS_VERSION if field == "os.version" and not query.distinct else (COLUMNS[field],)
        parts += [f"{column} collate nocase {way}" for column in columns]
    if not query.distinct:
        parts.append("id asc")
    return ", ".join(parts) or "1"


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d{1,9}", version)]
