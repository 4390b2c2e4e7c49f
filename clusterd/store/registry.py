"""The part of the agent database that authd needs."""

from collections.abc import Collection, Sequence
from typing import Protocol

import msgspec


class AgentFacts(msgspec.Struct, frozen=True):
    """Facts that decide whether an agent may be replaced (wdb.md 8.4). Times in seconds since 1970, 0 for none."""

    connection_status: str
    disconnection_time: int
    date_add: int


class Registration(msgspec.Struct, frozen=True):
    """A registration (wdb.md 8.5, step 3). `group`: CSV of the requested groups."""

    id: int
    name: str
    register_ip: str
    internal_key: str
    group: str | None
    date_add: int


class RegisteredAgents(Protocol):
    """The agent table as authd uses it."""

    async def facts(self, agent_id: int) -> AgentFacts | None:
        """Returns None for an unknown agent."""

    async def keyed(self) -> set[int]:
        """Agents whose key this node has had and that nobody has removed."""

    async def unanswered(self) -> set[int]:
        """Agents whose registration may not have been answered, by this process or the one before it."""

    def answered(self, but: Collection[int]) -> None:
        """Every registration until now was answered, except these. On the disk with the next change."""

    async def note_answered(self) -> None:
        """The same, on the disk now."""

    async def greatest(self) -> int:
        """The highest id ever given, as far as the table remembers agents that are gone; 0: it does not."""

    async def replicated(self) -> bool:
        """Waits until a candidate has all that was applied, within a limit; returns at once without one. Whether the
        answer may be given."""

    async def ready(self) -> str:
        """Waits until a change could be answered, within a limit; empty, or why it could not be."""

    async def is_kept(self, agent_id: int) -> bool:
        """Whether this agent would not be lost with this node; waits for a candidate that may lack it, as `replicated`
        does."""

    async def apply(self, added: Sequence[Registration], removed: Sequence[int]) -> None:
        """Deletes `removed` (with groups, labels, private database) and inserts `added` with their groups, each in
        place of a row with its id, in one transaction that is on disk when this returns. Raises StoreFailed: nothing
        was changed."""
