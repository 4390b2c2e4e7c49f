"""A client's side of the local socket (dapi.md 1.4, 1.12): one question, and everything that the node sends until it is
answered. No socket in here."""

import os
from typing import TYPE_CHECKING

from clusterd.errors import ClusterError
from clusterd.wire import commands
from clusterd.wire.plain_connection import PlainConnection

if TYPE_CHECKING:
    from clusterd.wire.transfer import Strings

MOST_STRING_BYTES = 256 * 1024 * 1024
MOST_STRINGS = 16
_NEVER_S = 1e9
_LATER = frozenset({commands.DAPI, commands.DAPI_FWD, commands.SEND_FILE, commands.SENDASYNC})
"""Commands whose reply is not the answer; nor is SENT_TO_MASTER (dapi.md 1.3)."""


class Conversation:
    """`replied`: the immediate reply has arrived. `answer` or `failure`: the outcome, once there is one. Methods return
    the bytes to send; the caller sends them.

    What only long answers, refusals and requests of the node need is loaded when one comes: most questions of commands
    have a short answer, and loading it takes longer than asking."""

    def __init__(self, command: str, payload: bytes) -> None:
        self._connection = PlainConnection(_random(), MOST_STRING_BYTES)
        self._command = command
        self._payload = payload
        self._request: int | None = None
        self._strings: Strings[bytearray] | None = None
        self.replied = False
        self.answer: bytes | None = None
        self.failure: ClusterError | None = None

    @property
    def is_over(self) -> bool:
        """Tells whether the outcome is known. Bytes that were returned with it should still be sent."""
        return self.answer is not None or self.failure is not None

    def begin(self) -> list[bytes]:
        """Returns the frames of the question. Raises ClusterError 3024."""
        self._request, frames = self._connection.request(self._command, self._payload)
        return frames

    def keepalive(self) -> list[bytes]:
        """Returns the keepalive, to be sent every minute of waiting (dapi.md 1.2)."""
        return self._connection.request(commands.ECHO_C, commands.KEEPALIVE)[1]

    def receive(self, data: bytes) -> list[bytes]:
        """Takes in received bytes and returns the bytes to send. Raises Misunderstood."""
        out: list[bytes] = []
        for message in self._connection.receive(data):
            if message.is_response:
                self._on_response(message.counter, message.command, message.payload)
            else:
                out += self._on_request(message.counter, message.command, message.payload)
        return out

    def _on_response(self, number: int, command: str, content: bytes) -> None:
        if number != self._request:
            return  # to a keepalive
        self.replied = True
        if command == commands.ERR:
            self._fail(content)
        elif self._command not in _LATER and content != commands.SENT_TO_MASTER:
            self.answer = content

    def _fail(self, content: bytes) -> None:
        from clusterd.wire.results import decode_err_payload

        self.failure = decode_err_payload(content)

    def _on_request(self, counter: int, command: str, content: bytes) -> list[bytes]:
        """Answers the node as stock clients do."""
        try:
            reply = self._reply_to(command, content)
        except ClusterError as refusal:
            from clusterd.wire.results import encode_failure

            return self._connection.respond(counter, commands.ERR, encode_failure(refusal))
        if reply is None:
            return self._connection.respond(counter, commands.ERR, commands.unknown_command_text(command))
        return self._connection.respond(counter, commands.OK, reply)

    def _reply_to(self, command: str, content: bytes) -> bytes | None:
        match command:
            case commands.NEW_STR | commands.STR_UPD | commands.ERR_STR:
                return self._on_string(command, content)
            case commands.DAPI_RES | commands.SEND_F_RES:
                if content.startswith(b"Error"):
                    self._fail(content)
                else:
                    self.answer = bytes(self._kept_strings().take(content.decode(errors="replace")).place)
                return commands.DAPI_RESPONSE_RECEIVED
            case commands.CONTROL_RES | commands.OK:
                self.answer = content
                return commands.RESPONSE_RECEIVED
            case commands.DAPI_ERR | commands.ERR:
                self._fail(content)
                return commands.RESPONSE_RECEIVED
            case _:
                return None

    def _on_string(self, command: str, content: bytes) -> bytes:
        from clusterd.wire.payloads import parse_length, split_word

        strings = self._kept_strings()
        match command:
            case commands.NEW_STR:
                return strings.begin(parse_length(content), bytearray(), 0.0).id.encode()
            case commands.STR_UPD:
                name, data = split_word(content)
                string = strings.find(name)
                string.place.extend(data[: string.accept(len(data), 0.0)])
                return commands.STRING_UPDATED
            case _:
                dropped = strings.abandon(parse_length(content))
                return b"None" if dropped is None else dropped.id.encode()

    def _kept_strings(self) -> "Strings[bytearray]":
        if self._strings is None:
            from clusterd.wire.transfer import Strings

            self._strings = Strings(
                max_bytes=MOST_STRING_BYTES, max_count=MOST_STRINGS, idle_s=_NEVER_S, pick_id=_random
            )
        return self._strings


def _random() -> int:
    """A random number of 32 bits; the module `random` would be loaded for this alone."""
    return int.from_bytes(os.urandom(4))
