"""Connections for tests, and the ways to feed them."""

from collections.abc import Sequence
from typing import Any

from clusterd.wire.connection import Connection, heap_sink
from clusterd.wire.events import Event, RequestReceived, SealedRequest, Sink
from clusterd.wire.frame import build_header
from clusterd.wire.seal import Sealer
from tests.wire.vectors import sealer_of

KEY = b"c98b62a9b6169ac5f67dae55ae4a9088"
SEALER = Sealer(KEY)


def master(**options: Any) -> Connection:
    return Connection("master", options.pop("sealer", SEALER), counter_start=1000, **options)


def worker(**options: Any) -> Connection:
    return Connection("worker", options.pop("sealer", SEALER), counter_start=2**31, **options)


def local_server(**options: Any) -> Connection:
    return Connection("local-server", None, counter_start=7, **options)


def of_key(key: str | None, **options: Any) -> Connection:
    return local_server(**options) if key is None else master(sealer=sealer_of(key), **options)


def opened_body(connection: Connection, bodies: Sequence[Sink]) -> bytes:
    """Returns the plain bytes of a sealed event, which net leaves to pool processes."""
    parts = [sink.view for sink in bodies]
    return b"".join(parts) if connection._sealer is None else connection._sealer.open_parts(parts)


def opened(connection: Connection, event: Event) -> tuple[int, str, bytes]:
    """Returns counter, command and payload of a request, large or not."""
    if isinstance(event, SealedRequest):
        return event.counter, event.command, opened_body(connection, event.bodies)
    assert isinstance(event, RequestReceived)
    return event.counter, event.command, event.payload


def read_as_a_transport_does(connection: Connection, data: bytes, chunk: int) -> list[Event]:
    """Feeds data through next_buffer and buffer_filled, at most `chunk` bytes for each read."""
    events: list[Event] = []
    position = 0
    while position < len(data) and not connection.stalled:
        room = connection.next_buffer()
        taken = min(len(room), chunk, len(data) - position)
        room[:taken] = data[position : position + taken]
        position += taken
        events += connection.buffer_filled(taken)
    return events


class Slabs:
    """An allocator with few slabs, which records what it gave out."""

    def __init__(self, count: int) -> None:
        self.free = count
        self.given: list[int] = []

    def __call__(self, length: int) -> Sink | None:
        if self.free == 0:
            return None
        self.free -= 1
        self.given.append(length)
        return heap_sink(length)


def divided(counter: int, body: bytes, sizes: list[int], command: str = "echo") -> list[bytes]:
    """Returns frames with bodies of these sizes; the last one takes the rest."""
    frames, position = [], 0
    for size in sizes:
        frames.append(build_header(counter, size, command, True) + body[position : position + size])
        position += size
    return [*frames, build_header(counter, len(body) - position, command, False) + body[position:]]
