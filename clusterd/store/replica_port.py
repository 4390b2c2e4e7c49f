"""The store's socket for replicas, for the sync process of this node: requests of clusterd/messages/replica.py."""

import asyncio
import json
import sqlite3
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from clusterd.errors import StartFailure
from clusterd.messages.replica import (
    Apply,
    AskChanges,
    AwaitCompared,
    Changes,
    Drain,
    Drained,
    FirstAsk,
    Gone,
    Mark,
    Marked,
    NextAsk,
    Show,
    StoreAnswer,
    StoreRequest,
    Tell,
    Undrain,
)
from clusterd.store.gate import Handover
from clusterd.store.replica_copy import ReplicaCopy
from clusterd.store.replica_source import ReplicaSource

MOST_BYTES = 4 * 1024 * 1024
_requests = msgspec.msgpack.Decoder(StoreRequest)
_FAILURES = (sqlite3.Error, OSError, ValueError, StartFailure, MemoryError)


class ReplicaPort:
    """Answers requests; `side` is what this node's role has."""

    def __init__(
        self,
        side: ReplicaSource | ReplicaCopy,
        handover: Handover | None = None,
        mark: Callable[[], Awaitable[int]] | None = None,
    ) -> None:
        """`handover`: of a master in an election. `mark`: of a master, see Engine.mark."""
        self._side = side
        self._handover = handover
        self._mark = mark
        self._turn = asyncio.Lock()

    async def answer(self, payload: bytes) -> list[bytes]:
        try:
            found = StoreAnswer(await self._answer(_requests.decode(payload)))
        except _FAILURES as failure:
            found = StoreAnswer(failure=str(failure) or type(failure).__name__)
        return [msgspec.msgpack.encode(found)]

    async def _answer(self, request: StoreRequest) -> bytes:
        side = self._side
        match request:
            case Show():
                if request.objection is not None and isinstance(side, ReplicaCopy):
                    side.object(request.objection)
                return json.dumps(await side.shown()).encode()
            case Tell() if isinstance(side, ReplicaSource):
                return msgspec.msgpack.encode(await side.tell(request.node, _decoded(request.ask, AskChanges)))
            case Gone() if isinstance(side, ReplicaSource):
                (side.candidates.forget if request.for_good else side.candidates.gone)(request.node)
                return b""
            case AwaitCompared() if isinstance(side, ReplicaSource):
                await side.compared()
                return b""
            case Drain() if isinstance(side, ReplicaSource) and self._handover is not None:
                await self._handover.drain(request.for_s)
                head = await side.head()
                side.candidates.urge(head)  # the handover waits for one of them to have that
                return msgspec.msgpack.encode(Drained(head))
            case Undrain() if self._handover is not None:
                self._handover.undrain()
                return b""
            case Mark():
                return msgspec.msgpack.encode(await self._marked())
            case FirstAsk() if isinstance(side, ReplicaCopy):
                async with self._turn:
                    return _next(await side.first())
            case Apply() if isinstance(side, ReplicaCopy):
                async with self._turn:
                    return _next(await side.apply(_decoded(request.changes, Changes)))
        raise ValueError("the role of this node does not answer that")

    async def _marked(self) -> Marked:
        side = self._side
        if not isinstance(side, ReplicaSource) or self._mark is None:
            return Marked()
        why = await side.ready()
        if why or not await side.have(await self._mark()):
            return Marked(why=why or "no candidate has confirmed it", is_refused=True)
        mode, why = side.mode()
        return Marked(mode == "synchronous", why)


def _decoded(data: bytes, kind: type[Any]) -> Any:
    """Raises ValueError."""
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except msgspec.MsgspecError as failure:
        raise ValueError(f"not what was expected from another node: {failure}") from None


def _next(ask: AskChanges) -> bytes:
    return msgspec.msgpack.encode(NextAsk(msgspec.msgpack.encode(ask)))
