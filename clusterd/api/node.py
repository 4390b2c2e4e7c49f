"""The api process's access to the node: over the local socket, like any program of this machine (dapi.md 1.12)."""

import asyncio
from typing import Any, Protocol

import msgspec

from clusterd.dapi.protocol.conversation import MOST_STRING_BYTES, Conversation
from clusterd.errors import ClusterError
from clusterd.rundir import local_socket
from clusterd.unix_connect import connected
from clusterd.wire.commands import DAPI, GET_NODES
from clusterd.wire.plain_connection import Misunderstood
from clusterd.wire.results import (
    INTERNAL_ERROR,
    WireException,
    WireResult,
    dump_json,
    load_answer,
)

KEEPALIVE_S = 60.0
REPLY_S = 20.0
NODES_TIMEOUT_S = 20.0
MOST_QUESTIONS = 64
"""Most questions in flight; further ones wait. The node leaves room for other programs
(clusterd.limits.local_clients)."""
READ_BYTES = 262144
LARGE_ANSWER = 262144
"""From this size in bytes on, an answer is decoded in a thread, and the loop serves other requests meanwhile."""
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
    """The access to a node that the api process needs."""

    async def ask(self, encoded: bytes, *, timeout_s: float) -> WireResult:
        """Returns the result of the function of this encoded ApiRequest, from whichever node ran it.

        Raises WireException: the function's failure, 3012 when the node cannot be reached, 3020 when no answer arrived
        in time."""
        ...

    async def nodes(self) -> tuple[str, ...]:
        """Returns the names of all nodes, the master's first. Raises WireException."""
        ...


class LocalNode:
    """The node of this root. Opens one connection per question, as stock programs do."""

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
                await self._until_over(conversation)
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

    async def _until_over(self, conversation: Conversation) -> None:
        """Runs the conversation to its end. Raises OSError and IncompleteReadError when the node closes the connection,
        TimeoutError, Misunderstood."""
        reader, writer = await asyncio.open_unix_connection(sock=await connected(self._path), limit=READ_BYTES)
        keepalives = asyncio.create_task(_keep_alive(conversation, writer))
        try:
            writer.writelines(conversation.begin())
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
    """Decodes an answer. Raises the exception that the answer contains, ClusterError 1000 for a malformed one."""
    if len(answer) < LARGE_ANSWER:
        value = load_answer(answer)
    else:
        # Of the node itself: 100,000 agents, the most of a page, have more than what is decoded of a peer.
        value = await asyncio.to_thread(load_answer, answer, limit=MOST_STRING_BYTES)
    if isinstance(value, WireException):
        raise value
    return value


async def _keep_alive(conversation: Conversation, writer: asyncio.StreamWriter) -> None:
    while True:
        await asyncio.sleep(KEEPALIVE_S)
        writer.writelines(conversation.keepalive())


def as_wire(failure: ClusterError) -> WireException:
    """Returns any failure with a code as a WireException, in the class that callers see."""
    return failure if isinstance(failure, WireException) else _internal(failure.code, failure.extra)


def _internal(code: int, extra: str | None = None) -> WireException:
    return WireException(code, extra, wire_class=INTERNAL_ERROR)
