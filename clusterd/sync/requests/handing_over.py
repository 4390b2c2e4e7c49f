"""Before a master hands over, the programs of workers must have the answers to everything it has carried out. Otherwise
they would ask the next master for it again when its links end (docs/ha.md)."""

import asyncio
from collections.abc import Callable

from clusterd.sync.links.handlers import Handler
from clusterd.sync.links.peer import Peer
from clusterd.wire import commands

LOOK_S = 0.02
READ_S = 0.05
"""By then sync has read the store's last answers."""
SETTLE_S = 1.0
"""The longest wait for a worker that takes its answers slowly."""


class AnswersUnderWay:
    """`local` is its command."""

    def __init__(self, count: Callable[[], int]) -> None:
        """`count`: answers that exist but that their askers have not taken yet."""
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
