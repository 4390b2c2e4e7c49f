"""A request's permissions (dapi.md 3.8): its `rbac_permissions`, and what each function needs of them."""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Literal

import msgspec

Members = Callable[[str], Collection[str]]
Kind = Literal["node", "agent", "group", "rule", "decoder", "list", "*"]
ATTRIBUTES: Mapping[str, str] = {
    "node": "id",
    "agent": "id",
    "group": "id",
    "rule": "file",
    "decoder": "file",
    "list": "file",
    "*": "*",
}


class Need(msgspec.Struct, frozen=True):
    """An action and its resources. `argument`: the one that names the resources; without it the resource is this node,
    or everything of that kind. `optional`: an argument without a value is not checked, instead of being filled in with
    all that is permitted. `is_limit`: the argument limits what the function may touch, and does not name what is
    requested."""

    action: str
    kind: Kind
    argument: str = ""
    optional: bool = False
    is_limit: bool = False


def permitted(
    permissions: Mapping[str, Any], action: str, kind: str, universe: Iterable[str], members: Members | None = None
) -> frozenset[str]:
    """Returns those of `universe` that `action` may touch. `members`: the agents of a group.

    Mode `black` begins with everything allowed, any other mode with nothing. Resources are applied in their order, and
    the last one that matches decides. Resources of other kinds, and combinations with them, are ignored. A request may
    state any number of them: each costs what it names, and those that name everything cost nothing."""
    everything = frozenset(universe)
    is_allowed = permissions.get("rbac_mode") == "black"
    changes: list[tuple[frozenset[str], object]] = []
    resources = permissions.get(action)
    for resource, effect in resources.items() if isinstance(resources, dict) else ():
        if effect not in ("allow", "deny"):
            continue
        named = _combined(str(resource), kind, everything, members)
        if named is everything:
            is_allowed = effect == "allow"
            changes.clear()
        else:
            changes.append((named, effect))
    allowed = set(everything) if is_allowed else set()
    for named, effect in changes:
        if effect == "allow":
            allowed |= named
        else:
            allowed -= named
    return frozenset(allowed)


def allows_all(permissions: Mapping[str, Any], action: str, kind: str) -> bool:
    """Tells whether every resource is allowed, so that no single one need be checked."""
    resources = permissions.get(action)
    if not isinstance(resources, dict):
        return permissions.get("rbac_mode") == "black"
    if any(effect != "allow" for effect in resources.values()):
        return False
    everything = {"*:*:*", f"{kind}:{ATTRIBUTES[kind]}:*"} | ({"agent:group:*"} if kind == "agent" else set())
    return permissions.get("rbac_mode") == "black" or not everything.isdisjoint(resources)


def _combined(resource: str, kind: str, everything: frozenset[str], members: Members | None) -> frozenset[str]:
    """Returns `everything` itself where the resource names all there are."""
    named = everything
    for part in resource.split("&"):
        found = _named(part, kind, everything, members)
        if found is not everything:
            named = found if named is everything else named & found
        if not named:
            break
    return named


def _named(resource: str, kind: str, everything: frozenset[str], members: Members | None) -> frozenset[str]:
    words = resource.split(":", 2)
    if words == ["*", "*", "*"]:
        return everything
    if len(words) != 3 or words[0] != kind:
        return frozenset()
    _, attribute, value = words
    if attribute == ATTRIBUTES[kind]:
        return everything if value == "*" else everything & {value}
    if kind == "agent" and attribute == "group" and members is not None:
        return everything if value == "*" else everything & frozenset(members(value))
    return frozenset()
