"""Unfinished divided messages (wire.md 2.4), bounded in number, bytes and sinks (R3)."""

from typing import TYPE_CHECKING

from clusterd.wire.frame import Header

if TYPE_CHECKING:  # programs of the local socket have none
    from clusterd.wire.events import Sink

MAX_DIVIDED = 16
"""How many divided messages may be unfinished at a time on one connection."""
MAX_SINKS = 16
"""Default limit for the sinks of all unfinished divided messages of one connection."""


class DividedMessage:
    """One unfinished message: full sinks, followed by the bytes that do not fill one yet. `total`: bytes so far."""

    __slots__ = ("sinks", "tail", "total")

    def __init__(self) -> None:
        self.sinks: list[Sink] = []
        self.tail = bytearray()
        self.total = 0

    def wants_sink(self, head: Header, inline_limit: int) -> bool:
        """Whether the piece is read into a sink (together with the tail before it). After a full sink everything ends
        in a sink too, so that a large message is a list of sinks and nothing else."""
        waiting = len(self.tail) + head.length
        return waiting > inline_limit or (not head.divided and bool(self.sinks) and waiting > 0)

    def add_small(self, piece: bytes) -> None:
        self.tail += piece
        self.total += len(piece)

    def add_sink(self, sink: "Sink", length: int) -> None:
        """A sink was filled with the tail and a piece of `length` bytes."""
        self.sinks.append(sink)
        self.tail = bytearray()
        self.total += length


class DividedMessages:
    """The unfinished messages of one connection, by counter."""

    __slots__ = ("_messages",)

    def __init__(self) -> None:
        self._messages: dict[int, DividedMessage] = {}

    def find(self, counter: int) -> DividedMessage | None:
        return self._messages.get(counter)

    def admit(self, head: Header, limit: int, max_sinks: int) -> str | None:
        """Accounts for an announced piece; the first piece of a message opens it. `limit`: bytes of all messages.
        Returns the text of a violation, or None."""
        if head.divided and head.counter not in self._messages:
            if len(self._messages) == MAX_DIVIDED:
                return f"more than {MAX_DIVIDED} divided messages are unfinished"
            self._messages[head.counter] = DividedMessage()
        if sum(message.total for message in self._messages.values()) + head.length > limit:
            return f"divided messages with more than {limit} bytes are unfinished"
        if sum(len(message.sinks) for message in self._messages.values()) >= max_sinks:
            return f"divided messages with more than {max_sinks} large pieces are unfinished"
        return None

    def finish(self, counter: int) -> DividedMessage:
        """The last piece has arrived: removes and returns the message."""
        return self._messages.pop(counter)

    def sizes(self) -> dict[int, int]:
        """Bytes received of each message."""
        return {counter: message.total for counter, message in self._messages.items()}

    @property
    def has_sinks(self) -> bool:
        return any(message.sinks for message in self._messages.values())

    def take_sinks(self) -> "list[Sink]":
        """The connection has ended: forgets everything."""
        sinks = [sink for message in self._messages.values() for sink in message.sinks]
        self._messages.clear()
        return sinks
