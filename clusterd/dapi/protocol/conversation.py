"""A client's side of the local socket (dapi.md 1.4, 1.12): one question, and everything that the node sends until it is
answered. No socket in here."""

import random
from collections.abc import Iterable

from clusterd.errors import ClusterError
from clusterd.wire import commands
from clusterd.wire.connection import Connection
from clusterd.wire.events import (
    Event,
    RequestReceived,
    ResponseReceived,
    SealedRequest,
    SealedResponse,
    Violation,
)
from clusterd.wire.payloads import parse_length, split_word
from clusterd.wire.results import decode_err_payload, encode_failure
from clusterd.wire.transfer import Strings

MOST_STRING_BYTES = 256 * 1024 * 1024
MOST_STRINGS = 16
NEVER_S = 1e9
_LATER = frozenset({commands.DAPI, commands.DAPI_FWD, commands.SEND_FILE, commands.SENDASYNC})
"""Commands whose reply is not the answer; nor is SENT_TO_MASTER (dapi.md 1.3)."""


class Misunderstood(Exception):
    """The node does not follow the protocol; the text tells how."""


class Conversation:
    """`replied`: the immediate reply has arrived. `answer` or `failure`: the outcome, once there is one. Methods return
    the bytes to send; the caller sends them."""

    def __init__(self, command: str, payload: bytes) -> None:
        self._connection = Connection(
            "local-client", None, counter_start=random.getrandbits(32), divided_limit=MOST_STRING_BYTES
        )
        self._command = command
        self._payload = payload
        self._request: int | None = None
        self._strings: Strings[bytearray] = Strings(
            max_bytes=MOST_STRING_BYTES,
            max_count=MOST_STRINGS,
            idle_s=NEVER_S,
            pick_id=lambda: random.getrandbits(32),
        )
        self.replied = False
        self.answer: bytes | None = None
        self.failure: ClusterError | None = None

    @property
    def is_over(self) -> bool:
        """Tells whether the outcome is known. Bytes that were returned with it should still be sent."""
        return self.answer is not None or self.failure is not None

    def begin(self, now: float, timeout_s: float) -> list[bytes]:
        """Returns the frames of the question. Raises ClusterError 3024."""
        self._request, frames = self._connection.request(self._command, self._payload, now, timeout_s)
        return list(frames)

    def keepalive(self, now: float) -> list[bytes]:
        """Returns the keepalive, to be sent every minute of waiting (dapi.md 1.2)."""
        _, frames = self._connection.request(commands.ECHO_C, commands.KEEPALIVE, now, NEVER_S)
        return list(frames)

    def receive(self, data: bytes) -> list[bytes]:
        """Takes in received bytes and returns the bytes to send. Raises Misunderstood."""
        out: list[bytes] = []
        for event in self._connection.receive(data):
            out += self._on(event)
        return out

    def _on(self, event: Event) -> Iterable[bytes]:
        match event:
            case ResponseReceived(request_id=number, command=command, payload=content):
                self._on_response(number, command, content)
            case SealedResponse(request_id=number, command=command, bodies=bodies):
                self._on_response(number, command, b"".join(bytes(body.view) for body in bodies))
            case RequestReceived(counter=counter, command=command, payload=content):
                return self._on_request(counter, command, content)
            case SealedRequest(counter=counter, command=command, bodies=bodies):
                return self._on_request(counter, command, b"".join(bytes(body.view) for body in bodies))
            case Violation(text=text):
                raise Misunderstood(text)
        return ()

    def _on_response(self, number: int, command: str, content: bytes) -> None:
        if number != self._request:
            return  # to a keepalive
        self.replied = True
        if command == commands.ERR:
            self.failure = decode_err_payload(content)
        elif self._command not in _LATER and content != commands.SENT_TO_MASTER:
            self.answer = content

    def _on_request(self, counter: int, command: str, content: bytes) -> Iterable[bytes]:
        """Answers the node as stock clients do."""
        try:
            reply = self._reply_to(command, content)
        except ClusterError as refusal:
            return self._connection.respond(counter, commands.ERR, encode_failure(refusal))
        if reply is None:
            return self._connection.respond(counter, commands.ERR, commands.unknown_command_text(command))
        return self._connection.respond(counter, commands.OK, reply)

    def _reply_to(self, command: str, content: bytes) -> bytes | None:
        match command:
            case commands.NEW_STR:
                return self._strings.begin(parse_length(content), bytearray(), 0.0).id.encode()
            case commands.STR_UPD:
                name, data = split_word(content)
                string = self._strings.find(name)
                string.place.extend(data[: string.accept(len(data), 0.0)])
                return commands.STRING_UPDATED
            case commands.ERR_STR:
                dropped = self._strings.abandon(parse_length(content))
                return b"None" if dropped is None else dropped.id.encode()
            case commands.DAPI_RES | commands.SEND_F_RES:
                if content.startswith(b"Error"):
                    self.failure = decode_err_payload(content)
                else:
                    self.answer = bytes(self._strings.take(content.decode(errors="replace")).place)
                return commands.DAPI_RESPONSE_RECEIVED
            case commands.CONTROL_RES | commands.OK:
                self.answer = content
                return commands.RESPONSE_RECEIVED
            case commands.DAPI_ERR | commands.ERR:
                self.failure = decode_err_payload(content)
                return commands.RESPONSE_RECEIVED
            case _:
                return None
