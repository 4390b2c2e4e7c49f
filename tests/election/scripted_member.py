"""A member of etcd that answers as a test wants, and a proxy to a real one that delays or drops answers."""

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

Answer = Callable[[str, dict[str, Any]], tuple[int, bytes]]
"""Takes path and body of a request; returns HTTP status and body of the answer."""
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
HEADER = {"cluster_id": "7", "member_id": "8", "revision": "9", "raft_term": "2"}


@contextlib.asynccontextmanager
async def listening(serve: Serve) -> AsyncIterator[str]:
    """Yields the URL of a server that runs this function for each connection."""
    tasks: set[asyncio.Task[Any]] = set()

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await serve(reader, writer)
        except asyncio.CancelledError:
            pass
        finally:
            writer.transport.abort()
            tasks.discard(task)

    server = await asyncio.start_server(one, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        while tasks:
            await asyncio.sleep(0.01)


def answering(answer: Answer) -> Serve:
    """Speaks HTTP and sends the function's answers."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            size = next(int(line.split(":")[1]) for line in head.splitlines() if line.lower().startswith("content-le"))
            body = json.loads(await reader.readexactly(size))
            status, data = answer(head.split()[1].removeprefix("/v3/"), body)
            writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
            await writer.drain()

    return serve


def saying(data: bytes) -> Serve:
    """Sends the same to every client, whatever it asks, and closes the connection."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(data)
        await writer.drain()
        writer.write_eof()
        await reader.read()

    return serve


async def resets(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Reads a byte and resets the connection, as a TLS server may that was asked in plain."""
    await reader.read(1)
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Reads everything and answers nothing."""
    while await reader.read(65536):
        pass


async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends an answer that never ends."""
    await reader.read(1)
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
    while True:
        writer.write(b"x" * 65536)
        await writer.drain()


def way_to(endpoint: str, *, delay_s: float = 0.0, opened: list[int] | None = None, answers: bool = True) -> Serve:
    """A proxy to a real member: passes each piece of an answer on `delay_s` later, or never (`answers` false). `opened`
    counts connections."""
    host, _, port = endpoint.partition("://")[2].rpartition(":")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if opened is not None:
            opened.append(1)
        far_reader, far = await asyncio.open_connection(host, int(port))

        async def back() -> None:
            while data := await far_reader.read(65536):
                await asyncio.sleep(delay_s)
                if answers:
                    writer.write(data)
                    await writer.drain()

        async def there() -> None:
            while data := await reader.read(65536):
                far.write(data)
                await far.drain()
            far.write_eof()

        try:
            await asyncio.gather(there(), back())
        finally:
            far.transport.abort()

    return serve
