"""What a Connection reports. Frozen values; the order of a list of events is the order of the bytes.

Small bodies come opened (`payload`). Large ones come as they arrived, sealed, in the sinks that the connection's
`allocate` gave out (`bodies`, in order; concatenated they are one sealed body): from the event on they belong to whoever
receives it, who gives their room back.
"""

from collections.abc import Callable

import msgspec


class Sink(msgspec.Struct, frozen=True, eq=False):
    """Room for one body. `view`: writable, of exactly the length asked for. `token`: whatever its owner knows it by."""

    view: memoryview
    token: object = None


Allocate = Callable[[int], Sink | None]
"""Gives a sink for a body of so many bytes, or None when there is no room now (the connection then stalls)."""


Land = Callable[[Sink], Sink | None]
"""Gives the sink in which the bytes of a full one go on (the same one, or one they were copied to), or None when there is no
room for them now (the connection then stalls)."""


class RequestReceived(msgspec.Struct, frozen=True):
    """The peer asks. Answer with `Connection.respond(counter, ...)`."""

    counter: int
    command: str
    payload: bytes


class SealedRequest(msgspec.Struct, frozen=True):
    """The peer asks, with a large body."""

    counter: int
    command: str
    bodies: list[Sink]


class ResponseReceived(msgspec.Struct, frozen=True):
    """The answer to our request `request_id`."""

    request_id: int
    command: str
    payload: bytes


class SealedResponse(msgspec.Struct, frozen=True):
    """The answer to our request `request_id`, large."""

    request_id: int
    command: str
    bodies: list[Sink]


class Discarded(msgspec.Struct, frozen=True):
    """A large answer came after its request had expired. Nobody wants it; its sinks are free again."""

    bodies: list[Sink]


class Violation(msgspec.Struct, frozen=True):
    """The peer broke the protocol. The connection is dead: drop the transport, answer nothing, and collect the sinks it
    still holds with `Connection.close()`. `code`: 3025 for a body that does not open (wire.md 1.2), else 0. `text` says
    what happened; it never quotes a body."""

    code: int
    text: str


Event = RequestReceived | SealedRequest | ResponseReceived | SealedResponse | Discarded | Violation
