"""Sends a small long string to a peer (wire.md 4.4): three requests in a row; sync hears only the end."""

from collections.abc import Callable

from clusterd.errors import ClusterError
from clusterd.messages.links import Answered, GiveString, Unanswered
from clusterd.net.link import Link
from clusterd.net.sync_bodies import SyncBodies
from clusterd.wire import commands
from clusterd.wire.events import Sink
from clusterd.wire.payloads import build_words, parse_task_id
from clusterd.wire.results import decode_err_payload


class StringTransfer:
    """`number`: the request that waits for its response, so that it can be withdrawn. `settle`: is told how the
    transfer ended, with the id of sync's request."""

    __slots__ = ("_bodies", "_message", "_settle", "_step", "_string_id", "link", "number")

    def __init__(
        self,
        link: Link,
        message: GiveString,
        bodies: SyncBodies,
        settle: Callable[[int, Answered | Unanswered], None],
    ) -> None:
        self._bodies = bodies
        self._settle = settle
        self._message = message
        self._step = ""
        self._string_id = ""
        self.link = link
        self.number: int | None = None

    def begin(self) -> None:
        """Raises ClusterError for a command that cannot be sent."""
        self._ask(commands.NEW_STR, str(len(self._message.content)).encode())

    def _ask(self, command: str, payload: bytes) -> None:
        self._step = command
        self.number = self.link.ask(command, payload, self._message.timeout_s, self)

    def answered(self, command: str, payload: bytes, bodies: list[Sink]) -> None:
        message = self._message
        if self._step == message.command:
            self._settle(message.id, Answered(message.id, command, payload, self._bodies.lend(bodies)))
            return
        self._bodies.drop(bodies)
        try:
            self._go_on(command, payload)
        except ClusterError as refusal:
            self._settle(message.id, Unanswered(message.id, "string", str(refusal)))

    def _go_on(self, command: str, payload: bytes) -> None:
        """Sends the next request. Raises ClusterError for a response that ends the transfer."""
        message = self._message
        if command == commands.ERR:
            raise decode_err_payload(payload)
        if command != commands.OK:
            raise ClusterError(3018, f"unknown response command {command!r} to {self._step}")
        if self._step == commands.NEW_STR:
            self._string_id = parse_task_id(payload)
            if message.content:
                self._ask(commands.STR_UPD, build_words(self._string_id, message.content))
                return
        named = build_words(message.word, self._string_id) if message.word else self._string_id.encode()
        self._ask(message.command, named)

    def unanswered(self, why: str) -> None:
        if why == "timeout" and self._step == commands.NEW_STR:
            # The peer may still begin it, and a stock node keeps what it has reserved until the link ends.
            length = str(len(self._message.content)).encode()
            self.link.ask(commands.ERR_STR, length, self._message.timeout_s, self._bodies.ignore_answer())
        self._settle(self._message.id, Unanswered(self._message.id, why))
