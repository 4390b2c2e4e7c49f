"""ZeroMQ sockets over ipc://, typed and bounded. Made after the fork, by the process that uses them.

Messages that wait for the same receiver travel together, a frame each: one system call and one wake-up for all of them.

Nothing is dropped silently: `send` waits for a full queue, and raises NoCredit for a receiver that is unknown or stays
full.

Messages that a process has not read when it dies are lost with it, and so are those it has sent and nobody has read.
Neither the successor of a dead router nor that of a dead dealer gets messages meant for the dead one, and nobody
receives a dead process's messages after the new one's.

These are plain sockets on the loop's own readiness callback, not zmq.asyncio: one message costs a third less and many
cost two thirds less (14 instead of 46 us of CPU), and a cancelled `recv` loses no message, since nothing is awaited
while one is held.
"""

import asyncio
import contextlib
import os
import time
from collections import defaultdict, deque
from typing import Any, Generic, TypeVar

import zmq

from ipc.codec import Decoder, encode
from ipc.errors import BadMessage, NoCredit

M = TypeVar("M")
SEND_TIMEOUT_S = 10.0
FULL_POLL_S = (0.001, 0.02)
"""Shortest and longest pause between attempts to send to a full queue. ZeroMQ cannot say which peer of a ROUTER has
room."""
RECONNECT_MS = 20
RECONNECT_MAX_MS = 200
BURST = 32
"""Messages received in a row before the loop's other work gets its turn."""
WORKER_HWM = 16
LONGEST_PATH = 107

# As plain numbers: pyzmq's enums cost more than the calls they are passed to.
_NOBLOCK = int(zmq.NOBLOCK)
_POLLIN = int(zmq.POLLIN)


def make_context() -> "zmq.Context[zmq.Socket[bytes]]":
    """A context for the channels of one process; call `term` when they are closed."""
    return zmq.Context()


class _Socket:
    """A socket on an event loop. `receive` and `send` never block the loop."""

    def __init__(
        self, context: "zmq.Context[zmq.Socket[bytes]] | None", socket: "zmq.Socket[bytes]", *, is_router: bool = False
    ) -> None:
        """`context`: terminated with the socket, unless it is shared."""
        self._context = context
        self._socket = socket
        self._is_router = is_router
        self._unread: deque[tuple[bytes, bytes]] = deque()
        self._fd = int(socket.get(zmq.FD))
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiters: set[asyncio.Future[None]] = set()
        self._burst = 0

    async def receive(self) -> tuple[bytes, bytes]:
        """The next message, and on a router its sender."""
        self._burst += 1
        if self._burst >= BURST:
            self._burst = 0
            await asyncio.sleep(0)
        while not self._unread:
            try:
                frames = self._socket.recv_multipart(_NOBLOCK)
            except zmq.Again:
                self._burst = 0
                await self._wait_readable()
                continue
            identity = frames.pop(0) if self._is_router else b""
            self._unread.extend((identity, frame) for frame in frames)
        return self._unread.popleft()

    async def send(self, frames: list[bytes], turn: asyncio.Lock, who: str) -> None:
        """One send at a time for each receiver, so that a message waiting for room is not overtaken."""
        deadline = time.monotonic() + SEND_TIMEOUT_S
        pause, longest = FULL_POLL_S
        async with turn:
            while True:
                try:
                    self._socket.send_multipart(frames, _NOBLOCK)
                except zmq.Again:
                    # A peer that died with a full queue stays "full" until its pending messages have been read.
                    self._wake()
                    if time.monotonic() >= deadline:
                        raise NoCredit(f"{who} takes no messages") from None
                except zmq.ZMQError as failure:
                    if failure.errno == zmq.EHOSTUNREACH:
                        raise NoCredit(f"{who} is not connected") from None
                    raise
                else:
                    return
                finally:
                    if self._waiters:
                        # Sending may have consumed the signal that a message has arrived.
                        self._wake()
                await asyncio.sleep(pause)
                pause = min(pause * 1.5, longest)

    def close(self) -> None:
        """Cancels a waiting `receive`. May be called twice."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._fd)
        self._loop = None
        for waiter in self._waiters:
            waiter.cancel()
        self._socket.close(0)
        if self._context is not None:
            self._context.term()

    async def _wait_readable(self) -> None:
        """The descriptor signals changes, not states: wait on it only after a receive that found nothing."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._loop.add_reader(self._fd, self._wake)
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)

    def _wake(self) -> None:
        # Asking for the events resets the descriptor, so ask even when nobody waits.
        if int(self._socket.get(zmq.EVENTS)) & _POLLIN:
            for waiter in self._waiters:
                if not waiter.done():
                    waiter.set_result(None)


