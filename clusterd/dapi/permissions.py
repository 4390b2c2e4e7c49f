"""What a request may read (dapi.md 3.8): its `rbac_permissions` evaluated for nodes and agents, whose reading is checked."""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

READ_NODES = "cluster:read"
Members = Callable[[str], Collection[str]]


def permitted(
    permissions: Mapping[str, Any], action: str, kind: str, universe: Iterable[str], members: Members | None = None
) -> frozenset[str]:
    """Those of `universe` that `action` may touch. `kind`: "agent" or "node". `members`: the agents of a group.

    Mode `black` begins with everything allowed, any other mode with nothing; resources are applied in their order, the last
    word counts. Resources of other kinds, and combinations with them, say nothing here."""
    everything = frozenset(universe)
    allowed = set(everything) if permissions.get("rbac_mode") == "black" else set()
    resources = permissions.get(action)
    if not isinstance(resources, dict):
        return frozenset(allowed)
    for resource, effect in resources.items():
        named = _combined(str(resource), kind, everything, members)
        if effect == "allow":
            allowed |= named
        elif effect == "deny":
            allowed -= named
    return frozenset(allowed)


def _combined(resource: str, kind: str, everything: frozenset[str], members: Members | None) -> frozenset[str]:
    named = everything
    for part in resource.split("&"):
        named = named & _named(part, kind, everything, members)
    return named


def _named(resource: str, kind: str, everything: frozenset[str], members: Members | None) -> frozenset[str]:
    words = resource.split(":", 2)
    if words == ["*", "*", "*"]:
        return everything
    if len(words) != 3 or words[0] != kind:
        return frozenset()
    _, attribute, value = words
    if attribute == "id":
        return everything if value == "*" else everything & {value}
    if attribute == "group" and members is not None:
        return everything if value == "*" else everything & frozenset(members(value))
    return frozenset()
