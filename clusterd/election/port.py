"""The socket of the process `election`: answers the requests of clusterd/messages/election.py, on each connection one
after the other."""

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from clusterd.messages.election import ElectionAnswer, ElectionRequest
from clusterd.rounds import Rounds
from clusterd.rundir import election_socket

PREFIX_BYTES = 4
LARGEST = 65536
MOST = 64
UMASK = 0o177
Answer = Callable[[ElectionRequest], Awaitable[Any]]
_requests: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(ElectionRequest)


class ElectionServer:
    """Its socket lies in the run directory, which only the daemon's user and root may enter."""

    def __init__(self, root: str, answer: Answer, rounds: Rounds) -> None:
        self._path, self._answer, self._rounds = election_socket(root), answer, rounds
        self._room = asyncio.Semaphore(MOST)
        self._serving: set[asyncio.Task[Any]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Replaces the socket of an earlier life. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        before = os.umask(UMASK)
        try:
            self._server = await asyncio.start_unix_server(self._serve, self._path)
        finally:
            os.umask(before)

    async def stop(self) -> None:
        if self._server is None:
            return
        self._server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        with contextlib.suppress(OSError):
            os.unlink(self._path)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            async with self._room:
                while True:
                    size = int.from_bytes(await reader.readexactly(PREFIX_BYTES), "little")
                    if size > LARGEST:
                        return
                    frame = await self._answered(await reader.readexactly(size))
                    writer.write(len(frame).to_bytes(PREFIX_BYTES, "little") + frame)
                    await writer.drain()
        except (asyncio.IncompleteReadError, OSError, asyncio.CancelledError):
            return  # who asked is gone, or this process ends
        finally:
            self._serving.discard(task)
            writer.close()

    async def _answered(self, payload: bytes) -> bytes:
        found = ElectionAnswer(failure="this is a bug of the election: see the log")
        with self._rounds.survive("answering"):
            try:
                found = ElectionAnswer(msgspec.msgpack.encode(await self._answer(_requests.decode(payload))))
            except msgspec.MsgspecError as failure:
                found = ElectionAnswer(failure=f"the question cannot be read: {failure}")
        return msgspec.msgpack.encode(found)
