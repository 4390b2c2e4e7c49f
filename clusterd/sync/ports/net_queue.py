"""Messages of sync that wait for net."""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager

from clusterd.messages.links import NetToSync, SyncToNet, WriteLog
from ipc.batch import take_batch
from ipc.board import BoardRow
from ipc.channel import RouterChannel
from ipc.errors import NoCredit

NET = b"net"
FULL_MESSAGES = 1000
"""Messages that wait for net from which on whoever has another one waits, too."""
PAUSE_S = 0.05
"""Before what net did not take is offered again."""


class NetQueue:
    """`life`: incarnation of the net that the messages are for, None before one has said hello."""

    def __init__(
        self,
        channel: RouterChannel[NetToSync],
        net_row: BoardRow,
        survives: Callable[[str], AbstractContextManager[None]],
    ) -> None:
        """`survives`: what a failure to send is logged by."""
        self._channel = channel
        self._net_row = net_row
        self._survives = survives
        self._messages: deque[SyncToNet] = deque()
        self._has_messages = asyncio.Event()
        self._has_room = asyncio.Event()
        self.life: int | None = None

    async def send(self, message: SyncToNet) -> None:
        """In the order of the calls. A caller that is cancelled has sent its message all the same."""
        self._messages.append(message)
        self._has_messages.set()
        while len(self._messages) > FULL_MESSAGES:
            self._has_room.clear()
            await self._has_room.wait()

    async def run(self) -> None:
        """Messages of one turn of the loop go together. A net that takes none is waited for, as long as its process
        lives: without one of them a peer would never be answered, or a slab, or a task of ours, wait for ever. To a net
        that has ended they are dropped: the next one says hello, and everything starts clean."""
        while True:
            await self._has_messages.wait()
            self._has_messages.clear()
            while self._messages:
                with self._survives("messages to net"):
                    life, batch = self.life, take_batch(self._messages)
                    try:
                        await self._channel.send(NET, *batch)
                    except NoCredit:
                        if self.life == life and self._net_lives():
                            self._messages.extendleft(reversed(batch))
                            await asyncio.sleep(PAUSE_S)
                if len(self._messages) <= FULL_MESSAGES:
                    self._has_room.set()

    def _net_lives(self) -> bool:
        """Whether the net process that said hello has not ended, as the supervisor's board has it."""
        row = self._net_row.snapshot()
        return row.incarnation == self.life and row.state not in ("down", "failed")

    def net_is_gone(self) -> None:
        """Drops what was for the net before, but for its log lines."""
        lines = [message for message in self._messages if isinstance(message, WriteLog)]
        self._messages.clear()
        self._messages.extend(lines)
        self._has_room.set()
