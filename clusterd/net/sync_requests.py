"""Requests of sync to peers: each is sent to its link, and sync is told how it ended (messages: clusterd/messages)."""

from collections.abc import Callable

from clusterd.errors import ClusterError
from clusterd.messages.links import Answered, GiveString, NetToSync, Request, Unanswered
from clusterd.net.link import Link
from clusterd.net.string_transfer import StringTransfer
from clusterd.net.sync_bodies import SyncBodies
from clusterd.wire.events import Sink

INTERNAL = 1000


class _SyncRequest:
    """Passes the response to sync's request `id` on to sync. `number`: the request that waits for it."""

    __slots__ = ("_bodies", "_id", "_settle", "link", "number")

    def __init__(
        self, link: Link, request_id: int, bodies: SyncBodies, settle: Callable[[int, Answered | Unanswered], None]
    ) -> None:
        self._bodies = bodies
        self._settle = settle
        self._id = request_id
        self.link = link
        self.number: int | None = None

    def answered(self, command: str, payload: bytes, bodies: list[Sink]) -> None:
        self._settle(self._id, Answered(self._id, command, payload, self._bodies.lend(bodies)))

    def unanswered(self, why: str) -> None:
        self._settle(self._id, Unanswered(self._id, why))


class SyncRequests:
    """Owns the requests of sync that wait for the response of a peer. `tell`: queues a message to sync."""

    def __init__(self, bodies: SyncBodies, tell: Callable[[NetToSync], None]) -> None:
        self._bodies = bodies
        self._tell = tell
        self._asks: dict[int, _SyncRequest | StringTransfer] = {}

    def send(self, message: Request, link: Link | None) -> None:
        """Sends a request. `link`: None when there is none, or nothing may be sent to it."""
        if link is None:
            if message.body:
                self._bodies.unsent(message.body)
            self._tell(Unanswered(message.id, "closed"))
            return
        ask = _SyncRequest(link, message.id, self._bodies, self._settle)
        self._asks[message.id] = ask
        views: list[memoryview] | None = None
        slabs: list[int] = []
        try:
            if message.body is None:
                ask.number = link.ask(message.command, message.payload, message.timeout_s, ask)
            else:
                views, slabs = self._bodies.take(message.body, link)
                if views is None:
                    raise ClusterError(INTERNAL, "its body was lost")
                ask.number = link.ask_body(message.command, views, slabs, message.timeout_s, ask)
        except ClusterError as refusal:
            self._bodies.written(slabs)
            self._settle(message.id, Unanswered(message.id, "refused", str(refusal)))

    def give_string(self, message: GiveString, link: Link | None) -> None:
        """Begins to send a small long string. `link`: as in `send`."""
        if link is None:
            self._tell(Unanswered(message.id, "closed"))
            return
        self._asks[message.id] = giving = StringTransfer(link, message, self._bodies, self._settle)
        try:
            giving.begin()
        except ClusterError as refusal:
            self._settle(message.id, Unanswered(message.id, "refused", str(refusal)))

    def _settle(self, request_id: int, message: Answered | Unanswered) -> None:
        """Reports the end of a request of sync."""
        if self._asks.pop(request_id, None) is not None:
            self._tell(message)
        elif isinstance(message, Answered) and message.body:
            self._bodies.free([part.slab for part in message.body])

    def withdraw_all(self) -> None:
        """Sync has died: no process waits for the responses any more."""
        asks, self._asks = self._asks, {}
        for ask in asks.values():
            if ask.number is not None:
                ask.link.withdraw(ask.number)
