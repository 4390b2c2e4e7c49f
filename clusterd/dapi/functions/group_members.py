"""Adds agents to groups and removes them (dapi.md 5.3). The workers learn of it from the next sync of agent-groups."""

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec

from clusterd.dapi.files.group_tree import DEFAULT, group_exists
from clusterd.dapi.files.membership import (
    MOST_GROUPS,
    Membership,
    change_groups,
    groups_by_agent,
    groups_of,
    memberships,
    note_group,
)
from clusterd.dapi.files.membership import members as members_of
from clusterd.dapi.protocol.access import MANAGER, agent_ids, no_agent
from clusterd.dapi.protocol.actions import (
    CHANGE_GROUP,
    CHANGE_GROUP_BY_ID,
    CHANGE_GROUP_IF_NAMED,
    MOVE_AGENTS,
    REPLACE_GROUPS,
)
from clusterd.dapi.protocol.items import Items
from clusterd.dapi.protocol.registry import Arguments, Call, Registry
from clusterd.wdb.client import DatabaseError
from clusterd.wire.results import BAD_REQUEST, WireException

registry = Registry()
OneName = Annotated[list[str], msgspec.Meta(min_length=1, max_length=1)]


class Assigned(Arguments, frozen=True):
    """`agent_list`: None for all. `replace`: the group becomes the only one of each agent; `replace_list`: the groups
    that agents may be removed from then, None for all."""

    group_list: OneName
    agent_list: list[str] | None = None
    replace: bool = False
    replace_list: list[str] | None = None


class TakenOut(Arguments, frozen=True):
    """`agent_list`: None for all members. The request may name the group in either field."""

    group_list: OneName | None = None
    group_id: str | None = None
    agent_list: list[str] | None = None


class OneTakenOut(Arguments, frozen=True):
    agent_list: OneName
    group_list: OneName


class Left(Arguments, frozen=True):
    """`group_list`: None for all groups of the agent."""

    agent_list: OneName
    group_list: list[str] | None = None


@registry.function("wazuh.agent", "assign_agents_to_group", needs=(MOVE_AGENTS, CHANGE_GROUP, REPLACE_GROUPS))
def assign_agents_to_group(call: Call, given: Assigned) -> Items:
    """Returns the ids of the agents that entered the group. Failed items: 1701, 1703, 1751 for members, 1752 for agents
    whose only group this is, when it should replace others, 4000 for those in a group that may not be replaced, 1737
    for one group too many, 2003. Raises WireException 1710."""
    (group,) = given.group_list
    if not group_exists(call.root, group):
        raise _unknown_group()
    items = Items(
        f"All selected agents were assigned to {group}{' and removed from the other groups' if given.replace else ''}",
        f"Some agents were not assigned to {group}",
        f"No agents were assigned to {group}",
        sort_casting=["int"],
    )
    note_group(call.database, group)
    known = _known(call, given.agent_list, group, items)
    held = _held(call, list(known), given)
    wanted = []
    for agent_id, found in known.items():
        code = _obstacle(found, replace=given.replace)
        if code is not None:
            items.fail(_shown(agent_id), WireException(code))
        elif agent_id in held:
            items.fail(_shown(agent_id), WireException(4000, "Resource type: group:id"))
        else:
            wanted.append(agent_id)
    _change(call, items, wanted, group, "override" if given.replace else "append", is_wanted=True)
    return items


@registry.function(
    "wazuh.agent", "remove_agents_from_group", needs=(MOVE_AGENTS, CHANGE_GROUP_IF_NAMED, CHANGE_GROUP_BY_ID)
)
def remove_agents_from_group(call: Call, given: TakenOut) -> Items:
    """Returns the ids of the agents that left the group. Agents without another group are in `default` then. Failed
    items, for agents that the request names: 1701, 1703, 1734 for non-members, 1745 for those in `default` alone; 2003.
    Raises WireException 1710."""
    names = given.group_list or ([given.group_id] if given.group_id is not None else [])
    if len(names) != 1 or not group_exists(call.root, names[0]):
        raise _unknown_group()
    (group,) = names
    items = Items(
        f"All selected agents were removed from {group}",
        f"Some agents were not removed from {group}",
        f"No agents were removed from {group}",
        sort_casting=["int"],
    )
    listed = given.agent_list
    if listed is None:
        registered = agent_ids(call.root)
        listed = [shown for shown in map(_shown, members_of(call.database, group)) if shown in registered]
    wanted = []
    for agent_id, found in _known(call, listed, group, items).items():
        code = _hold(found, group)
        if code is None:
            wanted.append(agent_id)
        elif given.agent_list is not None:
            items.fail(_shown(agent_id), WireException(code))
    _change(call, items, wanted, group, "remove", is_wanted=False)
    return items


