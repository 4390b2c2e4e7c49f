"""A client of the length-prefixed unix sockets of the manager's daemons (wdb.md 1): wdb, authd, remoted, task manager.

A frame is a length of 4 bytes, little endian, followed by that many bytes of payload.
"""

import asyncio
import errno
import socket
from types import TracebackType

from clusterd.beat import awake_timeout
from clusterd.errors import ClusterError
from clusterd.unix_connect import connected

PREFIX_BYTES = 4
LARGEST_ANSWER = 64 * 1024 * 1024
"""The databases' own limit is 65,536; other daemons may answer with more."""


def frame(payload: bytes) -> bytes:
    """Prefixes the payload with its length."""
    return len(payload).to_bytes(PREFIX_BYTES, "little") + payload


class Stream:
    """One connection: request, answer, next request. Use it as an async context manager.

    After a failure the stream is unusable: the next bytes could be the answer to something else."""

    def __init__(self, path: str, timeout_s: float) -> None:
        """`timeout_s`: for connecting, and for each answer."""
        self._path = path
        self._timeout_s = timeout_s
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def __aenter__(self) -> "Stream":
        """Raises TimeoutError, OSError (FileNotFoundError: no socket; ConnectionRefusedError: no listener)."""
        async with awake_timeout(self._timeout_s):
            self._reader, self._writer = await asyncio.open_unix_connection(sock=await connected(self._path))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, stack: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    async def ask(self, payload: bytes) -> bytes:
        """Sends a request and returns the payload of the answer. Raises OSError, TimeoutError, EOFError (closed within
        the answer), ValueError (the answer announces more than LARGEST_ANSWER)."""
        assert self._reader is not None
        assert self._writer is not None
        async with awake_timeout(self._timeout_s):
            self._writer.write(frame(payload))
            await self._writer.drain()
            size = int.from_bytes(await self._reader.readexactly(PREFIX_BYTES), "little")
            if size > LARGEST_ANSWER:
                raise ValueError(f"{self._path} announces an answer of {size} bytes")
            return await self._reader.readexactly(size)


async def ask_once(path: str, payload: bytes, timeout_s: float) -> bytes:
    """Sends one request over a separate connection. Raises ClusterError with the codes of wdb.md 9.4: 1013 no socket,
    1121 no listener, 1014 anything else."""
    try:
        async with Stream(path, timeout_s) as stream:
            return await stream.ask(payload)
    except FileNotFoundError:
        raise ClusterError(1013, f"'{path}'") from None
    except ConnectionRefusedError:
        raise ClusterError(1121, f"'{path}'") from None
    except TimeoutError:
        raise ClusterError(1014, f"'{path}' did not answer within {timeout_s:g} s") from None
    except (OSError, EOFError, ValueError) as failure:
        raise ClusterError(1014, f"'{path}': {failure}") from failure


def is_served(path: str) -> bool:
    """Whether a server listens there. A full backlog counts, and so does a socket that we may not connect to."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except OSError as failure:
            return failure.errno in (errno.EAGAIN, errno.EACCES, errno.EPERM)
    return True
