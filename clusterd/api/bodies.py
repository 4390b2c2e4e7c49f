"""JSON bodies of requests. A field is named like the function's keyword, except for renamed fields."""

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

_AGE = r"^[0-9]{1,9}[smhd]?$"
Age = Annotated[str, Meta(pattern=_AGE, description="Seconds, or a number with s, m, h or d, like 1h.")]


class NewGroup(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    group_id: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,255}$", description="The group's name.")]


class Disconnected(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whether an agent must have been disconnected for some time before it may be replaced."""

    enabled: bool = True
    value: Age = "1h"


class Force(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When an agent that already has the same name, address or id may be replaced."""

    enabled: bool = True
    disconnected_time: Disconnected = Disconnected()
    after_registration_time: Age = "1h"


class NewAgent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Without `force` the master's configuration decides when another agent may be replaced."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,128}$", description="The agent's name.")]
    ip: Annotated[
        str,
        Meta(pattern=r"^[A-Za-z0-9.:/]{1,64}$", description="`any`, an address, or a network like 10.0.0.0/24."),
    ] = "any"
    force: Force | UnsetType = UNSET


class KnownAgent(NewAgent, frozen=True, forbid_unknown_fields=True, kw_only=True, rename={"agent_id": "id"}):
    """An agent that was registered before, with its id and key."""

    agent_id: Annotated[str, Meta(pattern=r"^[0-9]{3,9}$", description="The agent's id.")]
    key: Annotated[str, Meta(pattern=r"^[A-Za-z0-9]{64,127}$", description="The agent's key.")]
