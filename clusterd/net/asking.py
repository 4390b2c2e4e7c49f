"""Who waits for the response to a request on a link."""

from typing import Protocol

from clusterd.net.context import Context
from clusterd.net.outbox import Entry
from clusterd.wire.events import Sink


class Asker(Protocol):
    """Who waits for the response to a request."""

    def answered(self, command: str, payload: bytes, bodies: list[Sink]) -> None:
        """The response; with `bodies` it is large, and their slabs are the asker's."""

    def unanswered(self, why: str) -> None:
        """ "timeout" or "closed": there will be none."""


class Ask:
    """A request under way. `entry`: its place in the outbox."""

    __slots__ = ("asker", "command", "entry")

    def __init__(self, asker: Asker, command: str, entry: Entry) -> None:
        self.asker = asker
        self.command = command
        self.entry = entry


class IgnoreAnswer:
    """Of whom the response to a request of net's own is of no interest."""

    __slots__ = ("_context",)

    def __init__(self, context: Context) -> None:
        self._context = context

    def answered(self, command: str, payload: bytes, bodies: list[Sink]) -> None:
        self._context.slabs.drop(bodies, self._context.clock.monotonic())

    def unanswered(self, why: str) -> None:
        return
