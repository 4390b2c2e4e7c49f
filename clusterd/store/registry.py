"""What authd needs of the agent database."""

from collections.abc import Sequence
from typing import Protocol

import msgspec


class AgentFacts(msgspec.Struct, frozen=True):
    """What decides whether an agent may be replaced (wdb.md 8.4). Times in seconds since 1970, 0 for none."""

    connection_status: str
    disconnection_time: int
    date_add: int


class NewAgent(msgspec.Struct, frozen=True):
    """A registration (wdb.md 8.5, step 3). `group`: CSV of the groups that were asked for."""

    id: int
    name: str
    register_ip: str
    internal_key: str
    group: str | None
    date_add: int


class AgentTable(Protocol):
    """The database as authd uses it."""

    async def facts(self, agent_id: int) -> AgentFacts | None:
        """None: no such agent."""

    async def keyed(self) -> set[int]:
        """The agents whose key this node has had and that nobody has removed."""

    async def apply(self, added: Sequence[NewAgent], removed: Sequence[int]) -> None:
        """In one transaction that is on disk when this returns: delete `removed` (with groups, labels, private database), insert
        `added` with their groups, each in place of a row of its id. Raises StoreFailed: then nothing of it happened."""
