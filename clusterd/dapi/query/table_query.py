"""A page of a table of the agent database (dapi.md 6.5, 6.6): filters, `q`, search, sort, select, distinct as SQL.

Every value is quoted, and every field must be a column of a Table; no text of a request becomes SQL by itself.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from clusterd.dapi.protocol.registry import Arguments
from clusterd.dapi.query.arrays import check_page
from clusterd.dapi.query.parser import OF_TABLES, Clause, parse_query, unknown_field
from clusterd.dapi.query.sql_condition import (
    FALSE,
    TRUE,
    Condition,
    all_of,
    any_of,
    compares,
    contains,
    date_compares,
    negated,
    number_of,
)
from clusterd.wdb.blocking import BlockingDatabase
from clusterd.wire.results import WireException, shorten

IDS_AT_ONCE = 3800
"""Keys of a request: their answer must not be cut, even with ids of ten digits (wdb.md 2.3)."""
Row = dict[str, Any]


class Table(msgspec.Struct, frozen=True):
    """A table that can be queried. `columns`: field to SQL, in the order of the answers; the only names that a request
    can use.

    `key`: a unique integer column, which orders rows that are otherwise equal. `dates`: seconds since 1970, compared by
    age or moment; `dated`: a further condition on rows in such a clause. `clauses`, `filters`: fields with a special
    meaning in `q` (operator, value) and in `filters`. `orders`: fields that sort by several columns."""

    source: str
    columns: Mapping[str, str]
    key: str
    numbers: frozenset[str] = frozenset()
    dates: frozenset[str] = frozenset()
    dated: Condition = TRUE
    clauses: Mapping[str, Callable[[str, str], Condition]] = {}
    filters: Mapping[str, Callable[[Any], Condition]] = {}
    orders: Mapping[str, Sequence[str]] = {}


class TableQuery(msgspec.Struct, frozen=True, kw_only=True):
    """A query. `filters`: field to a value, or to several values of which one must match. `where`: further conditions.
    `search_fields`: the fields that are searched, None for all."""

    where: Sequence[Condition] = ()
    filters: Mapping[str, Any] = {}
    q: str | None = None
    search: str | None = None
    search_negated: bool = False
    search_fields: Sequence[str] | None = None
    sort: Sequence[str] | None = None
    ascending: bool = True
    distinct: bool = False
    offset: int = 0
    limit: int | None = 500


class TableArguments(Arguments, frozen=True):
    """The arguments with which stock requests a page of a table: `sort` {"fields", "order"}, `search` {"value",
    "negation"}, `filters` field to value or values."""

    offset: int = 0
    limit: int | None = 500
    sort: dict[str, Any] | None = None
    search: dict[str, Any] | None = None
    search_in_fields: list[str] | None = None
    select: list[str] | None = None
    filters: dict[str, Any] | None = None
    q: str | None = None
    distinct: bool = False

    @property
    def wanted(self) -> dict[str, Any]:
        """The arguments as the fields of a TableQuery."""
        sort, search = self.sort or {}, self.search or {}
        fields = sort.get("fields")
        return {
            "filters": self.filters or {},
            "q": self.q,
            "search": str(search["value"]) if search.get("value") else None,
            "search_negated": bool(search.get("negation")),
            "search_fields": self.search_in_fields,
            "sort": [str(field) for field in fields] if isinstance(fields, list) else None,
            "ascending": sort.get("order", "asc") != "desc",
            "distinct": self.distinct,
            "offset": self.offset,
            "limit": self.limit,
        }


def find_rows(
    database: BlockingDatabase, table: Table, query: TableQuery, fields: Sequence[str], *, agent: str = ""
) -> tuple[list[Row], int]:
    """Returns the rows of the requested page, columns named `f0`, `f1`... in the order of `fields`, and the number of
    rows in all pages. `agent`: read the private database of this agent. Raises WireException 1400 to 1412,
    DatabaseError."""
    check_page(query.offset, query.limit)
    where = condition_of(table, query, fields)
    order = _order(table, query, fields)
    columns = [f"{table.columns[field]} as f{number}" for number, field in enumerate(fields)]
    offset = 0 if query.limit is None else query.offset
    if query.distinct:
        body = f"select distinct {', '.join(columns)} from {table.source} where {where.sql}"
        total = database.rows(f"select count(*) as n from ({body})", where.values, agent=agent)[0]["n"]
        pages = database.pages(f"{body} order by {order}", where.values, offset=offset, limit=query.limit, agent=agent)
        return list(pages), int(total)
    count = f"select count(*) as n from {table.source} where {where.sql}"
    total = database.rows(count, where.values, agent=agent)[0]["n"]
    found: list[Row] = []
    select = f"select {', '.join([f'{table.key} as k', *columns])} from {table.source}"
    # The keys are sorted without the other columns, and once for many requests: sorting is the main cost of a page out
    # of 100,000 agents.
    for keys in _keys(database, table, where, order, offset, query.limit, agent):
        rows = {row["k"]: row for row in database.rows_of(select, table.key, keys, agent=agent)}
        found += [rows[key] for key in keys if key in rows]
    return found, int(total)


def selected_fields(table: Table, select: Sequence[str] | None, required: Sequence[str] = ()) -> list[str]:
    """Returns the fields of a `select`, in the order of the columns, with those that it cannot leave out. Raises
    WireException 1724."""
    wanted = {*named_fields(table, select), *required}
    return [field for field in table.columns if field in wanted]


def named_fields(table: Table, names: Sequence[str] | None) -> list[str]:
    """Returns the named fields in the order of the names, all fields if none is named. A name before a dot means all
    fields below it. Raises WireException 1724."""
    if not names:
        return list(table.columns)
    found: dict[str, None] = {}
    wrong = []
    for name in names:
        below = [field for field in table.columns if field == name or field.startswith(f"{name}.")]
        found |= dict.fromkeys(below)
        if not below:
            wrong.append(name)
    if wrong:
        raise WireException(1724, shorten(", ".join(wrong), 500), remediation=_allowed(table))
    return list(found)


def _keys(
    database: BlockingDatabase, table: Table, where: Condition, order: str, offset: int, limit: int | None, agent: str
) -> Iterator[list[int]]:
    left = limit
    by_key = order == f"{table.key} asc"
    last: int | None = None
    while left is None or left > 0:
        wanted = IDS_AT_ONCE if left is None else min(IDS_AT_ONCE, left)
        # In the order of the key the next rows are those behind the last key. In another order the rows of earlier
        # pages are sorted again and skipped.
        behind = f" and {table.key} > {last}" if by_key and last is not None else ""
        skipped = 0 if behind else offset
        text = f"select {table.key} as k from {table.source} where {where.sql}{behind} order by {order}"
        keys = [row["k"] for row in database.rows(f"{text} limit {wanted} offset {skipped}", where.values, agent=agent)]
        yield keys
        if len(keys) < wanted:
            return
        offset += wanted
        last = keys[-1]
        if left is not None:
            left -= wanted


def condition_of(table: Table, query: TableQuery, fields: Sequence[str]) -> Condition:
    """Returns the condition that rows must satisfy. Raises WireException 1407 to 1412."""
    found = list(query.where)
    found += [_filter(table, field, value) for field, value in query.filters.items() if value is not None]
    if query.q:
        found.append(parse_query(query.q, OF_TABLES, lambda clause: _clause(table, clause), all_of, any_of))
    if query.search:
        found.append(_search(table, query))
    if query.distinct:
        columns = [table.columns[field] for field in fields]
        found += [Condition(f"({column} is not null and {column} <> '')") for column in columns]
    return all_of(found)


def _filter(table: Table, field: str, value: Any) -> Condition:
    """Matches a field that equals a value, or one of a list; `all` filters nothing, `null` means is null."""
    values = value if isinstance(value, list) else [value]
    if any(one == "all" for one in values):
        return TRUE
    if field not in table.columns and field not in table.filters:
        raise unknown_field(field, _allowed(table))
    return any_of([_equals(table, field, one) for one in values])


def _equals(table: Table, field: str, value: Any) -> Condition:
    column = table.columns.get(field, "null")
    if value == "null":
        return Condition(f"{column} is null")
    if field in table.filters:
        return table.filters[field](value)
    if not isinstance(value, str | int):
        raise WireException(1408, f"{field} has no value of this kind")
    if field in table.numbers | table.dates:
        number = number_of(str(value))
        return FALSE if number is None else Condition(f"{column} = ?", (number,))
    return Condition(f"{column} = ? collate nocase", (str(value),))


def _clause(table: Table, clause: Clause) -> Condition:
    field, operator, value = clause.field, clause.operator, clause.value.strip()
    if field not in table.columns:
        raise unknown_field(field, _allowed(table))
    column = table.columns[field]
    if value == "all":
        return TRUE
    if value == "null":
        return Condition(f"{column} is not null" if operator == "!=" else f"{column} is null")
    if field in table.clauses:
        return table.clauses[field](operator, value)
    if field in table.dates:
        return all_of([date_compares(column, operator, value, time.time), table.dated])
    if operator == "~":
        return contains(column, value)
    if field in table.numbers:
        number = number_of(value)
        return FALSE if number is None else Condition(f"{column} {operator} ?", (number,))
    return compares(column, operator, value)


def _search(table: Table, query: TableQuery) -> Condition:
    """Matches rows with the text in any of the searched fields; the key matches when it equals the number."""
    text, names = query.search or "", query.search_fields
    columns = [column for field, column in table.columns.items() if names is None or field in names]
    parts = [contains(column, text) for column in columns if column != table.key]
    number = number_of(text)
    if number is not None and table.key in columns:
        parts.append(Condition(f"{table.key} = ?", (number,)))
    found = any_of(parts)
    return negated(found) if query.search_negated else found


def _order(table: Table, query: TableQuery, fields: Sequence[str]) -> str:
    sort = list(dict.fromkeys(query.sort or ()))
    wrong = [field for field in sort if field not in table.columns]
    if wrong:
        raise WireException(
            1403,
            f"Allowed sort fields: {', '.join(table.columns)}. Fields: {shorten(', '.join(wrong), 500)}",
        )
    way = "asc" if query.ascending else "desc"
    parts = []
    for field in sort:
        if query.distinct and field not in fields:
            continue
        parts += field_order(table, field, way, simply=query.distinct)
    if query.distinct:
        return ", ".join(parts) or ", ".join(str(place + 1) for place in range(len(fields)))
    if parts[:1] != [f"{table.key} {way}"]:
        parts.append(f"{table.key} asc")
    return ", ".join(parts)


def field_order(table: Table, field: str, way: str, *, simply: bool = False) -> list[str]:
    """Returns the terms of `order by` for a field. `simply`: by its own column only."""
    columns = (table.columns[field],) if simply else table.orders.get(field, (table.columns[field],))
    collation = "" if field in table.numbers | table.dates else " collate nocase"
    return [f"{column}{collation} {way}" for column in columns]


def _allowed(table: Table) -> str:
    return f"Allowed fields: {', '.join(table.columns)}"
