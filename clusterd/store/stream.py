"""Unix stream sockets with length prefix (wdb.md 1): the wdb socket, where a client asks again and again, and authd's, which
serves one request a connection."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable

from clusterd.rounds import Rounds
from clusterd.store.errors import SocketTaken
from clusterd.wdb.stream import is_served

LARGEST_REQUEST = 65536
PREFIX_BYTES = 4
BACKLOG = 512
UMASK = 0o117
Answer = Callable[[bytes], Awaitable[list[bytes]]]


def bind(path: str) -> socket.socket:
    """A listening unix socket (mode 0660) in place of a dead one. Raises SocketTaken when a live server holds it, OSError."""
    os.makedirs(os.path.dirname(path), mode=0o770, exist_ok=True)
    if is_served(path):
        raise SocketTaken(
            f"{path} is served by another program (see: lsof {path}): stop that one, or set clusterd.store to off in "
            "etc/cluster.json to use it"
        )
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        before = os.umask(UMASK)
        try:
            listening.bind(path)
        finally:
            os.umask(before)
        listening.listen(BACKLOG)
        listening.setblocking(False)
    except OSError:
        listening.close()
        raise
    return listening


AGAIN_S = 0.1


class StreamServer:
    """One socket and its connections. A request is answered before the next one of the connection is read."""

    def __init__(
        self,
        path: str,
        answer: Answer,
        *,
        most: int,
        rounds: Rounds,
        once: bool = False,
        wait_s: float | None = None,
    ) -> None:
        """`most`: connections at a time; more wait in the backlog. `once`: close after an answer. `wait_s`: for a request."""
        self._rounds = rounds
        self._path = path
        self._answer = answer
        self._room = asyncio.Semaphore(most)
        self._once = once
        self._wait_s = wait_s
        self._tasks: set[asyncio.Task[None]] = set()
        self._accepting: asyncio.Task[None] | None = None
        self._socket: socket.socket | None = None
        self._inode = 0

    def start(self) -> None:
        """Bind and accept. Raises SocketTaken, OSError."""
        self._socket = bind(self._path)
        self._inode = os.stat(self._path).st_ino
        self._accepting = asyncio.create_task(self._accept(self._socket))

    async def stop(self) -> None:
        """Accept nothing more, end the connections, remove the file unless it is another program's by now."""
        if self._socket is None or self._accepting is None:
            return
        tasks = [self._accepting, *self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._socket.close()
        self._socket = None
        remove_own(self._path, self._inode)

    @property
    def connections(self) -> int:
        return len(self._tasks)

    async def _accept(self, listening: socket.socket) -> None:
        """For ever: whatever keeps a connection from being accepted (too many open files), the next one is waited for."""
        while True:
            is_accepted = False
            await self._room.acquire()
            try:
                with self._rounds.survive(f"connections to {os.path.basename(self._path)}"):
                    client, _ = await asyncio.get_running_loop().sock_accept(listening)
                    task = asyncio.create_task(self._serve(client))
                    self._tasks.add(task)
                    task.add_done_callback(self._ended)
                    is_accepted = True
            finally:
                if not is_accepted:
                    self._room.release()
            if not is_accepted:
                await asyncio.sleep(AGAIN_S)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        self._room.release()
        if not task.cancelled():
            task.exception()

    async def _serve(self, client: socket.socket) -> None:
        reader, writer = await asyncio.open_unix_connection(sock=client, limit=LARGEST_REQUEST + PREFIX_BYTES)
        try:
            while True:
                payload = await self._request(reader)
                if payload is None:
                    return
                for frame in await self._answer(payload):
                    writer.write(len(frame).to_bytes(PREFIX_BYTES, "little") + frame)
                    if writer.transport.get_write_buffer_size() > LARGEST_REQUEST:
                        await writer.drain()
                await writer.drain()
                if self._once:
                    return
        except (ConnectionError, TimeoutError):
            # The client hung up, or said nothing in its time.
            return
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _request(self, reader: asyncio.StreamReader) -> bytes | None:
        """None: hung up, said nothing, or announced too much (wdb.md 2.3: the payload is not read)."""
        try:
            async with asyncio.timeout(self._wait_s):
                size = int.from_bytes(await reader.readexactly(PREFIX_BYTES), "little")
                if not 0 < size <= LARGEST_REQUEST:
                    return None
                return await reader.readexactly(size)
        except (asyncio.IncompleteReadError, TimeoutError):
            return None


def remove_own(path: str, inode: int) -> None:
    """Remove our socket's file, but never that of somebody who came after us."""
    with contextlib.suppress(FileNotFoundError):
        if os.stat(path).st_ino == inode:
            os.unlink(path)
