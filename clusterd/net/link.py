"""One transport that drives one `wire.Connection`: bytes in and out, slabs, flow control in both directions.

A link knows no commands. It passes requests to its owner (listen, dial or local) and responses to their askers, and
writes what it is given. All methods are called from net's loop.
"""

import asyncio
import secrets
import socket
import time
from collections.abc import Sequence
from typing import Any, Protocol, cast

from clusterd.listening.addresses import network_of
from clusterd.messages.links import LinkInfo
from clusterd.net.asking import AnswerTaker, IgnoreAnswer
from clusterd.net.context import NetContext, ToSync
from clusterd.net.outbox import Outbox, OutboxEntry
from clusterd.net.pulse import SILENT_S, Pulse
from clusterd.net.reading import HELD_SLABS, Reading
from clusterd.net.sent_requests import SentRequests
from clusterd.net.writing import Writing
from clusterd.wire import commands
from clusterd.wire.commands import Role
from clusterd.wire.connection import Connection
from clusterd.wire.events import (
    Discarded,
    Event,
    RequestReceived,
    ResponseReceived,
    SealedRequest,
    SealedResponse,
    Sink,
    Violation,
)
from clusterd.wire.seal import Sealer

WRITE_STALL_S = 60.0
"""A peer that does not take a slice (256 KiB) within this time occupies slabs that others need."""
SHORT_S = 10.0
"""While other links wait for room, a link that has room must receive 256 KiB within this time."""
FLUSH_S = 2.0


class LinkOwner(Protocol):
    """The owner of a link: listen, dial or local."""

    def made(self, link: "Link") -> None:
        """The transport is connected."""

    def request(self, link: "Link", counter: int, command: str, payload: bytes, bodies: list[Sink]) -> None:
        """A request of the peer. `bodies`: a large sealed body, whose slabs the owner owns from here on."""

    def violated(self, link: "Link", violation: Violation) -> None:
        """The peer violated the protocol; the link is dead."""

    def lost(self, link: "Link", reason: str) -> None:
        """The transport has ended. `reason` is empty for a regular end."""


