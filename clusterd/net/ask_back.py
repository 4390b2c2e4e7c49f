"""Asks the master that a note names before the note counts: whoever has the cluster key can write one (docs/ha.md)."""

import asyncio
from collections.abc import Callable

import msgspec

from clusterd.net.context import NetContext
from clusterd.net.dial import parse_address
from clusterd.net.term_question import TermAnswer, ask_term
from clusterd.net.terms import Terms
from clusterd.wire.terms import TermNote

PACE_S = 1.0
"""Least time from the end of one question to the next: bounds what a flood of rising terms costs, on the disk and in
the log."""
TIMEOUT_S = 5.0
MOST_CLAIMS = 64
Ask = Callable[[TermNote], TermAnswer]
"""Blocking: the answer of the node at `master` of this note."""


class AskBack:
    """One question at a time. A host that claims much delays others by its own one turn only: of each the last claim
    waits."""

    def __init__(self, context: NetContext, terms: Terms, *, ask: Ask | None = None, pace_s: float = PACE_S) -> None:
        self._context = context
        self._terms = terms
        self._ask = ask or self._dial
        self._pace_s = pace_s
        self._claims: dict[str, TermNote] = {}
        self._came = asyncio.Event()

    def claim(self, note: TermNote, host: str) -> None:
        """A node at `host` says that another master leads."""
        if not self._terms.is_news(note):
            return
        if host not in self._claims and len(self._claims) >= MOST_CLAIMS:
            del self._claims[next(iter(self._claims))]
        self._claims[host] = note
        self._came.set()

    async def run(self) -> None:
        """For ever."""
        while True:
            await self._came.wait()
            while self._claims:
                host = next(iter(self._claims))
                note = self._claims.pop(host)
                if self._terms.is_news(note):
                    with self._context.rounds.survive("asking a master for its term"):
                        await self._verify(note, host)
                    await asyncio.sleep(self._pace_s)
            self._came.clear()

    async def _verify(self, note: TermNote, host: str) -> None:
        found = await asyncio.get_running_loop().run_in_executor(None, self._ask, note)
        said, terms = found.note, self._terms
        if said is not None and said.leads:
            said = msgspec.structs.replace(said, master=said.master or note.master)
            if terms.is_news(said):
                if terms.leads:
                    text = f"{said.node} at {note.master} leads in term {said.term}, and this node in term {terms.term}"
                    self._context.own_line("ERROR", f"{text}: it leads no more. {note.node} at {host} said so first.")
                terms.believe(said)
                return
        why, level = found.text, "WARNING"
        if said is not None:
            # That node will lead, as its election says, and does not yet.
            level = "INFO" if (said.term, said.master) == (note.term, note.master) else level
            why = f"{said.node} there {'leads in' if said.leads else 'does not lead and has seen'} term {said.term}"
        text = f"Not believed: {note.node} at {host} says that {note.master} leads in term {note.term}. {why}."
        tag = self._context.role_tag
        self._context.abuse_line(level, tag, "Net", host, "claimed term", text, is_insider=True)

    def _dial(self, note: TermNote) -> TermAnswer:
        settings = self._context.settings
        address = parse_address(note.master, settings.cluster.port)
        return ask_term(settings, address, self._terms.note, TIMEOUT_S)
