"""A master hands over: what it has carried out for programs of workers must have been answered before its links end, or
they would ask the next one for it again (docs/ha.md)."""

import asyncio
from collections.abc import Callable

from clusterd.sync.links.handlers import Handler
from clusterd.sync.links.peer import Peer
from clusterd.wire import commands

LOOK_S = 0.02
READ_S = 0.05
"""What the store has answered just now has been read by then."""
SETTLE_S = 1.0
"""A worker that takes longer to take its answers is not waited for."""


class AnswersUnderWay:
    """`local` is its command."""

    def __init__(self, count: Callable[[], int]) -> None:
        """`count`: answers that are there, and that their askers have not taken yet."""
        self._count = count
        self.local: dict[str, Handler] = {commands.SETTLE: self.settle}

    async def settle(self, client: Peer, payload: bytes) -> bytes:
        """Returns when all answers have been taken, or after SETTLE_S."""
        await asyncio.sleep(READ_S)
        for _ in range(int(SETTLE_S / LOOK_S)):
            if not self._count():
                break
            await asyncio.sleep(LOOK_S)
        return b""