class RouterChannel(Generic[M]):
    """The side that binds. Peers are known by the identity they chose; a new connection replaces an old one with the
    same identity."""

    def __init__(
        self,
        path: str,
        decoder: Decoder[M],
        hwm: int,
        context: "zmq.Context[zmq.Socket[bytes]] | None" = None,
        *,
        announces: bool = False,
    ) -> None:
        """Binds at `path`, replacing any file there. `context`: shared with other channels of the process and
        terminated by its maker; each context costs two threads and five descriptors. `announces`: sends an empty frame
        to each new connection; for WorkerSockets only. Raises ValueError for a path that is too long, OSError (of zmq)
        if it cannot be bound."""
        self._path = path
        self._decoder = decoder
        self._turns: defaultdict[bytes, asyncio.Lock] = defaultdict(asyncio.Lock)
        own = None if context is not None else zmq.Context()
        context = context or own or zmq.Context()
        socket = context.socket(zmq.ROUTER)
        try:
            _bound(socket, hwm)
            socket.set(zmq.ROUTER_MANDATORY, 1)
            socket.set(zmq.ROUTER_HANDOVER, 1)
            if announces:
                socket.set(zmq.PROBE_ROUTER, 1)
            _unlink(path)
            socket.bind(_address(path))
        except BaseException:
            socket.close(0)
            if own is not None:
                own.term()
            raise
        self._socket = _Socket(own, socket, is_router=True)

    async def recv(self) -> tuple[bytes, M]:
        """The next message and its sender. Raises BadMessage for bytes that are no message.

        When a process has taken over the identity of a dead one, unread messages of the dead process would arrive under
        an identity made up by ZeroMQ, after the new one's hello. They are dropped here: nothing from an earlier life is
        believed."""
        while True:
            identity, data = await self._socket.receive()
            if not identity.startswith(b"\0"):
                return identity, self._decoder.decode(data)

    async def send(self, identity: bytes, *messages: Any) -> None:
        """Sends messages, all or none. Raises NoCredit if no peer has this identity or it makes no room within
        SEND_TIMEOUT_S. Messages to one identity keep the order of the calls. A call cancelled while it waits has sent
        nothing."""
        who = identity.decode(errors="replace")
        await self._socket.send([identity, *map(encode, messages)], self._turns[identity], who)

    def close(self) -> None:
        """Closes the socket, terminates the context, removes the file."""
        self._socket.close()
        _unlink(self._path)


class DealerChannel(Generic[M]):
    """The side that connects and reconnects. Only `send` waits for a router that is away."""

    def __init__(self, path: str, identity: bytes, decoder: Decoder[M], hwm: int) -> None:
        """Raises ValueError for a path that is too long."""
        self._decoder = decoder
        self._turn = asyncio.Lock()
        address = _address(path)
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        socket = _dealer(context, identity, hwm)
        socket.connect(address)
        self._socket = _Socket(context, socket)

    async def recv(self) -> M:
        """The next message. Raises BadMessage for bytes that are no message."""
        return self._decoder.decode((await self._socket.receive())[1])

    async def send(self, *messages: Any) -> None:
        """Sends messages, all or none; waits for a router and for room. Raises NoCredit after SEND_TIMEOUT_S. Messages
        keep the order of the calls. A call cancelled while it waits has sent nothing."""
        await self._socket.send([*map(encode, messages)], self._turn, "the other side")

    def close(self) -> None:
        self._socket.close()


class WorkerSocket(Generic[M]):
    """A dealer without an event loop, for pool processes: one message at a time. Its router `announces`.

    `connections` counts the routers reached. It grows when the router was replaced: say hello again."""

    def __init__(self, path: str, identity: bytes, decoder: Decoder[M]) -> None:
        """Raises ValueError for a path that is too long."""
        self._decoder = decoder
        self.connections = 0
        address = _address(path)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = _dealer(self._context, identity, WORKER_HWM)
        self._socket.set(zmq.SNDTIMEO, int(SEND_TIMEOUT_S * 1000))
        self._socket.connect(address)

    def recv(self, timeout_s: float) -> M | None:
        """The next message; None when none arrived in time, or when a router was reached. Raises BadMessage. Signal
        handlers run meanwhile; only an exception of theirs ends the wait."""
        if not self._socket.poll(int(timeout_s * 1000)):
            return None
        data = _only(self._socket.recv_multipart())
        if not data:
            self.connections += 1
            return None
        return self._decoder.decode(data)

    def send(self, message: Any) -> None:
        """Sends a message; waits for a router and for room. Raises NoCredit after SEND_TIMEOUT_S: a result that cannot
        be sent has no receiver any more."""
        try:
            self._socket.send(encode(message))
        except zmq.Again:
            raise NoCredit("the other side takes no messages") from None

    def close(self) -> None:
        """May be called twice."""
        self._socket.close(0)
        self._context.term()


def _dealer(context: "zmq.Context[zmq.Socket[bytes]]", identity: bytes, hwm: int) -> "zmq.Socket[bytes]":
    socket = context.socket(zmq.DEALER)
    _bound(socket, hwm)
    socket.set(zmq.IDENTITY, identity)
    socket.set(zmq.RECONNECT_IVL, RECONNECT_MS)
    socket.set(zmq.RECONNECT_IVL_MAX, RECONNECT_MAX_MS)
    # Without this, messages queued for a dead router would go to its successor.
    socket.set(zmq.IMMEDIATE, 1)
    return socket


def _bound(socket: "zmq.Socket[bytes]", hwm: int) -> None:
    """Nothing is kept for dead peers, and no queue is longer than this."""
    socket.set(zmq.LINGER, 0)
    socket.set(zmq.SNDHWM, hwm)
    socket.set(zmq.RCVHWM, hwm)


def _only(frames: list[bytes]) -> bytes:
    if len(frames) != 1:
        raise BadMessage(f"a message has one frame, not {len(frames)}")
    return frames[0]


def _address(path: str) -> str:
    if len(os.fsencode(path)) > LONGEST_PATH:
        raise ValueError(f"a socket path has at most {LONGEST_PATH} bytes: {path}")
    return f"ipc://{path}"


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
