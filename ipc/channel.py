"""ZeroMQ sockets over ipc://, typed and bounded. Made after the fork, by the process that uses them.

Nothing is dropped silently: a full queue makes `send` wait, and a receiver that is unknown or stays full is NoCredit.
"""

import asyncio
import contextlib
import os
from typing import Any, Generic, TypeVar

import zmq
import zmq.asyncio

from ipc.codec import Decoder, encode
from ipc.errors import NoCredit

M = TypeVar("M")
SEND_TIMEOUT_S = 10.0
RECONNECT_MS = 50
RECONNECT_MAX_MS = 500


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


class RouterChannel(Generic[M]):
    """The side that binds. Peers are known by the identity they chose; a new connection takes over an old one's."""

    def __init__(self, path: str, decoder: Decoder[M], hwm: int) -> None:
        self._path = path
        self._decoder = decoder
        self._context: zmq.asyncio.Context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.set(zmq.LINGER, 0)
        self._socket.set(zmq.SNDHWM, hwm)
        self._socket.set(zmq.RCVHWM, hwm)
        self._socket.set(zmq.ROUTER_MANDATORY, 1)
        self._socket.set(zmq.ROUTER_HANDOVER, 1)
        _unlink(path)
        self._socket.bind(f"ipc://{path}")

    async def recv(self) -> tuple[bytes, M]:
        """The next message and who sent it. Raises BadMessage for bytes that are none."""
        identity, data = await self._socket.recv_multipart()
        return identity, self._decoder.decode(data)

    async def send(self, identity: bytes, message: Any) -> None:
        """Hand a message over. Raises NoCredit if nobody of this identity is there, or it makes no room in time."""
        data = encode(message)
        deadline = asyncio.get_running_loop().time() + SEND_TIMEOUT_S
        while True:
            try:
                # With ROUTER_MANDATORY a full peer is EAGAIN, which the awaitable send of pyzmq would wait on for ever.
                await self._socket.send_multipart([identity, data], flags=zmq.NOBLOCK)
            except zmq.Again:
                if asyncio.get_running_loop().time() >= deadline:
                    raise NoCredit(f"{identity.decode()} takes no messages") from None
                await asyncio.sleep(0.002)
            except zmq.ZMQError as failure:
                if failure.errno == zmq.EHOSTUNREACH:
                    raise NoCredit(f"{identity.decode()} is not connected") from None
                raise
            else:
                return

    def close(self) -> None:
        """Close the socket, end the context, remove the file."""
        self._socket.close(0)
        self._context.term()
        _unlink(self._path)


class DealerChannel(Generic[M]):
    """The side that connects, again and again. What is sent while the other side is away waits, up to `hwm` messages."""

    def __init__(self, path: str, identity: bytes, decoder: Decoder[M], hwm: int) -> None:
        self._decoder = decoder
        self._context: zmq.asyncio.Context = zmq.asyncio.Context()
        self._socket = _dealer(self._context, path, identity, hwm)

    async def recv(self) -> M:
        """The next message. Raises BadMessage for bytes that are none."""
        return self._decoder.decode(await self._socket.recv())

    async def send(self, message: Any) -> None:
        """Hand a message over; waits while the queue is full. Raises NoCredit after SEND_TIMEOUT_S."""
        try:
            async with asyncio.timeout(SEND_TIMEOUT_S):
                await self._socket.send(encode(message))
        except TimeoutError:
            raise NoCredit("the other side takes no messages") from None

    def close(self) -> None:
        self._socket.close(0)
        self._context.term()


class WorkerSocket(Generic[M]):
    """A dealer without a loop, for pool processes: one message at a time."""

    def __init__(self, path: str, identity: bytes, decoder: Decoder[M], hwm: int = 16) -> None:
        self._decoder = decoder
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = _dealer(self._context, path, identity, hwm)

    def recv(self, timeout_s: float) -> M | None:
        """The next message, or None when none came in time. Raises BadMessage."""
        if not self._socket.poll(int(timeout_s * 1000)):
            return None
        return self._decoder.decode(self._socket.recv())

    def send(self, message: Any) -> None:
        """Hand a message over. Raises NoCredit when the other side takes none for SEND_TIMEOUT_S."""
        self._socket.set(zmq.SNDTIMEO, int(SEND_TIMEOUT_S * 1000))
        try:
            self._socket.send(encode(message))
        except zmq.Again:
            raise NoCredit("the other side takes no messages") from None

    def close(self) -> None:
        self._socket.close(0)
        self._context.term()


def _dealer(context: Any, path: str, identity: bytes, hwm: int) -> Any:
    socket = context.socket(zmq.DEALER)
    socket.set(zmq.LINGER, 0)
    socket.set(zmq.SNDHWM, hwm)
    socket.set(zmq.RCVHWM, hwm)
    socket.set(zmq.IDENTITY, identity)
    socket.set(zmq.RECONNECT_IVL, RECONNECT_MS)
    socket.set(zmq.RECONNECT_IVL_MAX, RECONNECT_MAX_MS)
    socket.connect(f"ipc://{path}")
    return socket
