"""The agent database as authd uses it, in a dictionary."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence

import msgspec

from clusterd.store.errors import StoreFailed
from clusterd.store.registry import AgentFacts, Registration


class FakeAgentTable:
    """`agents`: the rows. `states`: what is known of some agents beside their registration. `refuses`: every change
    fails with this text. `before_change`: awaited before each change, so that the test can act meanwhile. `highest`:
    the highest id ever given that it remembers. `confirms`: set when a candidate has everything; `unconfirmed` callers
    have waited for that. `cannot`: why no change could be answered; `lost`: agents that no candidate has."""

    def __init__(self) -> None:
        self.agents: dict[int, Registration] = {}
        self.states: dict[int, AgentFacts] = {}
        self.refuses: str | None = None
        self.before_change: Callable[[], Awaitable[None]] | None = None
        self.changes = 0
        self.highest = 0
        self.unconfirmed = 0
        self.confirms: asyncio.Event | None = None
        self.cannot = ""
        self.lost: set[int] = set()
        self.unheard: set[int] = set()

    async def facts(self, agent_id: int) -> AgentFacts | None:
        found = self.agents.get(agent_id)
        if found is None:
            return None
        state = self.states.get(agent_id, AgentFacts("never_connected", 0, found.date_add))
        return msgspec.structs.replace(state)

    async def keyed(self) -> set[int]:
        return set(self.agents)

    async def unanswered(self) -> set[int]:
        return self.unheard

    def answered(self, but: Collection[int]) -> None:
        self.unheard = set(but)

    async def note_answered(self) -> None:
        pass

    async def greatest(self) -> int:
        return self.highest

    async def replicated(self) -> bool:
        if self.confirms is not None:
            self.unconfirmed += 1
            await self.confirms.wait()
        return True

    async def ready(self) -> str:
        return self.cannot

    async def is_kept(self, agent_id: int) -> bool:
        return agent_id not in self.lost

    async def apply(self, added: Sequence[Registration], removed: Sequence[int]) -> None:
        if self.before_change is not None:
            await self.before_change()
        if self.refuses is not None:
            raise StoreFailed(self.refuses)
        self.changes += 1
        for agent_id in removed:
            self.agents.pop(agent_id, None)
        self.agents.update({agent.id: agent for agent in added})
