"""The node as the api process asks it: over the local socket, like any program of this machine (dapi.md 1.12)."""

import asyncio
from typing import Any, Protocol

import msgspec

from clusterd.dapi.protocol.conversation import Conversation, Misunderstood
from clusterd.errors import ClusterError
from clusterd.rundir import local_socket
from clusterd.wire.commands import DAPI, GET_NODES
from clusterd.wire.results import (
    INTERNAL_ERROR,
    WireException,
    WireResult,
    dump_json,
    load_json,
)

KEEPALIVE_S = 60.0
REPLY_S = 20.0
NODES_TIMEOUT_S = 20.0
MOST_QUESTIONS = 64
"""At a time; more wait. The node has room for other programs, too (clusterd.limits.local_clients)."""
READ_BYTES = 262144
LARGE_ANSWER = 262144
"""Bytes from which on an answer is decoded beside the loop, which goes on to serve others."""
_ALL_NODES = dump_json(
    {
        "filter_node": None,
        "offset": 0,
        "limit": 100_000,
        "sort": None,
        "search": None,
        "select": ["name"],
        "filter_type": "all",
        "distinct": False,
    }
)


class Asker(Protocol):
    """What the api process needs of a node."""

    async def ask(self, encoded: bytes, *, timeout_s: float) -> WireResult:
        """What the function of this encoded ApiRequest returned, wherever the node had it run.

        Raises WireException: what the function failed with, 3012 when nobody answers, 3020 when no answer came in time."""
        ...

    async def nodes(self) -> tuple[str, ...]:
        """The names of all nodes, the master's first. Raises WireException."""
        ...


class LocalNode:
    """The node of this root. One connection per question, as stock programs do."""

    def __init__(self, root: str) -> None:
        self._path = local_socket(root)
        self._turns = asyncio.Semaphore(MOST_QUESTIONS)

    async def ask(self, encoded: bytes, *, timeout_s: float) -> WireResult:
        answer = await _decode(await self._converse(DAPI, encoded, timeout_s))
        if not isinstance(answer, WireResult):
            raise _internal(3036, "the answer is no result")
        return answer

    async def nodes(self) -> tuple[str, ...]:
        listed = await _decode(await self._converse(GET_NODES, _ALL_NODES, NODES_TIMEOUT_S))
        try:
            return tuple(item.name for item in msgspec.convert(listed, _Nodes).items)
        except msgspec.ValidationError:
            raise _internal(3036, "the node list is malformed") from None

    async def _converse(self, command: str, payload: bytes, timeout_s: float) -> bytes:
        conversation = Conversation(command, payload)
        try:
            async with asyncio.timeout(timeout_s), self._turns:
                await self._until_over(conversation, timeout_s)
        except TimeoutError:
            raise _internal(3020, command) from None
        except (OSError, asyncio.IncompleteReadError):
            raise _internal(3012) from None
        except Misunderstood:
            raise _internal(3009, "the node does not speak the protocol") from None
        if conversation.failure is not None:
            raise conversation.failure
        assert conversation.answer is not None
        return conversation.answer

    async def _until_over(self, conversation: Conversation, timeout_s: float) -> None:
        """Raises OSError and IncompleteReadError when the node goes, TimeoutError, Misunderstood."""
        loop = asyncio.get_running_loop()
        reader, writer = await asyncio.open_unix_connection(self._path, limit=READ_BYTES)
        keepalives = asyncio.create_task(_keep_alive(conversation, writer))
        try:
            writer.writelines(conversation.begin(loop.time(), timeout_s))
            await writer.drain()
            while not conversation.is_over:
                async with asyncio.timeout(None if conversation.replied else REPLY_S):
                    data = await reader.read(READ_BYTES)
                if not data:
                    raise asyncio.IncompleteReadError(b"", None)
                writer.writelines(conversation.receive(data))
                await writer.drain()
        finally:
            keepalives.cancel()
            writer.close()


class _Node(msgspec.Struct, frozen=True):
    name: str


class _Nodes(msgspec.Struct, frozen=True):
    items: list[_Node]


async def _decode(answer: bytes) -> Any:
    """Raises the exception that an answer is, ClusterError 1000 for one that is malformed."""
    value = load_json(answer) if len(answer) < LARGE_ANSWER else await asyncio.to_thread(load_json, answer)
    if isinstance(value, WireException):
        raise value
    return value


async def _keep_alive(conversation: Conversation, writer: asyncio.StreamWriter) -> None:
    while True:
        await asyncio.sleep(KEEPALIVE_S)
        writer.writelines(conversation.keepalive(asyncio.get_running_loop().time()))


def as_wire(failure: ClusterError) -> WireException:
    """Any failure with a code, with the class under which callers see it."""
    return failure if isinstance(failure, WireException) else _internal(failure.code, failure.extra)


def _internal(code: int, extra: str | None = None) -> WireException:
    return WireException(code, extra, wire_class=INTERNAL_ERROR)
