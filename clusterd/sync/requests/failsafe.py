"""A master that cannot reach etcd asks every candidate over its link whether it may go on (docs/ha.md); the process
`election` of each candidate decides."""

import asyncio

import msgspec

from clusterd.errors import ClusterError
from clusterd.messages.election import LIMIT_S, AskFailsafe, FailsafeAnswer, FailsafeAnswers, FailsafeAsked
from clusterd.role import read_role
from clusterd.sync.links.caps import TERM
from clusterd.sync.links.context import Context
from clusterd.sync.links.handlers import Handler
from clusterd.sync.links.peer import Peer
from clusterd.wdb.election import ElectionPort
from clusterd.wire import commands


class FailsafeMaster:
    """`local` is its command."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.local: dict[str, Handler] = {commands.ASK_FAILSAFE: self.ask}

    async def ask(self, client: Peer, payload: bytes) -> bytes:
        """`{AskFailsafe}`: asks all candidates at once; one that does not answer in time is missing in the answer.
        Raises ClusterError 1000."""
        try:
            asked = msgspec.msgpack.decode(payload, type=AskFailsafe)
        except msgspec.MsgspecError as problem:
            raise ClusterError(1000, f"no question: {problem}") from None
        question = msgspec.msgpack.encode(FailsafeAsked(asked.term, asked.leader, asked.for_s))
        answers = await asyncio.gather(*(self._one(node, question) for node in asked.nodes))
        found = {node: yes for node, yes in zip(asked.nodes, answers, strict=True) if yes is not None}
        return msgspec.msgpack.encode(FailsafeAnswers(found))

    async def _one(self, node: str, question: bytes) -> bool | None:
        peer = self._context.roster.worker(node)
        if peer is None or TERM not in peer.capabilities:
            return None
        try:
            async with asyncio.timeout(LIMIT_S):
                response = await peer.request(commands.FAILSAFE, question, timeout_s=LIMIT_S)
            return msgspec.msgpack.decode(response, type=FailsafeAnswer).yes
        except (ClusterError, TimeoutError, msgspec.MsgspecError):
            return None


class FailsafeWorker:
    """`remote` is its command."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._election = ElectionPort(context.settings.root)
        self.remote: dict[str, Handler] = {commands.FAILSAFE: self.asked}

    async def asked(self, peer: Peer, payload: bytes) -> bytes:
        """`{FailsafeAsked}`. Only the master at the other end of the link may ask, for itself. Raises ClusterError
        1000."""
        try:
            asked = msgspec.msgpack.decode(payload, type=FailsafeAsked)
        except msgspec.MsgspecError as problem:
            raise ClusterError(1000, f"no question: {problem}") from None
        given = await asyncio.to_thread(read_role, self._context.settings.root)
        if given is None or (given.term, given.master_name) != (asked.term, asked.leader):
            known = "no term" if given is None else f"{given.master_name} in term {given.term}"
            answer = FailsafeAnswer(False, f"this node knows {known}")
        else:
            answer = await self._election.failsafe(asked.term, asked.leader, asked.for_s, LIMIT_S)
        return msgspec.msgpack.encode(answer)
