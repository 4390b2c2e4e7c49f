"""The interface of code that sends a request on a link and waits for its response."""

from typing import Protocol

from clusterd.net.context import NetContext
from clusterd.net.outbox import OutboxEntry
from clusterd.wire.events import Sink


class AnswerTaker(Protocol):
    """Receives the outcome of a request."""

    def answered(self, command: str, payload: bytes, bodies: list[Sink]) -> None:
        """The response. `bodies`: a large one; the receiver owns their slabs."""

    def unanswered(self, why: str) -> None:
        """No response will come: "timeout", "unsent" (the same, and the peer will never read it) or "closed"."""


class Ask:
    """A request under way. `entry`: its place in the outbox. `timeout_s`: how long it may wait for its response."""

    __slots__ = ("asker", "command", "entry", "timeout_s")

    def __init__(self, asker: AnswerTaker, command: str, entry: OutboxEntry, timeout_s: float) -> None:
        self.asker = asker
        self.command = command
        self.entry = entry
        self.timeout_s = timeout_s


class IgnoreAnswer:
    """Ignores the response to a request of net's own."""

    __slots__ = ("_context",)

    def __init__(self, context: NetContext) -> None:
        self._context = context

    def answered(self, command: str, payload: bytes, bodies: list[Sink]) -> None:
        self._context.slabs.drop(bodies, self._context.clock.awake())

    def unanswered(self, why: str) -> None:
        return
