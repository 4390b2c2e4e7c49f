"""One connection of the cluster protocol, without I/O: bytes to events, requests and responses to bytes (wire.md 2, 3).

The owner of the transport asks `next_buffer` where to read to, reads, and passes the number of bytes to
`buffer_filled`, which returns events. Bodies up to `inline_limit` bytes are opened here. A larger body is read straight
into a sink and passed on sealed. If there is no sink for it the connection stalls: stop reading, and call
`retry_allocate` when there may be room.

Any input has one of two outcomes: events, or a Violation, after which the connection is dead.
"""

import struct
from typing import TYPE_CHECKING

from clusterd.errors import ClusterError
from clusterd.wire.commands import RESPONSES, Role
from clusterd.wire.divided import MAX_SINKS, DividedMessages
from clusterd.wire.events import (
    Allocate,
    Discarded,
    Event,
    Land,
    RequestReceived,
    ResponseReceived,
    SealedRequest,
    SealedResponse,
    Sink,
    Violation,
)
from clusterd.wire.foreign import foreign_text, protocol_of
from clusterd.wire.frame import (
    HEADER,
    HEADER_BYTES,
    REQUEST_CHUNK,
    Header,
    Piece,
    command_field,
    frames_of,
    parse_field,
    pieces_of,
)
from clusterd.wire.request_table import RequestTable
from clusterd.wire.token import BadSeal, sealed_length

if TYPE_CHECKING:  # programs of the local socket load no cryptography
    from clusterd.wire.seal import Sealer

INLINE_LIMIT = 65536
READ_BYTES = 65536
MIN_PROGRESS = 262144
"""Bytes by which an unfinished body must grow in each period of `check_progress`."""


class NoRoom(Exception):
    """The connection is stalled and takes no bytes before `retry_allocate` has succeeded. A bug of the caller."""


def heap_sink(length: int) -> Sink:
    """An `allocate` that always has room, for tests and small programs."""
    return Sink(memoryview(bytearray(length)))


