"""Applies permissions to a request's arguments (dapi.md 3.8): each need of its function in turn."""

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from clusterd.agent_keys import KEY_FILE, Key, decode_keys, parse_keys, registered_ids
from clusterd.dapi.protocol.permissions import ATTRIBUTES, Need, allows_all, permitted
from clusterd.dapi.protocol.registry import RegisteredFunction
from clusterd.dapi.protocol.request import ApiRequest
from clusterd.names import is_group_name
from clusterd.wdb.blocking import BlockingDatabase
from clusterd.wire.results import WireException

MANAGER = "000"
SHORTEST_ID = 3
"""Fewest digits of an agent's id."""
_AGENTS_OF_GROUP = (
    "select b.id_agent as id from belongs b join `group` g on g.id = b.id_group where g.name = ? order by b.id_agent"
)
NOT_ASKED_FOR = (1701, 1703, 1710, 1712, 1730, 1734, 1745, 1751, 1752)
"""Codes that are not failures of a request that named no items: an agent, group or node is gone meanwhile, is the
manager or `default`, is or is not a member, or has no other group."""


class Access(NamedTuple):
    """The permitted part of the request, what was removed from it, and whether it named no items: then they were filled
    in, or it is about all there are."""

    request: ApiRequest
    denied: list[tuple[list[str], WireException]]
    names_none: bool


class Scope:
    """All resources of each kind on this node. `database`: needed for groups of agents. `loaded`: names of the files of
    rules or decoders that the configuration names. It may name other directories, and a file that we do not find is not
    denied."""

    def __init__(
        self,
        root: str,
        node: str,
        database: BlockingDatabase | None = None,
        loaded: Callable[[str], Iterable[str]] = lambda kind: (),
    ) -> None:
        self._root = root
        self._node = node
        self._database = database
        self._loaded = loaded

    def everything(self, need: Need, request: ApiRequest) -> frozenset[str]:
        find: Mapping[str, Callable[[], Iterable[str]]] = {
            "node": lambda: request.nodes if need.argument else [self._node],
            "agent": lambda: agent_ids(self._root),
            "group": lambda: _groups(self._root),
            "rule": lambda: [*_files(self._root, "rules", ".xml"), *self._loaded("rule")],
            "decoder": lambda: [*_files(self._root, "decoders", ".xml"), *self._loaded("decoder")],
            "list": lambda: _files(self._root, "lists", ""),
            "*": lambda: ["*"],
        }
        return frozenset(find[need.kind]())

    def members(self, group: str) -> Collection[str]:
        """Returns the ids of the agents of a group. Raises DatabaseError."""
        if self._database is None:
            return ()
        return [f"{row['id']:03d}" for row in self._database.pages(_AGENTS_OF_GROUP, [group])]


def check(function: RegisteredFunction, request: ApiRequest, scope: Scope) -> Access:
    """Applies every need of the function. Raises WireException 4000 when an action is not permitted at all,
    DatabaseError."""
    access = Access(request, [], False)
    for need in function.needs:
        if _leaves_out(access, need):
            access = access._replace(names_none=True)
        if allows_all(request.rbac_permissions, need.action, need.kind):
            continue
        universe = scope.everything(need, request)
        allowed = permitted(request.rbac_permissions, need.action, need.kind, universe, scope.members)
        if need.argument:
            access = _narrowed(access, need, allowed, universe)
        elif allowed != universe:
            raise _denied(need)
    return access


def agent_ids(root: str) -> frozenset[str]:
    """Returns the ids of every registered agent, and 000 for the manager itself (dapi.md 3.8)."""
    return frozenset({MANAGER, *registered_ids(_key_file(root))})


def no_agent(agent_id: str) -> WireException:
    """Returns the error for an id that is no registered agent, or that of the manager itself."""
    return WireException(1703 if agent_id == MANAGER else 1701)


def agent_keys(root: str) -> list[Key]:
    """Returns every registered agent with its key. They must be exactly those of agent_ids, or a permission would not
    apply to them."""
    return [key for key in parse_keys(_key_file(root))[0] if not key.is_removed and len(key.id) >= SHORTEST_ID]


def _key_file(root: str) -> str:
    try:
        return decode_keys(Path(root, KEY_FILE).read_bytes())
    except FileNotFoundError:
        return ""


def _groups(root: str) -> Iterable[str]:
    shared = Path(root, "etc/shared")
    return [entry.name for entry in shared.iterdir() if is_group_name(entry.name)] if shared.is_dir() else []


def _files(root: str, what: str, ending: str) -> Iterable[str]:
    """Returns names of files below `ruleset/` and `etc/`; names of lists have no dot."""
    for top in ("ruleset", "etc"):
        for _, _, names in os.walk(Path(root, top, what)):
            yield from (name for name in names if os.path.splitext(name)[1] == ending)


def _narrowed(access: Access, need: Need, allowed: frozenset[str], universe: frozenset[str]) -> Access:
    request = access.request
    given = request.f_kwargs.get(need.argument)
    if given is None:
        return access if need.optional else access._replace(request=_with(request, need.argument, sorted(allowed)))
    names = [given] if isinstance(given, str) else given
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return access  # refused with the arguments
    kept = [name for name in names if name in allowed or name not in universe]
    if names and not kept:
        raise _denied(need)
    if len(kept) == len(names):
        return access
    if request.broadcasting:
        denied = []
    else:
        denied = [([name for name in names if name in universe and name not in allowed], _denied(need))]
    return access._replace(request=_with(request, need.argument, kept), denied=access.denied + denied)


def _leaves_out(access: Access, need: Need) -> bool:
    """Tells whether the request could name items of this need and names none."""
    if not need.argument or need.optional or need.is_limit:
        return False
    return access.request.f_kwargs.get(need.argument) is None


def _with(request: ApiRequest, key: str, value: list[str]) -> ApiRequest:
    return msgspec.structs.replace(request, f_kwargs=request.f_kwargs | {key: value})


def _denied(need: Need) -> WireException:
    return WireException(4000, f"Resource type: {need.kind}:{ATTRIBUTES[need.kind]}")