@registry.function("wazuh.agent", "remove_agent_from_group", needs=(MOVE_AGENTS, CHANGE_GROUP))
def remove_agent_from_group(call: Call, given: OneTakenOut) -> dict[str, Any]:
    """Returns `{"message"}`. Raises WireException 1701, 1703, 1710, 1734, 1745, 2003."""
    (agent,), (group,) = given.agent_list, given.group_list
    found = remove_agents_from_group(call, TakenOut(group_list=[group], agent_list=[agent]))
    for error, _ in found.failed:
        raise error
    return {"message": f"Agent '{agent}' was removed from '{group}'"}


@registry.function("wazuh.agent", "remove_agent_from_groups", needs=(MOVE_AGENTS, CHANGE_GROUP))
def remove_agent_from_groups(call: Call, given: Left) -> Items:
    """Returns the groups that the agent left. Without another group it is in `default`. Failed items: 1710, 1734, 1745
    for `default` if that is its only one. Raises WireException 1701, 1703, DatabaseError."""
    (agent,) = given.agent_list
    items = Items(
        "The agent was removed from all selected groups",
        "The agent was not removed from some groups",
        "The agent was removed from no group",
        sort_casting=["str"],
    )
    current = groups_of(call.database, int(agent)) if agent in agent_ids(call.root) - {MANAGER} else None
    if current is None:
        raise no_agent(agent)
    # When the request names no groups, `default` may stay: an agent that leaves all groups ends there.
    listed = [name for name in current if name != DEFAULT] if given.group_list is None else given.group_list
    left, gone = list(current), []
    for name in dict.fromkeys(listed):
        if not group_exists(call.root, name):
            items.fail(name, _unknown_group())
        elif name not in left:
            items.fail(name, WireException(1734))
        elif left == [DEFAULT] == [name]:
            items.fail(name, WireException(1745))
        else:
            left.remove(name)
            gone.append(name)
            left = left or [DEFAULT]
    if gone:
        for failure in change_groups(call.database, "remove", [int(agent)], gone).values():
            raise failure
    items.affected = sorted(gone)
    return items


def _held(call: Call, ids: Sequence[int], given: Assigned) -> frozenset[int]:
    """Returns the agents that are in a group that they may not be removed from."""
    if not given.replace or given.replace_list is None:
        return frozenset()
    free = {*given.replace_list, *given.group_list}
    return frozenset(number for number, names in groups_by_agent(call.database, ids).items() if not names <= free)


def _obstacle(found: Membership, *, replace: bool) -> int | None:
    """Returns the code that tells why an agent cannot enter the group."""
    if replace:
        return 1752 if found.is_member and found.groups == 1 else None
    if found.is_member:
        return 1751
    return 1737 if found.groups >= MOST_GROUPS else None


def _hold(found: Membership, group: str) -> int | None:
    """Returns the code that tells why an agent cannot leave the group."""
    if not found.is_member:
        return 1734
    return 1745 if group == DEFAULT and found.groups == 1 else None


def _known(call: Call, wanted: Sequence[str] | None, group: str, items: Items) -> dict[int, Membership]:
    """Returns the agents that have a key and a row, as numbers in ascending order. The others become failed items,
    unless all agents were requested."""
    registered = agent_ids(call.root) - {MANAGER}
    named = registered if wanted is None else frozenset(wanted)
    numbers = sorted(int(one) for one in named & registered)
    found = memberships(call.database, numbers, group)
    if wanted is not None:
        for one in sorted(named):
            if one not in registered or int(one) not in found:
                items.fail(one, no_agent(one))
    return {number: found[number] for number in numbers if number in found}


def _change(call: Call, items: Items, wanted: Sequence[int], group: str, mode: Any, *, is_wanted: bool) -> None:
    """Affected items are the agents whose membership is as requested afterwards."""
    refused = change_groups(call.database, mode, wanted, [group])
    after = memberships(call.database, list(refused), group) if refused else {}
    for agent_id in wanted:
        failure: DatabaseError | None = refused.get(agent_id)
        if failure is not None and (agent_id not in after or after[agent_id].is_member != is_wanted):
            items.fail(_shown(agent_id), WireException(failure.code, failure.extra, wire_class=BAD_REQUEST))
        else:
            items.affected.append(_shown(agent_id))


def _shown(agent_id: int) -> str:
    return f"{agent_id:03d}"


def _unknown_group() -> WireException:
    return WireException(1710)
