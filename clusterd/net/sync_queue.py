"""Messages to sync, in their order. While too many wait, the links that add some are not read."""

import asyncio
from collections import deque

from clusterd.messages.links import KeepaliveSeen, LinkDown, LinkUp, NetToSync, PeerRequest, SyncToNet
from clusterd.net.context import NetContext
from clusterd.net.link import Link
from clusterd.net.reading import HELD_SYNC
from ipc.batch import take_batch
from ipc.channel import DealerChannel
from ipc.errors import NoCredit

FULL_MESSAGES = 2000
"""When more messages than this wait for sync, links that would add some are not read."""


class SyncQueue:
    """`is_lost`: there is no sync process. Nothing is queued then: NetHello will tell the next one everything."""

    def __init__(self, context: NetContext, channel: DealerChannel[SyncToNet]) -> None:
        self._context = context
        self._channel = channel
        self._messages: deque[NetToSync] = deque()
        self._queued = asyncio.Event()
        self._held: set[Link] = set()
        self._tidy_at = 2 * FULL_MESSAGES
        self.is_lost = False

    def tell(self, message: NetToSync) -> None:
        """Queues a message."""
        if self.is_lost:
            return
        self._messages.append(message)
        self._queued.set()
        if len(self._messages) >= self._tidy_at:
            self._tidy()

    def _tidy(self) -> None:
        """Leaves out the links that came and went and asked nothing: while sync hangs, peers that connect again and
        again would fill the memory."""
        begun, ended, asked = set(), set(), set()
        for message in self._messages:
            match message:
                case LinkUp():
                    begun.add(message.info.link)
                case LinkDown():
                    ended.add(message.link)
                case PeerRequest():
                    asked.add(message.link)
        gone = begun & ended - asked
        left = [message for message in self._messages if _link_of(message) not in gone]
        self._messages.clear()
        self._messages.extend(left)
        self._tidy_at = 2 * max(FULL_MESSAGES, len(left))

    def lose(self) -> None:
        """Sync has died: drops what waits for it."""
        self.is_lost = True
        self._messages.clear()

    async def send_all(self) -> None:
        """Hands messages over in order, waiting while sync takes none. Runs until cancelled."""
        while True:
            await self._queued.wait()
            while self._messages:
                with self._context.rounds.survive("messages to sync"):
                    batch = take_batch(self._messages)
                    try:
                        await self._channel.send(*batch)
                    except NoCredit:
                        if not self.is_lost:
                            self._messages.extendleft(reversed(batch))
                    if self._held and len(self._messages) < FULL_MESSAGES // 2:
                        self.let_links_go()
            self._queued.clear()
            self._tidy_at = 2 * FULL_MESSAGES

    @property
    def is_full(self) -> bool:
        """Whether too many messages wait."""
        return len(self._messages) >= FULL_MESSAGES

    def hold_if_full(self, link: Link) -> None:
        """Stops reading the link, which has just added a message, while too many wait."""
        if self.is_full:
            self._held.add(link)
            link.hold(HELD_SYNC)

    def forget(self, link: Link) -> None:
        """The link has ended."""
        self._held.discard(link)

    def let_links_go(self) -> None:
        """Reads all links again."""
        held, self._held = self._held, set()
        for link in held:
            link.let_go(HELD_SYNC)


def _link_of(message: NetToSync) -> int | None:
    """The link of which this tells something."""
    if isinstance(message, LinkUp):
        return message.info.link
    return message.link if isinstance(message, LinkDown | KeepaliveSeen | PeerRequest) else None
