"""The master of a term tells the masters of earlier ones: one that comes back learns that it leads no more."""

import asyncio
import functools
from collections.abc import Callable

import msgspec

from clusterd.net.context import NetContext
from clusterd.net.dial import parse_address
from clusterd.net.term_question import ask_term
from clusterd.net.terms import Terms
from clusterd.wire.terms import TermNote

AGAIN_S = 5.0
KNOWS_S = 60.0
TIMEOUT_S = 5.0


class TermTeller:
    """Runs on a node that was promoted, and nowhere else."""

    def __init__(self, context: NetContext, terms: Terms, claimed: Callable[[TermNote, str], None]) -> None:
        """`claimed`: called with what another node says of others, and its host."""
        self._context = context
        self._terms = terms
        self._claimed = claimed
        self._said: dict[str, str] = {}
        self._calm: dict[str, float] = {}
        """Until when, on the monotonic clock, a node that knows is not asked again."""

    async def run(self) -> None:
        """For ever."""
        while True:
            settings = self._context.settings
            former = () if settings.role is None else settings.role.former
            for node in former:
                is_due = self._calm.get(node, 0.0) <= self._context.clock.awake()
                if self._terms.leads and is_due and self._said.get(node) != "unknown":
                    with self._context.rounds.survive("telling former masters of the term"):
                        await self._tell(node)
            await asyncio.sleep(AGAIN_S)

    async def _tell(self, node: str) -> None:
        settings = self._context.settings
        address = parse_address(node, settings.cluster.port)
        ask = functools.partial(ask_term, settings, address, self._terms.note, TIMEOUT_S)
        found = await asyncio.get_running_loop().run_in_executor(None, ask)
        knows = found.note is not None and found.note.term == self._terms.term and not found.note.leads
        if found.note is not None and found.note.leads:
            self._terms.believe(msgspec.structs.replace(found.note, master=found.note.master or str(address)))
        elif found.note is not None and knows:
            self._calm[node] = self._context.clock.awake() + KNOWS_S
        elif found.note is not None:
            self._claimed(found.note, address.host)
        said = "knows" if knows else found.kind
        before, self._said[node] = self._said.get(node), said
        if before == said:
            return
        if found.kind == "unknown":
            # Not again: a stock node must not be told what it cannot know.
            text = f"{found.text}. It was a master before: stop it, or there are two"
            self._context.own_line("ERROR", f"A former master is back. {text}.")
        elif found.note is not None and knows:
            name = found.note.node
            self._context.own_line("INFO", f"{name} at {address} knows that this node leads in term {found.note.term}.")
