"""A program's end of the local socket: bytes to messages and back, nothing sealed, nothing shared (wire.md 2, 3).

`Connection` can do more (seals, sinks in shared memory, stalls), and loading what that needs takes longer than a
command takes to ask.
"""

from typing import NamedTuple

from clusterd.wire.commands import RESPONSES
from clusterd.wire.divided import DividedMessages
from clusterd.wire.frame import HEADER_BYTES, REQUEST_CHUNK, Header, command_field, frames_of, parse_header
from clusterd.wire.request_table import RequestTable


class Misunderstood(Exception):
    """The node does not follow the protocol; the text tells how."""


class LocalMessage(NamedTuple):
    """One message of the node: the response to our request `counter`, or a request of its own."""

    counter: int
    command: str
    payload: bytes
    is_response: bool


class PlainConnection:
    """One connection, without a socket. Its caller sends what the methods return, in order."""

    def __init__(self, counter_start: int, divided_limit: int) -> None:
        """`divided_limit`: most bytes of all unfinished divided messages."""
        self._requests = RequestTable(counter_start)
        self._divided_limit = divided_limit
        self._divided = DividedMessages()
        self._data = bytearray()
        self._head: Header | None = None

    def request(self, command: str, payload: bytes) -> tuple[int, list[bytes]]:
        """Returns the counter of a new request, and its frames. Raises ClusterError 3024."""
        command_field(command)  # a command that cannot be sent opens no request
        counter = self._requests.open(0.0)
        return counter, self.respond(counter, command, payload)

    def respond(self, counter: int, command: str, payload: bytes) -> list[bytes]:
        """Returns the frames of the response to the node's request `counter`."""
        return frames_of(counter, command, payload, divide=len(payload) > REQUEST_CHUNK)

    def receive(self, data: bytes) -> list[LocalMessage]:
        """Takes in received bytes. Raises Misunderstood, after which the connection is of no use."""
        self._data += data
        found: list[LocalMessage] = []
        while True:
            if self._head is None:
                if len(self._data) < HEADER_BYTES:
                    return found
                self._head = self._admitted(parse_header(bytes(self._data[:HEADER_BYTES])))
            stop = HEADER_BYTES + self._head.length
            if len(self._data) < stop:
                return found
            with memoryview(self._data) as view:
                body = bytes(view[HEADER_BYTES:stop])
            del self._data[:stop]
            head, self._head = self._head, None
            whole = self._put_together(head, body)
            if whole is not None:
                found.append(self._message(head, whole))

    def _admitted(self, head: Header) -> Header:
        if head.length > REQUEST_CHUNK:
            raise Misunderstood(f"a frame announces {head.length} bytes, more than {REQUEST_CHUNK}")
        if head.divided or self._divided.find(head.counter) is not None:
            text = self._divided.admit(head, self._divided_limit, 1)  # without sinks no message has any
            if text is not None:
                raise Misunderstood(text)
        return head

    def _put_together(self, head: Header, body: bytes) -> bytes | None:
        """Returns the whole body, None while pieces of it are missing."""
        message = self._divided.find(head.counter)
        if message is None:
            return body
        message.add_small(body)
        return None if head.divided else bytes(self._divided.finish(head.counter).tail)

    def _message(self, head: Header, payload: bytes) -> LocalMessage:
        """A response is told by its command together with the counter (wire.md C2)."""
        is_response = head.command in RESPONSES and self._requests.settle(head.counter) is not None
        if not is_response:
            self._requests.peer_used(head.counter)
        return LocalMessage(head.counter, head.command, payload, is_response)
