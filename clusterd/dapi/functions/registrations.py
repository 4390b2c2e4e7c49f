"""Adds and removes agents, through authd of the master (dapi.md 5.3, wdb.md 8)."""

from typing import Annotated, Any, ClassVar

import msgspec

from clusterd.agent_keys import Key, importable
from clusterd.dapi.files.registration import AT_ONCE_OF_OURS, ask_authd
from clusterd.dapi.functions.agents import known_agents, with_unknown
from clusterd.dapi.protocol.access import MANAGER
from clusterd.dapi.protocol.actions import ADD_AGENTS, DELETE_AGENTS
from clusterd.dapi.protocol.items import Items
from clusterd.dapi.protocol.registry import Arguments, Call, Registry
from clusterd.dapi.query.agent_query import NOT_MANAGER, AgentQuery, find_agents
from clusterd.settings import Settings
from clusterd.wire.results import WireException

registry = Registry()
NAME = r"^[A-Za-z0-9._-]{1,128}\Z"
KEY = r"^[A-Za-z0-9]{64,127}\Z"
NO_AUTHD = 1013


class AgentToAdd(Arguments, frozen=True):
    """`agent_id`, `key`: those of an agent that was registered before; without them authd creates both. `force`: when a
    conflicting agent may be replaced (wdb.md 8.4), None for the node's configuration."""

    name: Annotated[str, msgspec.Meta(pattern=NAME)]
    ip: str = "any"
    agent_id: Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,9}\Z")] | None = None
    key: Annotated[str, msgspec.Meta(pattern=KEY)] | None = None
    force: dict[str, Any] | None = None


class DeletedAgents(Arguments, frozen=True):
    """`agent_list`: None for all that match. `filters`, `q`: only agents that match, as in a list of agents. `purge`:
    also deletes their lines in client.keys. A request with neither a list nor a condition would delete every agent; the
    REST API asks for a list and a state."""

    one_of: ClassVar[tuple[str, ...]] = ("agent_list", "filters", "q")

    agent_list: list[str] | None = None
    purge: bool = False
    filters: dict[str, Any] | None = None
    q: str | None = None


@registry.function("wazuh.agent", "add_agent", needs=(ADD_AGENTS,))
def add_agent(call: Call, given: AgentToAdd) -> dict[str, Any]:
    """Returns `{"data": {"id", "key"}}`, the key as the agent imports it. Raises WireException 1705, 1706, 1708 when
    name, address or id are taken, 1013, 1014, and any other error of authd under authd's own number."""
    wanted: dict[str, Any] = {"name": given.name, "ip": given.ip}
    if given.agent_id is not None:
        wanted["id"] = f"{int(given.agent_id):03d}"
    if given.key is not None:
        wanted["key"] = given.key
    if given.force is not None:
        wanted["force"] = {"key_mismatch": True} | given.force
    (answer,) = ask_authd(call.root, "add", [wanted], who=_who(call))
    if isinstance(answer, WireException):
        raise answer
    try:
        made = msgspec.convert(answer, _Added)
    except msgspec.ValidationError as problem:
        raise WireException(1014, f"auth: {problem}") from None
    return {"data": {"id": made.id, "key": importable(Key(made.id, made.name, made.ip, made.key))}}


@registry.function("wazuh.agent", "delete_agents", needs=(DELETE_AGENTS,))
def delete_agents(call: Call, given: DeletedAgents) -> Items:
    """Returns the ids of the agents that were removed. Failed items, for agents that the request names: 1701, 1703,
    1731 for those that do not match the conditions; 1014. Raises WireException 1013 when authd cannot be reached, and
    as get_agents."""
    filters = given.filters or {}
    ids, missing = known_agents(call, given.agent_list)
    items = Items(
        "All selected agents were deleted",
        "Some agents were not deleted",
        "No agents were deleted",
        sort_casting=["int"],
    )
    query = AgentQuery(ids=ids, select=["id"], filters=filters, q=given.q, limit=None, where=[NOT_MANAGER])
    found = [agent["id"] for agent in find_agents(call.database, query)[0]]
    meeting = set(found)
    for agent_id in sorted(set(given.agent_list or ()) - set(missing) - meeting):
        code = 1703 if agent_id == MANAGER else 1731
        items.fail(agent_id, WireException(code))
    requests = [{"id": agent_id, "purge": given.purge} for agent_id in found]
    answers = ask_authd(
        call.root, "remove", requests, call.database.step, who=_who(call), at_once=_at_once(call.settings)
    )
    for agent_id, answer in zip(found, answers, strict=True):
        if not isinstance(answer, WireException):
            items.affected.append(agent_id)
        elif answer.code == NO_AUTHD and not items.affected:
            raise answer
        else:
            items.fail(agent_id, answer)
    if "older_than" in filters:
        items.extra["older_than"] = filters["older_than"]
    return with_unknown(items, missing)


def _who(call: Call) -> str:
    """For the journal of our own store: another authd is told nothing that it does not know."""
    return call.request.current_user if call.settings.serves_store else ""


def _at_once(settings: Settings) -> int | None:
    """One process may have half of the connections of our own store, and those of the last requests may still count.
    Of another authd nothing is known."""
    if not settings.serves_store:
        return None
    return max(1, min(AT_ONCE_OF_OURS, settings.clusterd.limits.store_connections // 4))


class _Added(msgspec.Struct, frozen=True):
    """Returns authd's answer to `add`."""

    id: str
    name: str
    ip: str
    key: str
