"""What the election asks of sync before a master hands over (docs/ha.md). The programs of workers must have the answers
to everything it has carried out: they would ask the next master for it again when its links end. And the next master
must have the files."""

import asyncio
from collections.abc import Callable
from typing import Any

from clusterd.sync.links.handlers import Handler
from clusterd.sync.links.peer import Peer
from clusterd.wire import commands
from clusterd.wire.payloads import text_of
from clusterd.wire.results import dump_json

LOOK_S = 0.02
READ_S = 0.05
"""By then sync has read the store's last answers."""
SETTLE_S = 1.0
"""The longest wait for a worker that takes its answers slowly."""


class HandingOver:
    """`local` are its commands."""

    def __init__(self, count: Callable[[], int], files: Callable[[str], dict[str, Any]]) -> None:
        """`count`: answers that exist but that their askers have not taken yet. `files`: what `status` says of a
        worker's files."""
        self._count, self._files = count, files
        self.local: dict[str, Handler] = {commands.LACKING: self.lacking, commands.SETTLE: self.settle}

    async def lacking(self, client: Peer, payload: bytes) -> bytes:
        """`{node}`: its row of `results` and the time, as `status` has them. That waits for the store, which takes no
        writes by now, and while it waits nothing is registered."""
        return dump_json(self._files(text_of(payload)))

    async def settle(self, client: Peer, payload: bytes) -> bytes:
        """Returns when all answers have been taken, or after SETTLE_S."""
        await asyncio.sleep(READ_S)
        for _ in range(int(SETTLE_S / LOOK_S)):
            if not self._count():
                break
            await asyncio.sleep(LOOK_S)
        return b""
