"""Lists and summaries of agents (dapi.md 5.3, 6.5; wdb.md 7.5)."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec

from clusterd.agent_keys import importable
from clusterd.dapi.files.group_tree import group_exists, merged_directory, merged_sum
from clusterd.dapi.protocol.access import MANAGER, agent_ids, agent_keys, no_agent
from clusterd.dapi.protocol.actions import EVERY_AGENT, SOME_AGENTS, SOME_GROUPS
from clusterd.dapi.protocol.items import Items
from clusterd.dapi.protocol.registry import Arguments, Call, Registry
from clusterd.dapi.query.agent_query import AgentQuery, count_distinct, find_agents, member_of
from clusterd.dapi.query.sql_condition import Condition, all_of, among
from clusterd.dapi.query.table_query import TableArguments
from clusterd.wire.results import WireException

registry = Registry()
AGENTS = (
    "All selected agents information was returned",
    "Some agents information was not returned",
    "No agents were returned",
)
CONNECTION = ("active", "disconnected", "never_connected", "pending")
LONGEST_ID = 18
"""Digits of an agent's id."""
JOINED = frozenset({"status", "node_name"})
"""Filters of the overview whose values stock's `cluster_control` joins with commas."""


class AgentList(TableArguments, frozen=True):
    agent_list: list[str] | None = None


class GroupAgents(AgentList, frozen=True, kw_only=True):
    """`status`: as the filter of that name."""

    group_list: Annotated[list[str], msgspec.Meta(min_length=1, max_length=1)]
    status: str | list[str] | None = None


class DistinctAgents(AgentList, frozen=True):
    """`fields`: the fields whose combinations are counted, None for all."""

    fields: list[str] | None = None


class Overview(TableArguments, frozen=True):
    """`count`: whether agents are counted; `get_data`: whether they are listed."""

    count: bool = True
    get_data: bool = True


class SomeAgents(Arguments, frozen=True):
    agent_list: list[str] | None = None


@registry.function("wazuh.agent", "get_agents", needs=(SOME_AGENTS,))
def get_agents(call: Call, given: AgentList) -> Items:
    """Returns the agents that pass the filters. Ids without a key are failed items 1701."""
    return _listed(call, given, given.agent_list, given.filters or {})


@registry.function("wazuh.agent", "get_agents_in_group", needs=(SOME_GROUPS, SOME_AGENTS))
def get_agents_in_group(call: Call, given: GroupAgents) -> Items:
    """Returns the agents of one group. Raises WireException 1710 for a group that does not exist."""
    (group,) = given.group_list
    if not group_exists(call.root, group):
        raise WireException(1710)
    filters = (given.filters or {}) | ({"status": given.status} if given.status is not None else {})
    # Not as a filter: there `null` means agents without a group, and it may be a group's name.
    return _listed(call, given, given.agent_list, filters, [member_of(group)])


@registry.function("wazuh.agent", "get_outdated_agents", needs=(SOME_AGENTS,))
def get_outdated_agents(call: Call, given: AgentList) -> Items:
    """Returns the agents whose version is known and differs from this node's."""
    other = Condition("(id <> 0 and version <> ?)", (f"Wazuh v{call.settings.clusterd.version}",))
    return _listed(call, given, given.agent_list, given.filters or {}, [other])


@registry.function("wazuh.agent", "get_distinct_agents", needs=(SOME_AGENTS,))
def get_distinct_agents(call: Call, given: DistinctAgents) -> Items:
    """Returns every combination of some fields, as agent objects with `count`; a field that an agent lacks is `N/A`.
    The total counts agents. Raises WireException 1403, 1724."""
    ids, missing = known_agents(call, given.agent_list)
    found, total = count_distinct(call.database, AgentQuery(ids=ids, **given.wanted), given.fields or [])
    items = Items(*AGENTS, affected=found, total=total, sort_fields=["count"], sort_casting=["int"])
    return with_unknown(items, missing)


@registry.function("wazuh.core.agent", "Agent.get_agents_overview", needs=(EVERY_AGENT,))
def get_agents_overview(call: Call, given: Overview) -> dict[str, Any]:
    """Returns `{"items", "totalItems"}`. Filters for status and node that join values with commas match any of them
    (dapi.md 7.3)."""
    filters = {field: _split(value) if field in JOINED else value for field, value in (given.filters or {}).items()}
    query = AgentQuery(select=given.select, **given.wanted | {"filters": filters})
    found, total = find_agents(call.database, query)
    return ({"items": found} if given.get_data else {}) | ({"totalItems": total} if given.count else {})


@registry.function("wazuh.agent", "get_agents_sync_group", needs=(SOME_AGENTS,))
def get_agents_sync_group(call: Call, given: SomeAgents) -> Items:
    """Returns `{"id", "synced"}`: whether the agent has the files of its groups. It has if the digest that it reported
    last equals that of its groups' merged file on this node. Failed items 1701, 1703."""
    items = Items(
        "Sync info was returned for all selected agents",
        "Sync info was not returned for some selected agents",
        "No sync info was returned",
        sort_fields=["id"],
        sort_casting=["int"],
    )
    columns = 'merged_sum as sum, "group" as names, group_hash as hash'
    sums: dict[str, str | None] = {}
    for agent_id, row in _rows(call, given.agent_list, items, columns):
        directory = merged_directory(row.get("names") or "", row.get("hash") or "")
        if directory not in sums:
            sums[directory] = merged_sum(call.root, directory)
        reported = row.get("sum")
        items.affected.append({"id": agent_id, "synced": bool(reported) and reported == sums[directory]})
    return items


