"""The permissions that functions need: one table of all actions.

The names of actions, and their resources, are those of the public reference of roles and permissions of the stock API
(RBAC reference). If that reference changes, this is the only place to change. The words after the colon tell whether an
action only reads.
"""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from clusterd.dapi.protocol.permissions import Kind, Need, permitted

READ_NODES = "cluster:read"
_MODIFY_ASSIGNMENTS = "group:modify_assignments"

SOME_NODES = Need(READ_NODES, "node", "filter_node")
THIS_NODE = Need(READ_NODES, "node")
CLUSTER_STATUS = Need("cluster:status", "*")

SOME_AGENTS = Need("agent:read", "agent", "agent_list")
EVERY_AGENT = Need("agent:read", "agent")
ADD_AGENTS = Need("agent:create", "*")
DELETE_AGENTS = Need("agent:delete", "agent", "agent_list")
MOVE_AGENTS = Need("agent:modify_group", "agent", "agent_list")

SOME_GROUPS = Need("group:read", "group", "group_list")
CREATE_GROUPS = Need("group:create", "*")
DELETE_GROUPS = Need("group:delete", "group", "group_list")
CHANGE_GROUP = Need(_MODIFY_ASSIGNMENTS, "group", "group_list")
CHANGE_GROUP_IF_NAMED = Need(_MODIFY_ASSIGNMENTS, "group", "group_list", optional=True)
CHANGE_GROUP_BY_ID = Need(_MODIFY_ASSIGNMENTS, "group", "group_id", optional=True)
REPLACE_GROUPS = Need(_MODIFY_ASSIGNMENTS, "group", "replace_list", is_limit=True)
"""A request that puts an agent into a single group removes it from the others."""

READ_SCA = Need("sca:read", "agent", "agent_list")
REVOKE_TOKENS = Need("security:revoke", "*")


class FileNeeds(msgspec.Struct, frozen=True):
    """The needs for one kind of ruleset files. `read`: the files that the argument names; `read_all`: all of them."""

    read: Need
    read_all: Need
    update: Need
    delete: Need


def _of_files(words: str, kind: Kind) -> FileNeeds:
    return FileNeeds(
        Need(f"{words}:read", kind, "filename"),
        Need(f"{words}:read", kind),
        Need(f"{words}:update", "*"),
        Need(f"{words}:delete", kind, "filename"),
    )


FILES: Mapping[Literal["rule", "decoder", "list"], FileNeeds] = {
    "rule": _of_files("rules", "rule"),
    "decoder": _of_files("decoders", "decoder"),
    "list": _of_files("lists", "list"),
}


def may_read_node(permissions: Mapping[str, Any], node: str) -> bool:
    return bool(permitted(permissions, READ_NODES, "node", [node]))