class Link(asyncio.BufferedProtocol):
    """The owner sets `kind`, `name`, `tag`, `known` (commands), `uid` and `pid`; the bridge sets `info`, `serials`
    (requests that sync has) and `continued` (how many of them were answered, and more follows). `number` never changes.
    `up_since`: monotonic time of the connection; `heard_at`: time of the last keepalive, by the clock of time awake."""

    def __init__(
        self, context: NetContext, sync: ToSync, owner: LinkOwner, role: Role, sealer: Sealer | None, number: int
    ) -> None:
        self._context = context
        self._owner = owner
        self._meter = context.meter
        self.number = number
        self.kind = ""
        self.name = ""
        self.tag = ""
        self.address = ""
        self.port = 0
        self.uid = -1
        self.pid = 0
        self.known: frozenset[str] = frozenset()
        self.connected_at = context.clock.wall()
        self.keepalive_at = self.connected_at
        self.up_since, self.heard_at = context.clock.monotonic(), context.clock.awake()
        self.info: LinkInfo | None = None
        self.serials: set[int] = set()
        self.continued = 0
        self.is_lost = False
        self._transport: asyncio.Transport | None = None
        self._outbox = Outbox()
        self._reading = Reading(context.clock)
        self._writing = Writing(context, sync, self._outbox, self.hold, self.let_go)
        self._stalled_at: float | None = None
        self._reason = ""
        self.given_up_s = 0.0
        """How long nothing had come, of a link that ends for that."""
        self._limit_timer: asyncio.TimerHandle | None = None
        self._pulse: Pulse | None = None
        self._bytes_in = 0
        self._connection = Connection(
            role,
            sealer,
            counter_start=secrets.randbits(32),
            allocate=self._allocate,
            divided_sinks=context.slabs.per_link,
            scratch=context.scratch,
            land=context.slabs.land,
        )
        self._sent = SentRequests(self._connection, self._outbox)

    # ---- what peers may send -----------------------------------------------------------------------------------------

    def allow(self, body_bytes: int, divided_bytes: int) -> None:
        """Sets the size limits of frames and divided messages; small before hello, so that a stranger gets no slab."""
        self._connection.body_limit = body_bytes
        self._connection.divided_limit = divided_bytes

    def allow_divided(self, divided_bytes: int) -> None:
        """What a reload has changed."""
        self._connection.divided_limit = divided_bytes

    def _allocate(self, length: int) -> Sink | None:
        return self._context.slabs.sink(self.number, length, network_of(self.address))

    @property
    def is_made(self) -> bool:
        """Whether a transport was ever connected."""
        return self._transport is not None

    @property
    def socket(self) -> socket.socket:
        """The transport's socket; there must be a transport."""
        assert self._transport is not None
        return cast(socket.socket, self._transport.get_extra_info("socket"))

    # ---- the transport -----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = self._writing.transport = cast(asyncio.Transport, transport)
        # No bytes may stay in the transport's own buffer unnoticed: slabs are returned when it is empty. TLS compares
        # with "at least", TCP with "more than".
        secure = transport.get_extra_info("sslcontext") is not None
        self._transport.set_write_buffer_limits(high=1 if secure else 0, low=0)
        self._owner.made(self)

    @property
    def missing(self) -> int:
        """Outstanding bytes of the large body being received; 0 without one."""
        return self._connection.missing

    def get_buffer(self, sizehint: int) -> Any:
        return self._connection.next_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        began = time.thread_time_ns()
        meter, connection = self._meter, self._connection
        frames = connection.frames_in
        meter.bytes_in += nbytes
        self._bytes_in += nbytes
        self._handle(connection.buffer_filled(nbytes))
        meter.frames_in += connection.frames_in - frames
        meter.worked(began)

    def connection_lost(self, exc: Exception | None) -> None:
        began = time.thread_time_ns()
        self.is_lost = True
        context = self._context
        now = context.clock.awake()
        if self._limit_timer is not None:
            self._limit_timer.cancel()
        context.slabs.forget(self.number)
        context.slabs.drop(self._connection.close(), now)
        self._writing.end()
        self._connection.take_waiting()
        context.asking.discard(self)
        context.beating.discard(self)
        for asker in self._sent.close():
            asker.unanswered("closed")
        self._owner.lost(self, self._reason or ("" if exc is None else str(exc) or type(exc).__name__))
        self._meter.worked(began)

    def pause_writing(self) -> None:
        self._writing.pause()

    def resume_writing(self) -> None:
        began = time.thread_time_ns()
        self._writing.resume()
        self._meter.worked(began)

    # ---- receiving ---------------------------------------------------------------------------------------------------

    def _handle(self, events: Sequence[Event]) -> None:
        for event in events:
            match event:
                case RequestReceived():
                    self._meter.requests += 1
                    if not self._is_refusal(event.command):
                        self._owner.request(self, event.counter, event.command, event.payload, [])
                case ResponseReceived():
                    asker = self._sent.take(event.request_id)
                    if asker is not None:
                        asker.answered(event.command, event.payload, [])
                case SealedRequest():
                    self._meter.requests += 1
                    if self._is_refusal(event.command):
                        self._context.slabs.drop(event.bodies, self._context.clock.awake())
                    else:
                        self._owner.request(self, event.counter, event.command, b"", event.bodies)
                case SealedResponse():
                    asker = self._sent.take(event.request_id)
                    if asker is not None:
                        asker.answered(event.command, b"", event.bodies)
                    else:
                        self._context.slabs.drop(event.bodies, self._context.clock.awake())
                case Discarded():
                    self._context.slabs.drop(event.bodies, self._context.clock.awake())
                case Violation():
                    self._owner.violated(self, event)
        if self._connection.stalled and not self._connection.dead:
            self._stalled_at = self._stalled_at or self._context.clock.awake()
            self.hold(HELD_SLABS)
            self._context.slabs.wait(self.number, self._room_again)
        self._writing.pump()

    def _is_refusal(self, command: str) -> bool:
        """An `err` that answers nothing of ours: drop it, or two nodes would refuse each other's refusals for ever. On
        the local socket it is a request like any other."""
        return command == commands.ERR and not self._connection.role.startswith("local")

    def _room_again(self) -> None:
        """A slab may be free for the stalled body."""
        self._stalled_at = None
        self._handle(self._connection.retry_allocate())
        if not self._connection.stalled:
            self.let_go(HELD_SLABS)

    def hold(self, why: int) -> None:
        """Stops reading from this peer."""
        self._reading.hold(why, self._transport)

    def let_go(self, why: int) -> None:
        """Removes one reason; reads again if it was the last."""
        # A keepalive may lie unread.
        self.heard_at += self._reading.let_go(why, None if self.is_lost else self._transport)

    @property
    def is_held(self) -> bool:
        """Whether this link is not being read."""
        return self._reading.is_held

    @property
    def is_held_by_us(self) -> bool:
        """See Reading."""
        return self._reading.is_held_by_us

    # ---- sending -----------------------------------------------------------------------------------------------------

    def respond(self, counter: int, command: str, payload: bytes) -> None:
        """Answers a request of the peer. Does nothing on a link that has ended."""
        if self.is_lost:
            return
        frames = self._connection.respond(counter, command, payload)
        self._meter.frames_out += len(frames)
        self._outbox.add_first(frames)
        self._writing.pump_later()

    def respond_body(self, counter: int, command: str, views: Sequence[memoryview], slabs: Sequence[int]) -> None:
        """The same with an already sealed body in slabs, which are returned when it is written."""
        if self.is_lost:
            self._writing.report_unneeded(list(slabs))
            return
        pieces = self._connection.respond_sealed(counter, command, sum(len(view) for view in views))
        self._meter.frames_out += len(pieces)
        self._outbox.add_body(pieces, views, slabs)
        self._writing.pump_later()

    def ask(self, command: str, payload: bytes, timeout_s: float, asker: AnswerTaker) -> int | None:
        """Sends a request. Returns None on a link that has ended (the asker is told "closed"). Raises ClusterError for
        a command that cannot be sent."""
        if self.is_lost:
            asker.unanswered("closed")
            return None
        number, frames = self._connection.request(command, payload, self._context.clock.awake(), timeout_s)
        self._meter.frames_out += len(frames)
        entry = self._outbox.add(frames)
        self._remember(number, command, entry, asker, timeout_s)
        return number

    def ask_body(
        self, command: str, views: Sequence[memoryview], slabs: Sequence[int], timeout_s: float, asker: AnswerTaker
    ) -> int | None:
        """The same with a sealed body in slabs, which are returned in every case."""
        if self.is_lost:
            self._writing.report_unneeded(list(slabs))
            asker.unanswered("closed")
            return None
        length = sum(len(view) for view in views)
        number, pieces = self._connection.request_sealed(command, length, self._context.clock.awake(), timeout_s)
        self._meter.frames_out += len(pieces)
        entry = self._outbox.add_body(pieces, views, slabs)
        self._remember(number, command, entry, asker, timeout_s)
        return number

    def _remember(self, number: int, command: str, entry: OutboxEntry, asker: AnswerTaker, timeout_s: float) -> None:
        self._sent.add(number, command, entry, asker, timeout_s)
        self._context.asking.add(self)
        self._writing.pump_later()

    def withdraw(self, number: int) -> None:
        """Forgets a request: nobody waits for its response any more."""
        self._writing.report_unneeded(self._sent.withdraw(number))

    def expire(self, now: float) -> None:
        """Ends the requests whose time is over."""
        for asker, slabs, why in self._sent.expire(now, now - self._writing.blocked_s(now)):
            self._writing.report_unneeded(slabs)
            asker.unanswered(why)
        if not self._sent:
            self._context.asking.discard(self)

    # ---- ending ------------------------------------------------------------------------------------------------------

    def abort(self, reason: str) -> None:
        """Closes the transport immediately. `lost` follows."""
        self._reason = self._reason or reason
        if self._transport is not None:
            self._transport.abort()

    def close(self, reason: str = "") -> None:
        """Writes what is queued, then closes; aborts if the peer does not take it within FLUSH_S."""
        if self._transport is None or self.is_lost:
            return
        self._reason = self._reason or reason
        self._writing.closing = True
        self.end_by(FLUSH_S, reason)
        self._writing.pump()

    def end_by(self, seconds: float, reason: str) -> None:
        """Aborts in `seconds` unless the link has ended by then."""
        if self._limit_timer is not None:
            self._limit_timer.cancel()
        self._limit_timer = asyncio.get_running_loop().call_later(seconds, self.abort, reason)

    def go_on(self) -> None:
        """Cancels the ending (a second hello was accepted)."""
        if self._limit_timer is not None:
            self._limit_timer.cancel()
            self._limit_timer = None

    def expect_pulse(self, expected: bool) -> None:
        """Whether both ends have agreed to send something every few seconds."""
        if not expected:
            self._pulse = None
            self._context.beating.discard(self)
        elif self._pulse is None and not self.is_lost:
            self._pulse = Pulse(self._context.clock.monotonic())
            self._context.beating.add(self)

    @property
    def has_pulse(self) -> bool:
        return self._pulse is not None

    @property
    def silent_s(self) -> float:
        """How long a peer that has agreed to pulses has sent nothing; else 0."""
        return 0.0 if self._pulse is None else self._pulse.silent_s

    def beat(self, now: float) -> None:
        """Called twice a second: sends the pulse, and ends a link whose peer sends none."""
        pulse = self._pulse
        if pulse is None or self._writing.closing:
            return
        pulse.beat(now, self._bytes_in, self._writing.sent_bytes, is_read=not self._reading.is_held)
        if pulse.is_lost:
            self.given_up_s = SILENT_S
            self.abort(f"nothing has come from the peer for {SILENT_S:g} seconds")
        elif pulse.is_due and not self._outbox:
            self.ask(commands.ECHO, commands.PULSE, SILENT_S, IgnoreAnswer(self._context))

    def check(self, now: float, timeout_s: float) -> None:
        """Ends a link whose peer has begun a message and does not continue, or takes no data."""
        violation = None
        # Two links that wait for more room while they keep theirs could wait for each other.
        stalled_s = min(timeout_s, SHORT_S) if self._connection.holds_room else timeout_s
        if self._context.slabs.is_short:
            timeout_s = min(timeout_s, SHORT_S)
        if not self._reading.is_held:
            # Time in which we did not read does not count against the peer.
            violation = self._connection.check_progress(now - self._reading.paused_s, timeout_s)
        if violation is not None:
            self._owner.violated(self, violation)
        elif self._writing.blocked_s(now) > WRITE_STALL_S:
            self.abort(f"the peer has taken no data for {WRITE_STALL_S:g} seconds")
        elif self._stalled_at is not None and now - self._stalled_at > stalled_s:
            self.abort(f"there was no room for a large message for {stalled_s:g} seconds")
