"""Asks this node's process `election` (clusterd/messages/election.py)."""

from typing import TypeVar

import msgspec

from clusterd.errors import ClusterError
from clusterd.messages.election import (
    ConfirmingSet,
    ElectionAnswer,
    ElectionRequest,
    FailsafeAnswer,
    FailsafeAsked,
    HaAnswer,
    HaCommand,
    SetConfirming,
)
from clusterd.rundir import election_socket
from clusterd.wdb.stream import Stream

A = TypeVar("A")


class ElectionPort:
    """A connection a question. Every method raises ClusterError 1000 with the reason where there is no answer."""

    def __init__(self, root: str) -> None:
        self._path = election_socket(root)

    async def set_confirming(self, term: int, name: str, position: int, timeout_s: float) -> ConfirmingSet:
        return await self._ask(SetConfirming(term, name, position), ConfirmingSet, timeout_s)

    async def failsafe(self, term: int, leader: str, for_s: float, timeout_s: float) -> FailsafeAnswer:
        return await self._ask(FailsafeAsked(term, leader, for_s), FailsafeAnswer, timeout_s)

    async def command(self, command: HaCommand, timeout_s: float) -> HaAnswer:
        return await self._ask(command, HaAnswer, timeout_s)

    async def _ask(self, request: ElectionRequest, kind: type[A], timeout_s: float) -> A:
        try:
            async with Stream(self._path, timeout_s) as stream:
                found = await stream.ask(msgspec.msgpack.encode(request))
            answer = msgspec.msgpack.decode(found, type=ElectionAnswer)
            if not answer.failure:
                return msgspec.msgpack.decode(answer.payload, type=kind)
        except TimeoutError:
            raise ClusterError(1000, f"this node's election did not answer within {timeout_s:g} s") from None
        except FileNotFoundError:
            raise ClusterError(1000, "no election runs on this node") from None
        except (OSError, EOFError, ValueError) as failure:
            raise ClusterError(1000, f"this node's election cannot be asked: {failure}") from None
        raise ClusterError(1000, answer.failure)
