"""Requests of the distributed API that another node executes (dapi.md 1.3, 3.2). Each is sent under an id of our own.
Only the node that was asked may answer it, and only once.
"""

import asyncio
import itertools
import random

from clusterd.errors import ClusterError
from clusterd.messages.base import INLINE_BYTES, Text
from clusterd.sync.links.caps import ANSWER
from clusterd.sync.links.context import Context
from clusterd.sync.links.handlers import Handler
from clusterd.sync.links.outgoing import INLINE_CHUNK, read_segments
from clusterd.sync.links.peer import Peer
from clusterd.sync.ports.net_port import LinkClosed
from clusterd.sync.requests.answer_wait import patiently
from clusterd.sync.requests.blobs import JsonBlobs
from clusterd.sync.requests.prompt_answer import answer_in
from clusterd.wire import commands
from clusterd.wire.payloads import build_words, parse_addressed, parse_string_for
from clusterd.wire.results import decode_err_payload, shorten
from hashing.segment import Segment

IDS = 1 << 40
"""The first id of a process is chosen among this many, all of 13 digits, so that other nodes cannot guess it."""
LOOK = b"are you there"
NOT_CONNECTED = 3022
NO_MASTER = 3023


class _Asked:
    """A request that another node is executing. `answer`: its result."""

    __slots__ = ("answer", "peer")

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.answer: asyncio.Future[Text] = asyncio.get_running_loop().create_future()


class ApiForwarder:
    """Owns the requests that other nodes are executing for this one. `remote` are the commands of their answers."""

    def __init__(self, context: Context, texts: JsonBlobs) -> None:
        self._context = context
        self._roster = context.roster
        self._texts = texts
        self._ids = itertools.count(random.randrange(IDS, 2 * IDS))
        self._asked: dict[str, _Asked] = {}
        self.remote: dict[str, Handler] = {commands.DAPI_RES: self.answered, commands.DAPI_ERR: self.failed}

    async def ask_worker(self, node: str, request: Text, limit_s: float | None) -> Text:
        """Raises ClusterError 3022 for a node that is not connected."""
        return await self.ask(self._roster.need_worker(node), request, limit_s)

    async def ask(self, node: Peer, request: Text, limit_s: float | None) -> Text:
        """Returns another node's answer; a worker's as in `patiently`. A master may itself wait for other nodes, so
        only the whole time is limited.

        Raises ClusterError (3021: none in time; 3022, 3023: no connection; otherwise that node's own error),
        JobError."""
        name = str(next(self._ids))
        asked = _Asked(node)
        self._asked[name] = asked
        answer: Text | None = None
        timeout_s = self._context.settings.communication.timeout_dapi_request_s
        try:
            async with asyncio.timeout(timeout_s):
                answer = await self._send(node, name, request)
                if answer is not None:
                    return answer
                if node.info.kind == "master":
                    answer = await asked.answer
                else:
                    answer = await patiently(
                        asked.answer,
                        node.name,
                        limit_s=limit_s,
                        look_s=node.timeout_s,
                        progress=lambda: node.incoming.strings.received,
                        is_there=lambda: node.request(commands.ECHO, LOOK),
                    )
                return answer
        except TimeoutError:
            raise ClusterError(3021, f"{node.name} did not answer within {timeout_s:g} s") from None
        except LinkClosed:
            raise _not_there(node) from None
        finally:
            del self._asked[name]
            asked.answer.cancel()  # whoever still takes the answer from the link then knows that nobody waits for it
            if asked.answer.done() and not asked.answer.cancelled() and asked.answer.exception() is None and not answer:
                # It came in the moment in which the asker gave up.
                self._texts.remove(asked.answer.result())

    async def _send(self, node: Peer, name: str, request: Text) -> Text | None:
        """Sends a request to another node; returns its answer if that arrives at once. Large requests are sealed in the
        pool, to keep net free."""
        sender = self._context.sender
        prefix = build_words(name, request.payload)
        if request.path:
            segment = Segment(request.path, request.offset, request.size)
            await node.request(commands.DAPI, body=await sender.seal(prefix, [segment]))
        elif len(prefix) > INLINE_CHUNK:
            await node.request(commands.DAPI, body=await sender.seal(prefix))
        elif ANSWER in node.capabilities:
            return answer_in(await node.request(commands.DAPI_NOW, prefix, small=True))
        else:
            await node.request(commands.DAPI, prefix)
        return None

    async def answered(self, peer: Peer, payload: bytes) -> bytes:
        """`dapi_res {id} {string id}`. Raises ClusterError 3032 on a master for an unknown id (a worker accepts it)."""
        found = parse_string_for(payload)
        asked = self._find(peer, found.id)
        on_master = self._context.settings.is_master
        if asked is None:
            peer.incoming.strings.drop(found.string_id)
            if on_master:
                raise ClusterError(3032, found.id)
            return commands.DAPI_FORWARDED_TO_WORKER
        try:
            text = await self._take(peer, found.string_id)
        except ClusterError as failure:
            _settle(asked, failure)
            raise
        if asked.answer.done():
            self._texts.remove(text)
        else:
            asked.answer.set_result(text)
        return commands.DAPI_FORWARDED if on_master else commands.DAPI_FORWARDED_TO_WORKER

    async def failed(self, peer: Peer, payload: bytes) -> bytes:
        """`dapi_err {id} {error}`: the asker gets it now, not after 200 s. Raises ClusterError 3032."""
        found = parse_addressed(payload)
        asked = self._find(peer, found.id)
        if asked is None:
            raise ClusterError(3032, found.id)
        _settle(asked, decode_err_payload(found.content))
        return commands.DAPI_ERROR_FORWARDED

    async def _take(self, peer: Peer, string_id: str) -> Text:
        """Returns the long string, which is removed. Raises ClusterError 3035, 3016."""
        if string_id.startswith("Error"):
            raise ClusterError(3016, shorten(string_id))
        segment = await peer.incoming.strings.take(string_id)
        if segment.length > INLINE_BYTES:
            return Text(b"", segment.path, segment.length)
        try:
            return Text(read_segments([segment]))
        except OSError as failure:
            raise ClusterError(1000, str(failure)) from failure
        finally:
            self._context.spool.remove(segment.path)

    def link_lost(self, peer: Peer) -> None:
        """Called when a link is no longer in the roster: the requests that its node was given fail now."""
        for asked in self._asked.values():
            if asked.peer is peer:
                _settle(asked, _not_there(peer))

    def _find(self, peer: Peer, name: str) -> _Asked | None:
        """Returns the request of this node that waits for this answer (dapi.md 8, number 21)."""
        asked = self._asked.get(name)
        return None if asked is None or asked.peer is not peer or asked.answer.done() else asked


def _settle(asked: _Asked, failure: ClusterError) -> None:
    if not asked.answer.done():
        asked.answer.set_exception(failure)


def _not_there(peer: Peer) -> ClusterError:
    if peer.info.kind == "master":
        return ClusterError(NO_MASTER, "the connection was lost before the answer came")
    return ClusterError(NOT_CONNECTED, peer.name)
