"""Unix stream sockets with a length prefix (wdb.md 1): the wdb socket, where a client sends many requests, and authd's,
which serves one request per connection."""

import asyncio
import contextlib
import functools
import os
import socket
import struct
from collections import Counter
from collections.abc import Awaitable, Callable
from contextvars import ContextVar

from clusterd.listening.doors import doors
from clusterd.rounds import Rounds
from clusterd.store.errors import SocketTaken
from clusterd.wdb.stream import is_served

LARGEST_REQUEST = 65536
PREFIX_BYTES = 4
BACKLOG = 512
UMASK = 0o117
_CREDENTIALS = struct.Struct("3i")
"""Linux's struct ucred: pid, uid, gid."""
Answer = Callable[[bytes], Awaitable[list[bytes]]]
caller: ContextVar[str] = ContextVar("caller", default="")
"""While a request is answered: the name of the program that asked, empty if unknown. Of a StreamServer that
`asks_who`."""
LONGEST_PROGRAM = 64


def bind(path: str) -> socket.socket:
    """Creates a listening unix socket (mode 0660), replacing a dead one, or takes that of before a change of role.
    Raises OSError, and SocketTaken when a live server holds it."""
    inherited = doors.inherited(path)
    if inherited is not None:
        inherited.setblocking(False)
        return inherited
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
    except OSError as failure:
        listening.close()
        if failure.errno is None:  # Python's own, of a path that is too long
            raise
        raise OSError(failure.errno, failure.strerror, path) from None  # the system does not say which
    return listening


AGAIN_S = 0.1


class StreamServer:
    """One socket and its connections. Each connection's next request is read after the current one is answered."""

    def __init__(
        self,
        path: str,
        answer: Answer,
        *,
        most: int,
        rounds: Rounds,
        once: bool = False,
        wait_s: float | None = None,
        largest: int = LARGEST_REQUEST,
        asks_who: bool = False,
    ) -> None:
        """`most`: connections at a time; more wait in the backlog. One process may have half of them; more are closed.
        `asks_who`: whether `caller` is set. `once`: close after an answer. `wait_s`: how long to wait for a request.
        `largest`: bytes of a request."""
        self._largest = largest
        self._asks_who = asks_who
        self._rounds = rounds
        self._path = path
        self._answer = answer
        self._share = (most + 1) // 2
        self._of_process: Counter[str] = Counter()
        self._room = asyncio.Semaphore(most)
        self._once = once
        self._wait_s = wait_s
        self._tasks: set[asyncio.Task[None]] = set()
        self._accepting: asyncio.Task[None] | None = None
        self._socket: socket.socket | None = None
        self._inode = 0

    def start(self) -> None:
        """Binds and accepts. Raises SocketTaken, OSError."""
        listening = bind(self._path)
        try:
            self._inode = os.stat(self._path).st_ino
        except OSError:
            listening.close()
            raise
        self._socket = listening
        self._accepting = asyncio.create_task(self._accept(listening))

    async def stop(self) -> None:
        """Stops accepting, ends the connections, and removes the file unless it belongs to another program by now."""
        listening, self._socket = self._socket, None
        if listening is None or self._accepting is None:
            return
        tasks = [self._accepting, *self._tasks]
        for task in tasks:
            task.cancel()
        try:
            await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            listening.close()
            remove_own(self._path, self._inode)

    @property
    def connections(self) -> int:
        return len(self._tasks)

    async def _accept(self, listening: socket.socket) -> None:
        """Accepts for ever: after any failure (such as too many open files) it waits for the next connection."""
        while True:
            is_begun: bool | None = None
            await self._room.acquire()
            try:
                with self._rounds.survive(f"connections to {os.path.basename(self._path)}"):
                    is_begun = self._begin(await _accepted(listening))
            finally:
                if not is_begun:
                    self._room.release()
            if is_begun is None:
                await asyncio.sleep(AGAIN_S)

    def _begin(self, client: socket.socket) -> bool:
        """False for a connection of a process that has its share already."""
        caller = process_of(client, None)
        if self._of_process[caller] >= self._share:
            client.close()
            return False
        self._of_process[caller] += 1
        task = asyncio.create_task(self._serve(client))
        self._tasks.add(task)
        task.add_done_callback(functools.partial(self._ended, caller, client))
        return True

    def _ended(self, caller: str, client: socket.socket, task: "asyncio.Task[None]") -> None:
        client.close()  # of a task that was cancelled before its first step
        self._tasks.discard(task)
        self._of_process[caller] -= 1
        if not self._of_process[caller]:
            del self._of_process[caller]
        self._room.release()
        if not task.cancelled():
            task.exception()

    async def _serve(self, client: socket.socket) -> None:
        if self._asks_who:
            caller.set(program_of(client))
        reader, writer = await asyncio.open_unix_connection(sock=client, limit=self._largest + PREFIX_BYTES)
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
            # The client hung up or sent nothing in time.
            return
        except asyncio.CancelledError:
            writer.transport.abort()  # closing waits until all is read, and this client may never read
            raise
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _request(self, reader: asyncio.StreamReader) -> bytes | None:
        """Returns None if the client hung up, sent nothing in time, or announced too much (wdb.md 2.3: the payload is
        not read)."""
        try:
            async with asyncio.timeout(self._wait_s):
                size = int.from_bytes(await reader.readexactly(PREFIX_BYTES), "little")
                if not 0 < size <= self._largest:
                    return None
                return await reader.readexactly(size)
        except (asyncio.IncompleteReadError, TimeoutError):
            return None


async def _accepted(listening: socket.socket) -> socket.socket:
    """Returns the next connection. Not by `sock_accept`, which loses one that comes together with a cancellation."""
    loop, has_some = asyncio.get_running_loop(), asyncio.Event()
    while True:
        with contextlib.suppress(BlockingIOError):
            client, _ = listening.accept()
            client.setblocking(False)
            return client
        has_some.clear()
        loop.add_reader(listening.fileno(), has_some.set)
        try:
            await has_some.wait()
        finally:
            loop.remove_reader(listening.fileno())


def process_of(client: socket.socket, _: object) -> str:
    """The process at the other end of a unix socket, to count its connections."""
    return f"process {_pid(client)}"


def program_of(client: socket.socket) -> str:
    """The name of the program at the other end of a unix socket: of a script its own, not that of its interpreter."""
    try:
        with open(f"/proc/{_pid(client)}/comm", "rb") as file:
            name = file.read(LONGEST_PROGRAM).strip()
        if name.startswith((b"python", b"sh", b"bash", b"perl")):
            with open(f"/proc/{_pid(client)}/cmdline", "rb") as file:
                words = file.read(4096).split(b"\0")
            scripts = (word for word in words[1:2] if not word.startswith(b"-"))
            name = next((os.path.basename(word) for word in scripts), name)
    except OSError:
        return ""  # it has asked and gone
    return name[:LONGEST_PROGRAM].decode(errors="replace")


def _pid(client: socket.socket) -> int:
    credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(credentials)[0])


def remove_own(path: str, inode: int) -> None:
    """Removes our socket's file, unless another server has replaced it, or the supervisor keeps it."""
    if doors.inherited(path) is not None:
        return
    with contextlib.suppress(OSError):  # a disk that is read-only by now: the next start replaces the file
        if os.stat(path).st_ino == inode:
            os.unlink(path)
