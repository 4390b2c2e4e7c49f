"""Queries of the agent list in the node's agent database (dapi.md 6.5, 6.6)."""

import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from clusterd.dapi.query.agent_fields import COLUMNS, DATES, NUMBERS, OS, agent_object
from clusterd.dapi.query.arrays import check_page
from clusterd.dapi.query.sql_condition import FALSE, TRUE, Condition, age_of, among, contains, negated
from clusterd.dapi.query.table_query import (
    Table,
    TableQuery,
    condition_of,
    field_order,
    find_rows,
    named_fields,
    selected_fields,
)
from clusterd.wdb.blocking import BlockingDatabase
from clusterd.wire.results import WireException, shorten

_VERSION = re.compile(r"(?:wazuh )?v?(\d.*)", re.IGNORECASE)
_NUMBERS = re.compile(r"\d{1,9}", re.ASCII)
NOT_KNOWN = "N/A"
COUNT = "count"
NOT_MANAGER = Condition("id <> 0")


class AgentQuery(TableQuery, frozen=True, kw_only=True):
    """A query for agents. `ids`: only these agents, None for all."""

    ids: Sequence[int] | None = None
    select: Sequence[str] | None = None

    def limited(self) -> "AgentQuery":
        """Returns the query with `ids` turned into a condition."""
        if self.ids is None:
            return self
        return msgspec.structs.replace(self, ids=None, where=[*self.where, among("id", self.ids)])


def find_agents(database: BlockingDatabase, query: AgentQuery) -> tuple[list[dict[str, Any]], int]:
    """Returns the requested page, and the number of agents in all pages. Raises WireException 1400 to 1412, 1724, 1731,
    DatabaseError."""
    fields = selected_fields(TABLE, query.select, () if query.distinct else ("id",))
    rows, total = find_rows(database, TABLE, query.limited(), fields)
    found = [agent_object(row, fields) for row in rows]
    if query.sort and list(query.sort) == ["version"]:
        found.sort(key=lambda agent: _numbers(agent.get("version", "")), reverse=not query.ascending)
    return found, total


def count_distinct(
    database: BlockingDatabase, query: AgentQuery, fields: Sequence[str]
) -> tuple[list[dict[str, Any]], int]:
    """Returns a page of the combinations of the fields (of all fields, if none is named), each with the number of its
    agents (`count`), and the number of all agents counted. Sorted by the query's sort fields, then by the others in
    their order; fields look as in a list of agents. A missing value is `N/A`. Raises as find_agents."""
    chosen = named_fields(TABLE, fields)
    check_page(query.offset, query.limit)
    unknown = [field for field in query.sort or () if field not in (*chosen, COUNT)]
    if unknown:
        allowed = ", ".join([*chosen, COUNT])
        text = f"Allowed sort fields: {allowed}. Fields: {shorten(', '.join(unknown), 500)}"
        raise WireException(1403, text)
    where = condition_of(TABLE, query.limited(), chosen)
    columns = ", ".join(f"{COLUMNS[field]} as f{number}" for number, field in enumerate(chosen))
    grouped = ", ".join(COLUMNS[field] for field in chosen)
    order: list[str] = []
    for field in dict.fromkeys([*(query.sort or ()), *chosen]):
        way = "desc" if not query.ascending and field in (query.sort or ()) else "asc"
        order += [f"n {way}"] if field == COUNT else field_order(TABLE, field, way)
    total = database.rows(f"select count(*) as n from agent where {where.sql}", where.values)[0]["n"]
    offset = 0 if query.limit is None else query.offset
    body = (
        f"select {columns}, count(*) as n from agent where {where.sql} group by {grouped} order by {', '.join(order)}"
    )
    rows = database.pages(body, where.values, offset=offset, limit=query.limit)
    return [_counted(row, chosen) for row in rows], int(total)


def _counted(row: Mapping[str, Any], fields: Sequence[str]) -> dict[str, Any]:
    shown = agent_object(row, fields)
    for field in fields:
        if field.startswith(OS):
            shown.setdefault("os", {}).setdefault(field.removeprefix(OS), NOT_KNOWN)
        else:
            shown.setdefault(field, NOT_KNOWN)
    return shown | {COUNT: row["n"]}


def member_of(group: str) -> Condition:
    """Matches agents that are in this group."""
    return Condition("""instr(',' || "group" || ',', ?) > 0""", (f",{group},",))


def _group_clause(operator: str, value: str) -> Condition:
    match operator:
        case "=":
            return member_of(value)
        case "!=":
            return negated(member_of(value))
        case "~":
            return contains(COLUMNS["group"], value)
        case _:
            raise WireException(1409, f"group{operator}")


def _older_than(value: Any) -> Condition:
    """Matches agents whose last keepalive is older than this age, or, if never connected, whose registration is. Raises
    WireException 1411."""
    seconds = age_of(str(value))
    if seconds is None:
        raise WireException(1411, shorten(str(value), 100))
    if seconds == 0:
        return TRUE
    before = int(time.time()) - seconds
    return Condition(
        "(id <> 0 and (connection_status <> 'never_connected' and last_keepalive < ?"
        " or connection_status = 'never_connected' and date_add < ?))",
        (before, before),
    )


def _version(value: Any) -> Condition:
    """`4.14.1`, `v4.14.1`, `wazuh 4.14.1` and `wazuh v4.14.1` are the same."""
    found = _VERSION.fullmatch(str(value))
    text = f"Wazuh v{found[1]}" if found else str(value)
    return Condition("version = ? collate nocase", (text,))


def _group(value: Any) -> Condition:
    return member_of(value) if isinstance(value, str) else FALSE


def _numbers(version: str) -> list[int]:
    return [int(part) for part in _NUMBERS.findall(version)]


TABLE = Table(
    source="agent",
    columns=COLUMNS,
    key="id",
    numbers=NUMBERS,
    dates=DATES,
    dated=NOT_MANAGER,
    clauses={"group": _group_clause},
    filters={"group": _group, "older_than": _older_than, "version": _version},
    orders={"os.version": ("cast(os_major as integer)", "cast(os_minor as integer)", "os_version")},
)
