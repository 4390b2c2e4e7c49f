"""What a request may read of nodes and agents, applied to its arguments (dapi.md 3.8, 8.2)."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from clusterd.dapi.permissions import READ_NODES, permitted
from clusterd.dapi.registry import Function
from clusterd.dapi.request import DISTRIBUTED, ApiRequest
from clusterd.wdb.blocking import BlockingDatabase
from clusterd.wire.results import PERMISSION_ERROR, WireException

_KEY_LINE = re.compile(r"(\d{3,}) (?!!)\S+ \S+ \S+$")
_AGENTS_OF_GROUP = (
    "select b.id_agent as id from belongs b join `group` g on g.id = b.id_group where g.name = ? order by b.id_agent"
)
_OWN_NODE = frozenset({"wazuh.manager", "wazuh.stats", "wazuh.cluster", "wazuh.analysis"})
"""Modules whose functions, asked of a node, are about that node itself."""
DELETED_MEANWHILE = (1701,)


class Access(NamedTuple):
    """The request as far as it is permitted, what was taken out of it, and whether it named nothing itself."""

    request: ApiRequest
    denied: list[tuple[str, WireException]]
    is_filled: bool


def check_nodes(function: Function, request: ApiRequest, node: str) -> Access:
    """For functions about nodes. Raises WireException 4000 when nothing is left, or this node may not be read."""
    if "filter_node" in function.arguments.__struct_fields__:
        if _allows_all(request.rbac_permissions, READ_NODES, "node"):
            return Access(request, [], False)
        universe = frozenset(request.nodes)
        return _narrowed(request, "filter_node", "node:id", _readable(request, READ_NODES, "node", universe), universe)
    is_about_us = request.request_type == DISTRIBUTED and function.module in _OWN_NODE
    if is_about_us and node not in permitted(request.rbac_permissions, READ_NODES, "node", [node]):
        raise _denied("node:id")
    return Access(request, [], False)


def check_agents(function: Function, request: ApiRequest, root: str, database: BlockingDatabase) -> Access:
    """For functions about agents. Raises WireException 4000, DatabaseError."""
    action = "sca:read" if function.module == "wazuh.sca" else "agent:read"
    if "agent_list" not in function.arguments.__struct_fields__ or _allows_all(
        request.rbac_permissions, action, "agent"
    ):
        return Access(request, [], False)
    universe = agent_ids(root)

    def members(group: str) -> Collection[str]:
        return [f"{row['id']:03d}" for row in database.pages(_AGENTS_OF_GROUP, [group])]

    readable = permitted(request.rbac_permissions, action, "agent", universe, members)
    return _narrowed(request, "agent_list", "agent:id", readable, universe)


def agent_ids(root: str) -> frozenset[str]:
    """Every registered agent, and the manager itself as 000."""
    try:
        lines = Path(root, "etc/client.keys").read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        lines = []
    return frozenset({"000", *(found[1] for found in map(_KEY_LINE.match, lines) if found)})


def _readable(request: ApiRequest, action: str, kind: str, universe: frozenset[str]) -> frozenset[str]:
    return permitted(request.rbac_permissions, action, kind, universe)


def _allows_all(permissions: Mapping[str, Any], action: str, kind: str) -> bool:
    """Whether no single resource need be looked at."""
    resources = permissions.get(action)
    if not isinstance(resources, dict):
        return permissions.get("rbac_mode") == "black"
    if any(effect != "allow" for effect in resources.values()):
        return False
    everything = {"*:*:*", f"{kind}:id:*", f"{kind}:group:*"}
    return permissions.get("rbac_mode") == "black" or not everything.isdisjoint(resources)


def _narrowed(
    request: ApiRequest, key: str, resource: str, readable: frozenset[str], universe: frozenset[str]
) -> Access:
    given = request.f_kwargs.get(key)
    if given is None:
        return Access(_with(request, key, sorted(readable)), [], True)
    names = [given] if isinstance(given, str) else given
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return Access(request, [], False)  # refused with the arguments
    kept = [name for name in names if name in readable or name not in universe]
    if names and not kept:
        raise _denied(resource)
    denied = [] if request.broadcasting else [(name, _denied(resource)) for name in names if name not in kept]
    return Access(_with(request, key, kept), denied, False)


def _with(request: ApiRequest, key: str, value: list[str]) -> ApiRequest:
    return msgspec.structs.replace(request, f_kwargs=request.f_kwargs | {key: value})


def _denied(resource: str) -> WireException:
    return WireException(4000, f"Resource type: {resource}", wire_class=PERMISSION_ERROR)
