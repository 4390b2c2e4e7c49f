"""The channel between sync and the pool: framed messages over a Unix socket. Made after the fork, by the process that
uses it.

Not ZeroMQ, as between net and sync: a pool process has one job at a time, so there is nothing to queue, and a socket
costs it one descriptor where ZeroMQ takes seven and two threads.

A frame is its length (4 bytes, big endian) and a message; the first one of a connection is the name of the process.
Neither the successor of a dead sync nor that of a dead pool process gets what was meant for the dead one, and nobody
receives a dead process's messages after its successor's first.
"""

import asyncio
import contextlib
import os
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from ipc.channel import BURST, checked_path
from ipc.codec import Decoder, encode
from ipc.errors import BadMessage, NoCredit

M = TypeVar("M")
GREET_TIMEOUT_S = 10.0
ASK_S = 1.0
RECONNECT_S = (0.02, 0.2)
"""Shortest and longest pause between attempts to reach sync."""
LARGEST = 256 * 1024 * 1024
"""Of one message. They hold no file's bytes, but the rows of many files."""
MOST_UNREAD = 64
"""Messages of one process that wait to be read; then no more are taken from its socket."""
MOST_UNSENT = 64 * 1024 * 1024
"""Bytes that a process has not taken. It has one job at a time, so this is one that reads nothing."""
_READ = 256 * 1024
_HEAD = struct.Struct("!I")


class JobChannel(Generic[M]):
    """Sync's side, on its event loop. Processes are known by their names; a new connection replaces an old one with the
    same name."""

    def __init__(self, path: str, decoder: Decoder[M]) -> None:
        """Binds at `path`, replacing any file there. Raises ValueError for a path that is too long, OSError if it
        cannot be bound."""
        self._path = checked_path(path)
        self._decoder = decoder
        self._loop = asyncio.get_running_loop()
        self._named: dict[bytes, _PoolConnection] = {}
        self._open: set[_PoolConnection] = set()
        self._unread: deque[tuple[_PoolConnection, bytes]] = deque()
        self._waiters: set[asyncio.Future[None]] = set()
        self._burst = 0
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            _unlink(path)
            self._listener.bind(path)
            self._listener.listen(128)
        except BaseException:
            self._listener.close()
            raise
        self._listener.setblocking(False)
        self._loop.add_reader(self._listener.fileno(), self._accept)

    async def recv(self) -> tuple[bytes, M]:
        """The next message and the name of its process. Raises BadMessage for bytes that are no message."""
        self._burst += 1
        if self._burst >= BURST:
            self._burst = 0
            await asyncio.sleep(0)
        while True:
            while self._unread:
                connection, frame = self._unread.popleft()
                connection.taken()
                if not connection.is_replaced:  # nothing from an earlier life is believed
                    return connection.name, self._decoder.decode(frame)
            self._burst = 0
            waiter: asyncio.Future[None] = self._loop.create_future()
            self._waiters.add(waiter)
            try:
                await waiter
            finally:
                self._waiters.discard(waiter)

    def send(self, name: bytes, message: Any) -> None:
        """Sends a message. Raises NoCredit if no process has this name, or it takes nothing."""
        connection = self._named.get(name)
        if connection is None:
            raise NoCredit(f"{name.decode(errors='replace')} is not connected")
        connection.send(_framed(encode(message)))

    def close(self) -> None:
        """Cancels a waiting `recv`, closes the sockets, removes the file. May be called twice."""
        if self._listener.fileno() < 0:
            return
        self._loop.remove_reader(self._listener.fileno())
        self._listener.close()
        for connection in list(self._open):
            connection.close()
        for waiter in self._waiters:
            waiter.cancel()
        _unlink(self._path)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # it has gone again
            own, _ = self._listener.accept()
            self._open.add(_PoolConnection(self, own, self._loop))

    # ---- for connections ---------------------------------------------------------------------------------------------

    def named(self, connection: "_PoolConnection") -> None:
        earlier = self._named.get(connection.name)
        if earlier is not None:
            earlier.is_replaced = True
            earlier.close()
        self._named[connection.name] = connection

    def arrived(self, connection: "_PoolConnection", frame: bytes) -> None:
        self._unread.append((connection, frame))
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def lost(self, connection: "_PoolConnection") -> None:
        self._open.discard(connection)
        if self._named.get(connection.name) is connection:
            del self._named[connection.name]


