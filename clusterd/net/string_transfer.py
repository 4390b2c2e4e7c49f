"""Sends a small long string to a peer (wire.md 4.4): three requests in a row; sync hears only the end."""

from typing import Protocol

from clusterd.errors import ClusterError
from clusterd.messages.links import Answered, GiveString, Unanswered
from clusterd.net.link import Link
from clusterd.wire import commands
from clusterd.wire.events import Sink
from clusterd.wire.payloads import build_words, parse_task_id
from clusterd.wire.results import decode_err_payload
from ipc.descriptor import Descriptor


class TransferOwner(Protocol):
    """The part of the bridge that this needs."""

    def settle(self, request_id: int, message: Answered | Unanswered) -> None: ...

    def lend(self, bodies: list[Sink]) -> list[Descriptor] | None: ...

    def drop(self, bodies: list[Sink]) -> None: ...


class StringTransfer:
    """`number`: the request that waits for its response, so that it can be withdrawn."""

    __slots__ = ("_message", "_owner", "_step", "_string_id", "link", "number")

    def __init__(self, owner: TransferOwner, link: Link, message: GiveString) -> None:
        self._owner = owner
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
            self._owner.settle(message.id, Answered(message.id, command, payload, self._owner.lend(bodies)))
            return
        self._owner.drop(bodies)
        try:
            self._go_on(command, payload)
        except ClusterError as refusal:
            self._owner.settle(message.id, Unanswered(message.id, "string", str(refusal)))

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
        self._owner.settle(self._message.id, Unanswered(self._message.id, why))
