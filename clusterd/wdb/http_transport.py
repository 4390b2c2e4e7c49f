"""httpx over a unix socket whose server may be busy. Its own way (anyio) asks again without a pause while the backlog
is full: a whole core, until the time-out."""

import asyncio
import socket
import ssl
from collections.abc import Iterable
from typing import Any

import httpcore

from clusterd.http_client import httpx
from clusterd.unix_connect import connected


class UnixTransport(httpx.AsyncHTTPTransport):
    def __init__(self, path: str) -> None:
        # A context of our own: the default one reads all certificates of certifi, a twentieth of a node's start.
        super().__init__(verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
        self._pool = httpcore.AsyncConnectionPool(uds=path, retries=1, network_backend=_UnixBackend())


class _UnixBackend(httpcore.AsyncNetworkBackend):
    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore.AsyncNetworkStream:
        try:
            async with asyncio.timeout(timeout):
                return _Stream(await connected(path))
        except TimeoutError:
            raise httpcore.ConnectTimeout(f"{path} takes no connection in time") from None
        except OSError as failure:
            raise httpcore.ConnectError(str(failure)) from failure

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class _Stream(httpcore.AsyncNetworkStream):
    """Works on the socket itself: what a server has answered before it hung up can still be read when it has not taken
    the whole request, and closing does not wait until it takes the rest. A StreamWriter does neither."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            async with asyncio.timeout(timeout):
                return await asyncio.get_running_loop().sock_recv(self._socket, max_bytes)
        except TimeoutError:
            raise httpcore.ReadTimeout from None
        except OSError as failure:
            raise httpcore.ReadError(str(failure)) from failure

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        try:
            async with asyncio.timeout(timeout):
                await asyncio.get_running_loop().sock_sendall(self._socket, buffer)
        except TimeoutError:
            raise httpcore.WriteTimeout from None
        except OSError as failure:
            raise httpcore.WriteError(str(failure)) from failure

    async def aclose(self) -> None:
        self._socket.close()

    def get_extra_info(self, info: str) -> Any:
        return None
