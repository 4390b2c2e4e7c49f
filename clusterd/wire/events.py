"""What a Connection reports. Frozen values; a list of events has the order of the bytes.

Small bodies arrive opened (`payload`). Large ones arrive sealed, in the sinks that the connection's `allocate` returned
(`bodies`, in order; concatenated they are one sealed body). The receiver of the event owns these sinks and must release
them.
"""

from collections.abc import Callable

import msgspec


class Sink(msgspec.Struct, frozen=True, eq=False):
    """Memory for one body. `view`: writable, of exactly the requested length. `token`: the owner's own
    identification."""

    view: memoryview
    token: object = None


Allocate = Callable[[int], Sink | None]
"""Returns a sink for a body of that many bytes, or None when there is no room now (the connection then stalls)."""


Land = Callable[[Sink], Sink | None]
"""Returns the sink that a full one is passed on in (the same, or a copy), or None when there is no room for it now (the
connection then stalls)."""


class RequestReceived(msgspec.Struct, frozen=True):
    """A request of the peer. Answer it with `Connection.respond(counter, ...)`."""

    counter: int
    command: str
    payload: bytes


class SealedRequest(msgspec.Struct, frozen=True):
    """A request of the peer with a large body."""

    counter: int
    command: str
    bodies: list[Sink]


class ResponseReceived(msgspec.Struct, frozen=True):
    """The answer to our request `request_id`."""

    request_id: int
    command: str
    payload: bytes


class SealedResponse(msgspec.Struct, frozen=True):
    """The large answer to our request `request_id`."""

    request_id: int
    command: str
    bodies: list[Sink]


class Discarded(msgspec.Struct, frozen=True):
    """A large answer that came after its request had expired. Nobody wants it; its sinks are free again."""

    bodies: list[Sink]


class Violation(msgspec.Struct, frozen=True):
    """The peer violated the protocol. The connection is dead: abort the transport, answer nothing, and collect the
    sinks it still holds with `Connection.close()`. `code`: 3025 for a body that does not open (wire.md 1.2), else 0.
    `text` says what happened; it never quotes a body."""

    code: int
    text: str


Event = RequestReceived | SealedRequest | ResponseReceived | SealedResponse | Discarded | Violation