@registry.function("wazuh.agent", "get_agents_keys", needs=(SOME_AGENTS,))
def get_agents_keys(call: Call, given: SomeAgents) -> Items:
    """Returns `{"id", "key"}`. The key is what an agent imports: its line of client.keys as Base64. Failed items 1701,
    1703."""
    items = Items(
        "All selected agents' keys were returned",
        "Some selected agents' keys were not returned",
        "No agents' keys were returned",
        sort_fields=["id"],
        sort_casting=["int"],
    )
    keys = {key.id: key for key in agent_keys(call.root)}
    for agent_id in sorted(keys if given.agent_list is None else set(given.agent_list), key=_in_order):
        key = keys.get(agent_id)
        if key is not None:
            items.affected.append({"id": agent_id, "key": importable(key)})
        else:
            items.fail(agent_id, no_agent(agent_id))
    return items


@registry.function("wazuh.agent", "get_agents_summary_status", needs=(SOME_AGENTS,))
def get_agents_summary_status(call: Call, given: SomeAgents) -> dict[str, Any]:
    """Counts agents by state, without agent 000."""
    ids, _ = known_agents(call, given.agent_list)
    states = dict.fromkeys(CONNECTION, 0)
    states |= {word: n for word, n in _counts(call, "connection_status", ids) if word in states}
    words = dict(_counts(call, "group_config_status", ids))
    synced = words.pop("synced", 0)
    others = sum(words.values())
    return {
        "data": {
            "connection": states | {"total": sum(states.values())},
            "configuration": {"synced": synced, "not_synced": others, "total": synced + others},
        }
    }


@registry.function("wazuh.agent", "get_agents_summary_os", needs=(SOME_AGENTS,))
def get_agents_summary_os(call: Call, given: SomeAgents) -> Items:
    """Returns the platforms of the agents, sorted. Ids without a key are failed items 1701."""
    ids, missing = known_agents(call, given.agent_list)
    items = Items(
        "All selected agents were considered",
        "Some agents were not considered",
        "No platform is known of any agent",
        affected=sorted(word for word, _ in _counts(call, "os_platform", ids)),
        sort_casting=["str"],
    )
    return with_unknown(items, missing)


@registry.function("wazuh.agent", "get_agents_summary", needs=(SOME_AGENTS,))
def get_agents_summary(call: Call, given: SomeAgents) -> dict[str, Any]:
    """Counts agents by state, including states that no agent is in, by platform and by group."""
    ids, _ = known_agents(call, given.agent_list)
    where = _where(ids, "a.id")
    rows = call.database.pages(
        "select g.name as word, count(*) as n from agent a join belongs b on b.id_agent = a.id"
        f" join `group` g on g.id = b.id_group where {where.sql} group by g.id order by n desc, word",
        where.values,
    )
    return {
        "data": {
            "status": dict.fromkeys(CONNECTION, 0) | dict(_counts(call, "connection_status", ids)),
            "os": dict(_counts(call, "os_platform", ids)),
            "groups": {row["word"]: row["n"] for row in rows},
        }
    }


def known_agents(call: Call, wanted: Sequence[str] | None) -> tuple[list[int] | None, list[str]]:
    """Returns the numbers of the agents that have a key, and the ids that have none; None for all agents."""
    if wanted is None:
        return None, []
    registered = agent_ids(call.root)
    return [int(one) for one in wanted if one in registered], [one for one in wanted if one not in registered]


def with_unknown(items: Items, missing: Sequence[str]) -> Items:
    items.fail_all(missing, WireException(1701))
    return items


def _listed(
    call: Call,
    given: TableArguments,
    wanted: Sequence[str] | None,
    filters: Mapping[str, Any],
    where: Sequence[Condition] = (),
) -> Items:
    ids, missing = known_agents(call, wanted)
    query = AgentQuery(ids=ids, select=given.select, **given.wanted | {"filters": filters, "where": where})
    found, total = find_agents(call.database, query)
    items = Items(*AGENTS, affected=found, total=total, sort_fields=["id"], sort_casting=["int"])
    return with_unknown(items, missing)


def _rows(call: Call, wanted: Sequence[str] | None, items: Items, columns: str) -> list[tuple[str, dict[str, Any]]]:
    """Returns id and row of each agent, without the manager. Ids that the request names and that are not agents become
    failed items."""
    registered = agent_ids(call.root) - {MANAGER}
    named = registered if wanted is None else frozenset(wanted)
    numbers = sorted(int(one) for one in named & registered)
    found = {row["id"]: row for row in call.database.rows_of(f"select id, {columns} from agent", "id", numbers)}
    for one in sorted(named) if wanted is not None else ():
        if one not in registered or int(one) not in found:
            items.fail(one, no_agent(one))
    return [(f"{number:03d}", found[number]) for number in numbers if number in found]


def _in_order(agent_id: str) -> tuple[int, str]:
    """Sorts by number; ids that are not numbers are last."""
    return (int(agent_id), "") if agent_id.isdecimal() and len(agent_id) < LONGEST_ID else (10**LONGEST_ID, agent_id)


def _split(value: Any) -> Any:
    return value.split(",") if isinstance(value, str) and "," in value else value


def _counts(call: Call, column: str, ids: Sequence[int] | None) -> list[tuple[str, int]]:
    """Returns the non-empty values of the column with the number of agents that have them, the most frequent first."""
    where = _where(ids, "id")
    rows = call.database.pages(
        f"select {column} as word, count(*) as n from agent where {where.sql} and {column} <> ''"
        f" group by {column} order by n desc, word",
        where.values,
    )
    return [(row["word"], row["n"]) for row in rows]


def _where(ids: Sequence[int] | None, column: str) -> Condition:
    return all_of([Condition(f"{column} > 0"), *([] if ids is None else [among(column, ids)])])
