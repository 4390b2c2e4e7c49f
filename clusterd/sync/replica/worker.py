"""A candidate keeps a replica of its master's state (docs/ha.md): sync carries questions of its store to the master and
answers back, and keeps the files of the REST API."""

import asyncio
import contextlib
from typing import Any

import msgspec

from clusterd.clock import Backoff
from clusterd.errors import ClusterError
from clusterd.messages.replica import WAIT_S, Apply, FirstAsk, NextAsk, ReplicaReply, StoreRequest
from clusterd.sync.links.caps import CLUSTERD, REPLICA
from clusterd.sync.links.context import Context
from clusterd.sync.links.peer import Peer
from clusterd.sync.ports.net_port import LinkClosed
from clusterd.sync.ports.tag_log import TagLog
from clusterd.sync.ports.troubles import round_survives
from clusterd.sync.replica.api_files import NOTHING, PIECE_BYTES, ApiCopy
from clusterd.sync.replica.master import ANSWER_S, BEGINS_POLL_S, BEGINS_S, SUBTAG, TROUBLE, shown
from clusterd.wdb.replica import ReplicaStore
from clusterd.wire import commands

SOON_S, AGAIN_S = 0.5, 5.0
"""The shortest and the longest pause after a round that failed. Registrations may wait for this candidate."""
MOST_API_BYTES = 16 * 1024 * 1024
NO_STORE = (
    "No replica can be kept: the agent database of this node is served by another program (wazuh-db), a replica needs "
    "clusterd's own store (clusterd.store)"
)
STOCK_MASTER = "No replica can be kept: the master is a stock one"
LED = "it led itself since, and its own agents are newer than its replica"
NOT_GIVEN = "No replica can be kept: the master gives none (clusterd.ha.replica is off there, or it is older)"


class ReplicaWorker:
    """Follows the master for as long as the link lives."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._store = ReplicaStore(context.settings.root)
        self._files = ApiCopy(context.settings.root)
        self._is_connected = False

    @property
    def is_wanted(self) -> bool:
        return self._context.settings.clusterd.ha.replica

    @property
    def _log(self) -> TagLog:
        return self._context.tag_log(self._context.tag, SUBTAG)

    async def run(self, peer: Peer) -> None:
        """Rounds for ever."""
        troubles = self._context.troubles
        if not self._context.settings.serves_store:
            troubles.begin(TROUBLE, NO_STORE, self._log)
            return
        if REPLICA not in await peer.agreed():
            troubles.begin(TROUBLE, NOT_GIVEN if peer.program == CLUSTERD else STOCK_MASTER, self._log)
            return
        await self._store_has_begun()
        ask: bytes | None = None
        pauses = Backoff(SOON_S, AGAIN_S)
        try:
            while True:
                before, ask = ask, None
                with round_survives(self._log, troubles, TROUBLE, passes=LinkClosed):
                    ask = await self._round(peer, before)
                self._is_connected = ask is not None
                if ask is None:
                    await asyncio.sleep(pauses.next_s())
                else:
                    pauses.reset()
        except LinkClosed:
            return
        finally:
            self._is_connected = False

    async def _store_has_begun(self) -> None:
        """When a node starts, its link may be up before its store serves: that is no failure yet."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(BEGINS_S):
                while not self._store.is_there:
                    await asyncio.sleep(BEGINS_POLL_S)

    async def _round(self, peer: Peer, ask: bytes | None) -> bytes:
        """One question and its answer; the next question."""
        if ask is None:
            ask = await self._next(FirstAsk())
        response = await peer.request(commands.GET_CHANGES, ask, timeout_s=WAIT_S + ANSWER_S + peer.timeout_s)
        try:
            reply = msgspec.msgpack.decode(response, type=ReplicaReply)
        except msgspec.MsgspecError as failure:
            raise ClusterError(1000, f"the master's answer cannot be read: {failure}") from None
        following = await self._next(Apply(reply.changes))
        if reply.files is not None and reply.files != await asyncio.to_thread(self._files.digest):
            await self._fetch_files(peer, reply.files)
        return following

    async def _next(self, request: StoreRequest) -> bytes:
        found = await self._store.ask(request, ANSWER_S)
        return msgspec.msgpack.decode(found, type=NextAsk).ask

    async def _fetch_files(self, peer: Peer, digest: str) -> None:
        content = bytearray()
        while digest != NOTHING:
            piece = await peer.request(commands.GET_API, msgspec.msgpack.encode((digest, len(content))))
            content += piece
            if len(piece) < PIECE_BYTES:
                break
            if len(content) > MOST_API_BYTES:
                raise ClusterError(1000, "the files of the REST API are too large")
        await asyncio.to_thread(self._files.store, bytes(content), digest)
        self._log.info("The files of the master's REST API are here.")

    async def shown(self) -> dict[str, Any] | None:
        """For `status`; None where no replica is wanted."""
        found = await shown(self._context, self._store)
        if found is not None:
            found |= {"connected": self._is_connected, "api_files": self._files.shown()}
            if self._context.settings.is_deposed:
                found["may_not_lead"] = LED
        return found
