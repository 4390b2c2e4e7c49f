"""Tells the journal of a worker when its master is lost and back, as the master's tells of workers."""

import asyncio
from collections.abc import Callable

from clusterd.clock import Clock
from clusterd.messages.journal import LONGEST_TEXT, AnyEvent, MasterEvent
from clusterd.sync.links.known_workers import BACK_SOON_S, EXPECTED_S
from clusterd.sync.links.peer import Peer

CLOSED = "the connection was closed"
NEVER_THERE = "there has been no link since this node started"


class MasterLink:
    """Whether the master is there, for the journal. It is lost when the link has ended and no other one has come up for
    BACK_SOON_S, or none has within EXPECTED_S of the start."""

    def __init__(self, tell: Callable[[AnyEvent], None], clock: Clock) -> None:
        self._tell = tell
        self._clock = clock
        self._there: Peer | None = None
        self._address = self._why = ""
        self._is_told_lost = False
        self._lost_at = clock.monotonic() + EXPECTED_S
        self._changed = asyncio.Event()

    def up(self, peer: Peer) -> None:
        """The link to a master is up."""
        what = "back" if self._is_told_lost else "connected"
        self._there, self._address, self._why, self._is_told_lost = peer, peer.name, "", False
        self._tell(MasterEvent(master=peer.name, what=what))
        self._changed.set()

    def left(self, peer: Peer, why: str) -> None:
        """A link to a master has ended; `why` is empty when it hung up."""
        if self._there is not peer:
            return
        self._there, self._why = None, why
        self._lost_at = self._clock.monotonic() + BACK_SOON_S
        self._changed.set()

    def away(self, reason: str) -> None:
        """Why net has no link; begins with the address that was tried last."""
        if not (self._why and self._address):  # else that is what has become of the link
            self._why = reason

    async def run(self) -> None:
        """For ever."""
        while True:
            self._changed.clear()
            is_due = self._there is None and not self._is_told_lost
            try:
                async with asyncio.timeout(max(0.0, self._lost_at - self._clock.monotonic()) if is_due else None):
                    await self._changed.wait()
            except TimeoutError:
                if self._there is not None:  # it came in the same turn of the loop
                    continue
                self._is_told_lost = True
                why = self._why or (CLOSED if self._address else NEVER_THERE)
                self._tell(MasterEvent(master=self._address, what="lost", why=why[:LONGEST_TEXT]))