class Connection:
    """Bytes, order and counters of one connection. `role` is our end of it.

    One link owns it and is its only caller. Fixed: role, sealer. Changeable between reads: `body_limit`,
    `divided_limit` (small before hello, so that a stranger gets no sink). The request id is the counter.
    """

    __slots__ = (
        "_allocate",
        "_box",
        "_divided",
        "_filled",
        "_head",
        "_held",
        "_land",
        "_marks",
        "_partial",
        "_scratch",
        "_sealer",
        "_sink",
        "_undivided",
        "body_limit",
        "dead",
        "divided_limit",
        "divided_sinks",
        "frames_in",
        "frames_out",
        "inline_limit",
        "role",
        "stalled",
    )

    def __init__(
        self,
        role: Role,
        sealer: "Sealer | None",
        *,
        counter_start: int,
        allocate: Allocate = heap_sink,
        inline_limit: int = INLINE_LIMIT,
        body_limit: int | None = None,
        divided_limit: int = 41943040,
        divided_sinks: int = MAX_SINKS,
        scratch: memoryview | None = None,
        land: Land | None = None,
    ) -> None:
        """`sealer`: None on the local socket. `body_limit`: largest body of a frame, by default the largest that a
        stock peer sends undivided. `divided_limit`: bytes of all unfinished divided messages; `divided_sinks`: sinks
        they may hold, at most as many as `allocate` gives one connection, or it could wait for itself. A sink has at
        most `inline_limit` + `body_limit` bytes. `scratch`: buffer for small frames; the connections of one process may
        share one if each read is followed by its `buffer_filled` before the next read. `land`: returns the sink in
        which a full sink is passed on."""
        if (sealer is None) != role.startswith("local"):
            raise ValueError("only the local socket is without a sealer")
        self.role = role
        self._sealer = sealer
        self._undivided = REQUEST_CHUNK if sealer is None else sealed_length(REQUEST_CHUNK)
        self._allocate = allocate
        self._land = land
        self.inline_limit = inline_limit
        self.body_limit = self._undivided if body_limit is None else body_limit
        self.divided_limit = divided_limit
        self.divided_sinks = divided_sinks
        self._scratch = memoryview(bytearray(READ_BYTES)) if scratch is None else scratch
        self._box = RequestTable(counter_start)
        self._head: Header | None = None
        self._partial = bytearray()
        self._sink: Sink | None = None
        self._filled = 0
        self._held = b""
        self._divided = DividedMessages()
        self._marks: dict[int, tuple[int, float]] = {}
        self.stalled = False
        self.dead = False
        self.frames_in = 0
        self.frames_out = 0

    # ---- receiving ---------------------------------------------------------------------------------------------------

    def next_buffer(self) -> memoryview:
        """The memory that the transport may write to next, never empty. Raises NoRoom while stalled."""
        if self.stalled:
            raise NoRoom
        if self._sink is not None:
            return self._sink.view[self._filled :]
        return self._scratch

    def buffer_filled(self, count: int) -> list[Event]:
        """Takes the `count` bytes that the transport has written to the beginning of `next_buffer()`; returns
        events."""
        events: list[Event] = []
        if self.dead:
            return events
        if self._sink is None:
            self._consume(self._scratch[:count], events)
        else:
            self._filled += count
            if self._filled == len(self._sink.view):
                self._sink_full(self._sink, events)
        return events

    def receive(self, data: bytes | bytearray | memoryview) -> list[Event]:
        """Takes bytes from elsewhere (tests, small programs). Raises NoRoom while stalled."""
        if self.stalled:
            raise NoRoom
        events: list[Event] = []
        if not self.dead:
            self._consume(memoryview(data), events)
        return events

    def retry_allocate(self) -> list[Event]:
        """Tries again to allocate. Reading may continue if `stalled` is false afterwards."""
        events: list[Event] = []
        if self.stalled and not self.dead:
            held, self._held, self.stalled = self._held, b"", False
            sink = self._sink
            if sink is not None and self._filled == len(sink.view):
                self._sink_full(sink, events)
            if self.stalled:
                self._held = held
            elif not self.dead:
                self._consume(memoryview(held), events)
        return events

    def check_progress(self, now: float, timeout_s: float) -> Violation | None:
        """Call periodically. A frame or divided message that was begun and grew by less than MIN_PROGRESS bytes in
        `timeout_s` is a Violation: it holds our memory, and its peer may never finish it (wire.md R3)."""
        if self.dead or self.stalled:
            self._marks = {}
            return None
        marks: dict[int, tuple[int, float]] = {}
        for key, size in self._unfinished().items():
            mark = self._marks.get(key)
            if mark is None or size - mark[0] >= MIN_PROGRESS:
                mark = (size, now)
            elif now - mark[1] >= timeout_s:
                self.dead = True
                return Violation(0, f"a message was begun and not continued for {timeout_s:g} seconds")
            marks[key] = mark
        self._marks = marks
        return None

    @property
    def holds_room(self) -> bool:
        """Whether unfinished divided messages hold sinks, which only more bytes of this peer can free."""
        return self._divided.has_sinks

    @property
    def missing(self) -> int:
        """Outstanding bytes of the sink being filled; 0 without one."""
        return 0 if self._sink is None else len(self._sink.view) - self._filled

    def close(self) -> list[Sink]:
        """The transport has ended. Returns the sinks of unfinished bodies, whose memory is free again."""
        self.dead = True
        sinks = self._divided.take_sinks()
        if self._sink is not None:
            sinks.append(self._sink)
        self._sink, self._head, self._held = None, None, b""
        self._partial = bytearray()
        return sinks

    def _consume(self, view: memoryview, events: list[Event]) -> None:
        """Reads frames by state: a header, then its body, however the bytes are cut (wire.md C1)."""
        position, end = 0, len(view)
        while True:
            head = self._head
            if head is None:
                if self._partial:
                    taken = view[position : position + HEADER_BYTES - len(self._partial)]
                    self._partial += taken
                    position += len(taken)
                    if len(self._partial) < HEADER_BYTES:
                        return
                    fields = HEADER.unpack(self._partial)
                    self._partial = bytearray()
                elif end - position >= HEADER_BYTES:
                    fields = HEADER.unpack_from(view, position)
                    position += HEADER_BYTES
                else:
                    self._partial += view[position:]
                    return
                command, divided = parse_field(fields[2])
                head = Header(fields[0], fields[1], command, divided)
                if not self._admit(head, events):
                    return
            sink = self._sink
            if sink is None and self._wants_sink(head):
                sink = self._begin_sink(head)
                if sink is None:
                    self._head, self._held, self.stalled = head, bytes(view[position:]), True
                    return
            if sink is not None:
                self._head = head
                stop = min(end, position + len(sink.view) - self._filled)
                sink.view[self._filled : self._filled + stop - position] = view[position:stop]
                self._filled += stop - position
                position = stop
                if self._filled < len(sink.view):
                    return
                self._sink_full(sink, events)
                if self.stalled:
                    self._held = bytes(view[position:])
                    return
            else:
                have = len(self._partial)
                stop = position + head.length - have
                if stop > end:
                    self._head = head
                    self._partial += view[position:]
                    return
                body = bytes(view[position:stop])
                position = stop
                if have:
                    body = bytes(self._partial) + body
                    self._partial = bytearray()
                self._head = None
                self._small_body(head, body, events)
            if position == end or self.dead:
                return

    def _admit(self, head: Header, events: list[Event]) -> bool:
        """Whether the announced body is within our limits; no memory is reserved before this check (wire.md R1, R3)."""
        if head.length > self.body_limit:
            other = protocol_of(struct.pack(">II", head.counter, head.length)) if not self.frames_in else None
            if other is not None:
                return self._violate(foreign_text(other, is_ours=self.role == "master"), events)
            return self._violate(f"a frame announces {head.length} bytes, more than {self.body_limit}", events)
        if head.divided or self._divided.find(head.counter) is not None:
            text = self._divided.admit(head, self.divided_limit, self.divided_sinks)
            if text is not None:
                return self._violate(text, events)
        return True

    def _wants_sink(self, head: Header) -> bool:
        message = self._divided.find(head.counter)
        return head.length > self.inline_limit if message is None else message.wants_sink(head, self.inline_limit)

    def _begin_sink(self, head: Header) -> Sink | None:
        """Allocates room for the body, preceded by the tail of its divided message."""
        message = self._divided.find(head.counter)
        tail = message.tail if message is not None else b""
        length = len(tail) + head.length
        sink = self._allocate(length)
        if sink is None:
            return None
        if len(sink.view) != length:
            raise ValueError(f"allocate gave {len(sink.view)} bytes for {length}")
        sink.view[: len(tail)] = tail
        self._sink, self._filled = sink, len(tail)
        return sink

    def _sink_full(self, sink: Sink, events: list[Event]) -> None:
        head = self._head
        assert head is not None
        if self._land is not None:
            landed = self._land(sink)
            if landed is None:
                self.stalled = True
                return
            sink = landed
        self._sink, self._head, self._filled = None, None, 0
        self.frames_in += 1
        message = self._divided.find(head.counter)
        if message is None:
            self._report(head, None, [sink], events)
            return
        message.add_sink(sink, head.length)
        if not head.divided:
            self._report(head, None, self._divided.finish(head.counter).sinks, events)

    def _small_body(self, head: Header, body: bytes, events: list[Event]) -> None:
        self.frames_in += 1
        message = self._divided.find(head.counter)
        if message is not None:
            message.add_small(body)
            if head.divided:
                return
            self._divided.finish(head.counter)
            if message.sinks:
                self._report(head, None, message.sinks, events)
                return
            body = bytes(message.tail)
        if self._sealer is not None:
            try:
                body = self._sealer.open(body)
            except BadSeal:
                self.dead = True
                events.append(Violation(3025, str(ClusterError(3025))))
                return
        self._report(head, body, [], events)

    def _report(self, head: Header, payload: bytes | None, bodies: list[Sink], events: list[Event]) -> None:
        """Request or response is decided by the command together with the counter (wire.md C2)."""
        settled = self._box.settle(head.counter) if head.command in RESPONSES else None
        if settled is None:
            self._box.peer_used(head.counter)
            if payload is None:
                events.append(SealedRequest(head.counter, head.command, bodies))
            else:
                events.append(RequestReceived(head.counter, head.command, payload))
        elif not settled:
            if bodies:
                events.append(Discarded(bodies))
        elif payload is None:
            events.append(SealedResponse(head.counter, head.command, bodies))
        else:
            events.append(ResponseReceived(head.counter, head.command, payload))

    def _violate(self, text: str, events: list[Event]) -> bool:
        self.dead = True
        events.append(Violation(0, text))
        return False

    def _unfinished(self) -> dict[int, int]:
        """Bytes received of each divided message (by counter) and of the frame in progress (by a negative key)."""
        sizes = self._divided.sizes()
        if self._head is not None or self._partial:
            current = self._filled + len(self._partial)
            sizes[-1 - self.frames_in] = current
            if self._head is not None and self._head.counter in sizes:
                sizes[self._head.counter] += current
        return sizes

    # ---- sending -----------------------------------------------------------------------------------------------------

    def request(self, command: str, payload: bytes, now: float, timeout_s: float) -> tuple[int, list[bytes]]:
        """Builds a request: its id and its frames, each to be given to the transport in one write, in order.

        Raises ClusterError 3024 for a command that is too long. ResponseReceived or SealedResponse answers it; `expire`
        names it when `timeout_s` has passed.
        """
        frames, counter = self._build(None, command, payload, now + timeout_s)
        return counter, frames

    def respond(self, counter: int, command: str, payload: bytes) -> list[bytes]:
        """The frames of the response to the peer's request `counter`."""
        return self._build(counter, command, payload, 0)[0]

    def request_sealed(self, command: str, length: int, now: float, timeout_s: float) -> tuple[int, list[Piece]]:
        """Builds a request whose sealed body of `length` bytes lies elsewhere: each piece's header is written together
        with the first bytes of its part of the body."""
        command_field(command)  # a command that cannot be sent opens no box entry
        counter = self._box.open(now + timeout_s)
        return counter, self.respond_sealed(counter, command, length)

    def respond_sealed(self, counter: int, command: str, length: int) -> list[Piece]:
        """The same for the response to the peer's request `counter`."""
        pieces = list(pieces_of(counter, command, length, divide=length > self._undivided))
        self.frames_out += len(pieces)
        return pieces

    def put_off(self, request_id: int, deadline: float) -> None:
        """The request has not been sent yet: its time is not over before `deadline`."""
        self._box.put_off(request_id, deadline)

    def expire(self, now: float) -> list[int]:
        """Returns the requests whose time is over (3020). Late answers are dropped."""
        return self._box.expire(now)

    def forget(self, request_id: int) -> None:
        """Forgets a request: nobody waits for its answer any more."""
        self._box.forget(request_id)

    def next_deadline(self) -> float | None:
        """When `expire` is next due; None when no request waits."""
        return self._box.next_deadline()

    def take_waiting(self) -> list[int]:
        """Removes and returns the requests that wait for an answer: the connection has ended."""
        return self._box.take_all()

    @property
    def waiting(self) -> int:
        """How many of our requests wait for an answer."""
        return len(self._box)

    def _build(self, counter: int | None, command: str, payload: bytes, deadline: float) -> tuple[list[bytes], int]:
        body = payload if self._sealer is None else self._sealer.seal(payload)
        if counter is None:
            command_field(command)  # a command that cannot be sent opens no box entry
            counter = self._box.open(deadline)
        frames = frames_of(counter, command, body, divide=len(payload) > REQUEST_CHUNK)
        self.frames_out += len(frames)
        return frames, counter
