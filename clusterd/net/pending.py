"""Requests under way between a link and sync, as the bridge remembers them."""

from clusterd.net.context import Context
from clusterd.net.link import Link
from clusterd.wire.events import Sink


class Pending:
    """A request of a peer that sync has. `answer_as`: the command word that an `ok` becomes (echo-c, echo-m). `answered`: the
    response has been given, and more is to follow."""

    __slots__ = ("answer_as", "answered", "command", "counter", "link")

    def __init__(self, link: Link, counter: int, command: str, answer_as: str) -> None:
        self.link = link
        self.counter = counter
        self.command = command
        self.answer_as = answer_as
        self.answered = False


class Nobody:
    """Of whom the response to a request of net's own is of no interest."""

    __slots__ = ("_context",)

    def __init__(self, context: Context) -> None:
        self._context = context

    def answered(self, command: str, payload: bytes, bodies: list[Sink]) -> None:
        self._context.slabs.drop(bodies, self._context.clock.monotonic())

    def unanswered(self, why: str) -> None:
        return
