"""Lists and summaries of agents (dapi.md 5.3, 6.5)."""

from typing import Any

from clusterd.dapi.access import agent_ids
from clusterd.dapi.agent_query import AgentQuery, among, find_agents
from clusterd.dapi.items import Items
from clusterd.dapi.registry import Arguments, Call, Registry
from clusterd.dapi.request import LOCAL_MASTER
from clusterd.wire.results import NOT_FOUND, WireException

registry = Registry()
MOST_DIGITS = 9
AGENTS = (
    "All selected agents information was returned",
    "Some agents information was not returned",
    "No agents were returned",
)
CONNECTION = ("active", "disconnected", "never_connected", "pending")


class AgentList(Arguments, frozen=True):
    """As stock's API asks: `sort` {"fields", "order"}, `search` {"value", "negation"}, `filters` field to value or values."""

    agent_list: list[str] | None = None
    offset: int = 0
    limit: int | None = 500
    sort: dict[str, Any] | None = None
    search: dict[str, Any] | None = None
    select: list[str] | None = None
    filters: dict[str, Any] | None = None
    q: str | None = None
    distinct: bool = False


class GroupAgents(AgentList, frozen=True, kw_only=True):
    group_list: list[str]


class Overview(Arguments, frozen=True):
    """What `cluster_control -a` asks (dapi.md 7.3)."""

    filters: dict[str, Any] | None = None
    limit: int | None = 500
    offset: int = 0
    select: list[str] | None = None
    sort: dict[str, Any] | None = None
    search: dict[str, Any] | None = None
    q: str | None = None


class SomeAgents(Arguments, frozen=True):
    agent_list: list[str] | None = None


@registry.function("wazuh.agent", "get_agents", LOCAL_MASTER)
def get_agents(call: Call, given: AgentList) -> Items:
    """Agents by any filter; ids without a key are failed items 1701."""
    ids, missing = _known(call, given.agent_list)
    found, total = find_agents(call.database, _query(given, ids, given.filters or {}))
    items = Items(*AGENTS, affected=found, total=total, sort_fields=["id"], sort_casting=["int"])
    for agent_id in missing:
        items.fail(agent_id, WireException(1701, wire_class=NOT_FOUND))
    return items


@registry.function("wazuh.agent", "get_agents_in_group", LOCAL_MASTER)
def get_agents_in_group(call: Call, given: GroupAgents) -> Items:
    """The agents of one group. Raises WireException 1710 for a group that does not exist."""
    if len(given.group_list) != 1 or not group_exists(call, given.group_list[0]):
        raise WireException(1710, wire_class=NOT_FOUND)
    ids, missing = _known(call, given.agent_list)
    filters = (given.filters or {}) | {"group": given.group_list[0]}
    found, total = find_agents(call.database, _query(given, ids, filters))
    items = Items(*AGENTS, affected=found, total=total, sort_fields=["id"], sort_casting=["int"])
    for agent_id in missing:
        items.fail(agent_id, WireException(1701, wire_class=NOT_FOUND))
    return items


@registry.function("wazuh.core.agent", "Agent.get_agents_overview", LOCAL_MASTER)
def get_agents_overview(call: Call, given: Overview) -> dict[str, Any]:
    """`{"items", "totalItems"}`. A filter that joins values with commas means any of them (dapi.md 7.3, ours)."""
    filters = {field: _split(value) for field, value in (given.filters or {}).items()}
    found, total = find_agents(call.database, _query(given, None, filters))
    return {"items": found, "totalItems": total}


@registry.function("wazuh.agent", "get_agents_summary_status", LOCAL_MASTER)
def get_agents_summary_status(call: Call, given: SomeAgents) -> dict[str, Any]:
    """How many agents are in which state, agent 000 not counted."""
    where = _where(call, given.agent_list)
    states = dict.fromkeys(CONNECTION, 0)
    for row in call.database.rows(
        f"select connection_status as word, count(*) as n from agent where {where} group by connection_status"
    ):
        if row.get("word") in states:
            states[row["word"]] = row["n"]
    synced = {"synced": 0, "not_synced": 0}
    for row in call.database.rows(
        f"select group_config_status as word, count(*) as n from agent where {where} group by group_config_status"
    ):
        synced["synced" if row.get("word") == "synced" else "not_synced"] += row["n"]
    return {
        "data": {
            "connection": states | {"total": sum(states.values())},
            "configuration": synced | {"total": sum(synced.values())},
        }
    }


@registry.function("wazuh.agent", "get_agents_summary_os", LOCAL_MASTER)
def get_agents_summary_os(call: Call, given: SomeAgents) -> Items:
    """The platforms there are."""
    where = _where(call, given.agent_list)
    rows = call.database.pages(
        f"select distinct os_platform as platform from agent where {where} and os_platform <> '' order by os_platform"
    )
    return Items(
        "Showing the operative system of all specified agents",
        "Some agents were not considered",
        "Could not get the operative system of any agent",
        affected=[row["platform"] for row in rows],
    )


def group_exists(call: Call, name: str) -> bool:
    """Whether the database knows this group."""
    return bool(call.database.rows("select id from `group` where name = ?", [name]))


def _split(value: Any) -> Any:
    return value.split(",") if isinstance(value, str) and "," in value else value


def _query(given: AgentList | Overview, ids: list[int] | None, filters: dict[str, Any]) -> AgentQuery:
    sort, search = given.sort or {}, given.search or {}
    fields = sort.get("fields")
    return AgentQuery(
        ids=ids,
        filters=filters,
        q=given.q,
        search=str(search["value"]) if search.get("value") else None,
        search_negated=bool(search.get("negation")),
        sort=[str(field) for field in fields] if isinstance(fields, list) else None,
        ascending=sort.get("order", "asc") != "desc",
        select=given.select,
        distinct=isinstance(given, AgentList) and given.distinct,
        offset=given.offset,
        limit=given.limit,
    )


def _known(call: Call, wanted: list[str] | None) -> tuple[list[int] | None, list[str]]:
    """Numbers of the agents that have a key, and the ids that have none; None for all agents."""
    if wanted is None:
        return None, []
    registered = agent_ids(call.root)
    known = [int(one) for one in wanted if one in registered]
    return known, [one for one in wanted if one not in registered]


def _where(call: Call, wanted: list[str] | None) -> str:
    ids, _ = _known(call, wanted)
    if ids is None:
        return "id > 0"
    return f"id > 0 and {among(ids)}"