class _PoolConnection:
    """One process's connection. What it has said before it closed is still read, unless a successor has come."""

    def __init__(self, channel: JobChannel[Any], own: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        self.name = b""
        self.is_replaced = False
        self._channel = channel
        self._socket = own
        self._loop = loop
        self._received = bytearray()
        self._unsent = bytearray()
        self._unread = 0
        self._is_reading = True
        own.setblocking(False)
        loop.add_reader(own.fileno(), self._readable)

    def send(self, frame: bytes) -> None:
        if len(self._unsent) > MOST_UNSENT:
            raise NoCredit(f"{self.name.decode(errors='replace')} takes no messages")
        if self._unsent:
            self._unsent += frame
            return
        try:
            sent = self._socket.send(frame)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            raise NoCredit(f"{self.name.decode(errors='replace')} is not connected") from None
        if sent < len(frame):
            self._unsent += frame[sent:]
            self._loop.add_writer(self._socket.fileno(), self._writable)

    def taken(self) -> None:
        """One of its messages was read."""
        self._unread -= 1
        if not self._is_reading and self._unread < MOST_UNREAD and self._socket.fileno() >= 0:
            self._is_reading = True
            self._loop.add_reader(self._socket.fileno(), self._readable)

    def close(self) -> None:
        fd = self._socket.fileno()
        if fd >= 0:
            self._loop.remove_reader(fd)
            self._loop.remove_writer(fd)
            self._socket.close()
            self._channel.lost(self)

    def _writable(self) -> None:
        try:
            del self._unsent[: self._socket.send(self._unsent)]
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        if not self._unsent:
            self._loop.remove_writer(self._socket.fileno())

    def _readable(self) -> None:
        try:
            data = self._socket.recv(_READ)
            self._received += data
            for frame in _whole_frames(self._received):
                self._heard(frame)
        except BlockingIOError:
            return
        except (OSError, BadMessage):  # what sends no frames is no process of ours
            data = b""
        if not data:
            self.close()

    def _heard(self, frame: bytes) -> None:
        if not self.name:
            self.name = frame
            self._channel.named(self)
            return
        self._unread += 1
        if self._unread >= MOST_UNREAD and self._is_reading:
            self._is_reading = False
            self._loop.remove_reader(self._socket.fileno())
        self._channel.arrived(self, frame)


class WorkerSocket(Generic[M]):
    """A pool process's side, without an event loop: one message at a time. Reconnects by itself.

    `connections` counts the syncs reached. It grows when sync was replaced: say hello again."""

    def __init__(self, path: str, name: bytes, decoder: Decoder[M]) -> None:
        """Raises ValueError for a path that is too long."""
        self._path = checked_path(path)
        self._name = name
        self._decoder = decoder
        self._socket: socket.socket | None = None
        self._received = bytearray()
        self._frames: deque[bytes] = deque()
        self.connections = 0

    def recv(self, timeout_s: float) -> M | None:
        """The next message; None when none arrived in time, or when a sync was reached. Raises BadMessage. Signal
        handlers run meanwhile; only an exception of theirs ends the wait."""
        deadline = time.monotonic() + timeout_s
        while not self._frames:
            if self._socket is None:
                self._connect(deadline)
                return None
            if not _wait(self._socket, select.POLLIN, deadline - time.monotonic()):
                return None
            self._read(self._socket)
        return self._decoder.decode(self._frames.popleft())

    def greet(self, message: Any) -> None:
        """Sends the first message to a sync; waits for one and for room. Raises NoCredit after GREET_TIMEOUT_S, and
        when sync is gone."""
        deadline = time.monotonic() + GREET_TIMEOUT_S
        if self._socket is None and not self._connect(deadline):
            raise NoCredit("sync is not there")
        self._write(encode(message), lambda: time.monotonic() < deadline)

    def send(self, message: Any, is_wanted: Callable[[], bool]) -> None:
        """Sends a message to the sync that has given the job, as long as it takes. `is_wanted` is asked every second of
        a wait for room. Raises NoCredit when that sync is gone, or the message is not wanted: a result that cannot be
        sent has no receiver any more."""
        if self._socket is None:
            raise NoCredit("sync is gone")
        self._write(encode(message), is_wanted)

    def close(self) -> None:
        """May be called twice."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._received.clear()
        self._frames.clear()

    def _connect(self, deadline: float) -> bool:
        """Whether a sync was reached before the deadline."""
        pause, longest = RECONNECT_S
        while True:
            own = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                own.connect(self._path)
                own.setblocking(False)
                self._socket = own
                self._write(self._name, lambda: False)
            except (OSError, NoCredit):
                self.close()
                own.close()
            else:
                self.connections += 1
                return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(pause, left))
            pause = min(pause * 1.5, longest)

    def _read(self, own: socket.socket) -> None:
        """All that has come. Of a sync that is gone nothing is heeded."""
        try:
            while data := own.recv(_READ):
                self._received += data
                self._frames.extend(_whole_frames(self._received))
        except BlockingIOError:
            return
        except (OSError, BadMessage):
            pass
        self.close()

    def _write(self, content: bytes, is_wanted: Callable[[], bool]) -> None:
        assert self._socket is not None
        left = memoryview(_framed(content))
        try:
            while left:
                try:
                    left = left[self._socket.send(left) :]
                except BlockingIOError:
                    if not _wait(self._socket, select.POLLOUT, ASK_S) and not is_wanted():
                        raise
        except OSError:
            self.close()  # half a message may be out: the next one needs a new connection
            raise NoCredit("sync takes no messages") from None


def _framed(content: bytes) -> bytes:
    if not 0 < len(content) <= LARGEST:
        raise ValueError(f"a message of {len(content)} bytes")
    return _HEAD.pack(len(content)) + content


def _whole_frames(received: bytearray) -> Iterator[bytes]:
    """Takes them out of what was received. Raises BadMessage for what cannot be one."""
    while len(received) >= _HEAD.size:
        (length,) = _HEAD.unpack_from(received)
        if not 0 < length <= LARGEST:
            raise BadMessage(f"a frame of {length} bytes")
        end = _HEAD.size + length
        if len(received) < end:
            return
        frame = bytes(memoryview(received)[_HEAD.size : end])
        del received[:end]
        yield frame


def _wait(own: socket.socket, event: int, longest_s: float) -> bool:
    poll = select.poll()
    poll.register(own, event)
    return bool(poll.poll(max(0.0, longest_s) * 1000))


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
