"""The distributed API on the links of a node (dapi.md 1.3, 3.2, 3.3). Every asker gets its answer as a long string.
`api_forwarder.py` has the requests that are passed on to another node.
"""

import asyncio
import itertools
from weakref import WeakKeyDictionary

from clusterd.dapi.protocol.envelope import Envelope, read_envelope
from clusterd.dapi.protocol.policy import Origin
from clusterd.dapi.protocol.registry import Cluster
from clusterd.dapi.protocol.request import LOCAL_ANY
from clusterd.errors import ClusterError
from clusterd.messages.base import Text
from clusterd.sync.links.caps import ANSWER, offered
from clusterd.sync.links.context import Context
from clusterd.sync.links.handlers import DeferredAnswer, Handler
from clusterd.sync.links.incoming import Refusal
from clusterd.sync.links.outgoing import INLINE_CHUNK
from clusterd.sync.links.peer import Peer, tell
from clusterd.sync.ports.fair_queue import FairQueue, FairQueueLimits, Ticket
from clusterd.sync.ports.net_port import LinkClosed
from clusterd.sync.ports.pool_port import JobError
from clusterd.sync.requests.api_forwarder import NO_MASTER, ApiForwarder
from clusterd.sync.requests.audit import Audit, Work
from clusterd.sync.requests.blobs import JsonBlobs
from clusterd.sync.requests.masked import with_key, without_key
from clusterd.sync.requests.prompt_answer import SOON_AT_ONCE, PromptAnswer
from clusterd.sync.requests.runner import ApiRunner
from clusterd.wire import commands
from clusterd.wire.payloads import build_words, parse_addressed
from clusterd.wire.results import encode_failure, shorten
from hashing.segment import Segment

LIMITS = FairQueueLimits(128, 128, 32, 32, known_source=2048, bytes_source=32 << 20, bytes=128 << 20)
"""32 requests of one link run at a time (dapi.md 3.3); 2,048 may wait."""
SERVICE = "the API"
STRINGS_AT_ONCE = 6
"""Most answers being sent to one node at a time: it accepts 16 long strings, and other features send strings, too."""
SAID_AGAIN_S = 1.0


class _Asker:
    """What runs for the other end of one link. `soon`: its requests that may be answered at once; `joined`: those in
    the queue; `strings`: turns of answers being sent; `said_at`: when a refusal was logged."""

    __slots__ = ("joined", "said_at", "soon", "strings")

    def __init__(self) -> None:
        self.joined: set[Ticket] = set()
        self.said_at = float("-inf")
        self.soon = 0
        self.strings = asyncio.Semaphore(STRINGS_AT_ONCE)


class ApiRequests:
    """`local` and `remote` are its commands on the local socket and between nodes."""

    def __init__(
        self,
        context: Context,
        cluster: Cluster,
    ) -> None:
        self._context = context
        settings = context.settings
        self._log = context.tag_log(context.tag, "D API")
        self._guard = context.tag_log(context.tag, "D API guard")
        self._audit = Audit(context.log, context.tag, context.events.tell)
        self._roster = context.roster
        self._texts = JsonBlobs(context.spool)
        self._forwarder = ApiForwarder(context, self._texts)
        self._runner = ApiRunner(context, cluster, self._connected, self._forwarder.ask_worker, self._texts)
        self._turns = FairQueue(LIMITS)
        self._lanes = itertools.count()
        self.giving = 0
        """Answers that their askers have not taken yet."""
        self._askers: WeakKeyDictionary[Peer, _Asker] = WeakKeyDictionary()
        """A program's request outlives its link, so they go with their peers, and not when a link ends."""
        self.local: dict[str, Handler] = {commands.DAPI: self.ask}
        self.remote: dict[str, Handler] = {
            commands.DAPI: self.serve,
            commands.DAPI_NOW: self.serve_now,
            **self._forwarder.remote,
        }
        if settings.is_master:
            self.local[commands.DAPI_FWD] = self.forward

    # ---- the local socket --------------------------------------------------------------------------------------------

    async def ask(self, peer: Peer, payload: bytes) -> DeferredAnswer:
        """`dapi` of a program: a master serves it; a worker passes it to its master, unless it is about this very node.

        Raises ClusterError 3023."""
        if self._context.settings.is_master or _is_about_this_node(payload):
            return DeferredAnswer(
                commands.DAPI_QUEUED, lambda: self._answer_program(peer, payload, self._work(peer, "", payload))
            )
        master = await self._roster.await_master()
        return DeferredAnswer(commands.DAPI_QUEUED, lambda: self._give_on(peer, master, payload))

    async def forward(self, peer: Peer, payload: bytes) -> DeferredAnswer:
        """`dapi_fwd {node} {request}` of a program on a master. Raises ClusterError 1000, 3022."""
        addressed = parse_addressed(payload)
        worker = self._roster.need_worker(addressed.id)
        return DeferredAnswer(commands.DAPI_SENT_TO_WORKER, lambda: self._give_on(peer, worker, addressed.content))

    async def _give_on(self, client: Peer, node: Peer, content: bytes) -> None:
        """Another node's answer is passed to the client unchanged."""

        async def work(envelope: Envelope) -> Text:
            request = with_key(envelope, content, self._context.settings.cluster.key)
            if node.info.kind == "worker":
                await self._runner.know_files_first(envelope)
            try:
                return await self._forwarder.ask(node, Text(request), self._runner.limit_s(envelope))
            except ClusterError as failure:
                if failure.code == NO_MASTER:
                    await self._roster.settled()
                raise

        await self._answer_program(client, content, self._audit.audited(client, content, work, given_on=True))

    # ---- between nodes -----------------------------------------------------------------------------------------------

    async def serve(self, peer: Peer, payload: bytes) -> bytes:
        """`dapi {id} {request}` of another node: acknowledged at once, answered by `dapi_res` or `dapi_err`.

        Raises ClusterError 1000 when that node does not accept the answers that wait for it."""
        self._begin(peer, payload, None)
        return commands.DAPI_QUEUED

    async def serve_now(self, peer: Peer, payload: bytes) -> bytes:
        """`dapi_now {id} {request}`: returns the answer if it is small and soon ready; otherwise works like `serve`.

        Raises Refusal when this node has not offered the capability, ClusterError as `serve`."""
        settings = self._context.settings
        if ANSWER not in offered(settings):
            raise Refusal(commands.unknown_command_text(commands.DAPI_NOW).decode())
        asker = self._asker(peer)
        if asker.soon >= min(SOON_AT_ONCE, settings.clusterd.limits.requests_per_link // 2):
            return await self.serve(peer, payload)
        asker.soon += 1
        soon = PromptAnswer()
        try:
            self._begin(peer, payload, soon)
            answer = await soon.wait()
        finally:
            soon.give_up()
            asker.soon -= 1
        if answer is not None:
            return answer
        if not soon.has_ended:
            soon.is_late = True
            await self._context.net.note_task(peer.link, commands.DAPI_ERR, parse_addressed(payload).id, is_open=True)
        return commands.DAPI_QUEUED

    def _begin(self, peer: Peer, payload: bytes, soon: PromptAnswer | None) -> None:
        """Serves a request of another node in a task of the link. `soon`: takes the answer if it can; given up when
        there is no answer to wait for. Raises ClusterError 1000."""
        addressed = parse_addressed(payload)
        name, content = addressed.id, addressed.content
        try:
            envelope = self._runner.arrived(read_envelope(content))
            turn = self._join(peer, content)
        except ClusterError as failure:
            if soon is not None:
                soon.has_ended = True
                soon.give_up()
            peer.answer_late(commands.DAPI_ERR, build_words(name, encode_failure(failure)))
            self._say_refused(peer, failure)
            return
        work = self._work(peer, name, content)
        if soon is None:
            peer.spawn(self._serve(peer, name, envelope, turn, work))
        else:
            peer.spawn(self._serve_soon(peer, name, envelope, turn, work, soon))

    async def _serve(self, peer: Peer, name: str, envelope: Envelope, turn: Ticket, work: Work) -> None:
        """Is cancelled with the link, perhaps before its first step: see `link_lost`."""
        await self._context.net.note_task(peer.link, commands.DAPI_ERR, name, is_open=True)
        try:
            await self._answer(peer, name, envelope, turn, work, None)
        finally:
            await self._context.net.note_task(peer.link, commands.DAPI_ERR, name, is_open=False)

    async def _serve_soon(
        self, peer: Peer, name: str, envelope: Envelope, turn: Ticket, work: Work, soon: PromptAnswer
    ) -> None:
        """Works like `_serve`, but without a note: net knows by the open request that the asker must be told if this
        process dies."""
        try:
            await self._answer(peer, name, envelope, turn, work, soon)
        finally:
            soon.has_ended = True
            soon.give_up()
            if soon.is_late:
                await self._context.net.note_task(peer.link, commands.DAPI_ERR, name, is_open=False)

    def link_lost(self, peer: Peer) -> None:
        """Called when a link is no longer in the roster: what its node was asked fails now, what it asked for does not
        wait any longer."""
        if peer.info.kind != "local":
            # The tasks of nodes end with their link, perhaps before their first step; those of programs run to their
            # end.
            for turn in self._asker(peer).joined:
                self._turns.leave(turn)
        self._forwarder.link_lost(peer)

    # ---- serving -----------------------------------------------------------------------------------------------------

    def _work(self, peer: Peer, name: str, content: bytes) -> Work:
        """Returns the function that executes a request here. `name`: the asker's id for it, empty for a local
        client."""
        origins: dict[str, Origin] = {"worker": "worker", "master": "master"}
        origin = origins.get(peer.info.kind, "client")
        asker = f"programs of user {peer.info.uid}" if origin == "client" else peer.name
        where = "master" if origin == "master" else peer.name
        shown = f"{where} ({name})" if name else where

        async def work(envelope: Envelope) -> Text:
            self._log.info(f"Receiving request: {shorten(envelope.function.name, 100)} from {shown}")
            request = self._texts.write(with_key(envelope, content, self._context.settings.cluster.key))
            try:
                return await self._runner.run(request, envelope, origin, asker)
            finally:
                self._texts.remove(request)

        return self._audit.audited(peer, content, work)

    def _join(self, peer: Peer, content: bytes) -> Ticket:
        """Joins the queue. Raises ClusterError 1014 when it is full."""
        turn = self._turns.join(peer.link, str(next(self._lanes)), SERVICE, len(content))
        self._asker(peer).joined.add(turn)
        return turn

    def _asker(self, peer: Peer) -> _Asker:
        return self._askers.setdefault(peer, _Asker())

    async def _answer_program(self, client: Peer, content: bytes, work: Work) -> None:
        """Serves a program's request. Each of them is a task of its own already."""
        try:
            envelope = self._runner.arrived(read_envelope(content))
            turn = self._join(client, content)
        except ClusterError as failure:
            await self._refuse(client, "", failure)
            return
        await self._answer(client, "", envelope, turn, work, None)

    async def _answer(
        self, peer: Peer, name: str, envelope: Envelope, turn: Ticket, work: Work, soon: PromptAnswer | None
    ) -> None:
        """Waits for the turn, executes the request and sends the answer, through `soon` if it takes it. Every failure
        is sent as `dapi_err`."""
        try:
            wait_s = self._context.settings.communication.timeout_dapi_request_s
            if envelope.begin_by is not None:
                wait_s = max(0.0, envelope.begin_by - self._context.clock.monotonic())
            await self._turns.begin(turn, wait_s)
            text = without_key(self._texts, envelope, await work(envelope), self._context.settings.cluster.key)
            self.giving += 1
            try:
                self._turns.free_service(turn)
                if soon is None or not soon.take(text):
                    await self._deliver(peer, name, text)
            finally:
                self.giving -= 1
                self._texts.remove(text)
        except (JobError, OSError, ClusterError) as failure:
            if soon is not None:
                soon.give_up()
            error = failure if isinstance(failure, ClusterError) else ClusterError(1000, str(failure))
            await self._refuse(peer, name, error)
        finally:
            self._turns.leave(turn)
            self._asker(peer).joined.discard(turn)

    async def _deliver(self, peer: Peer, name: str, text: Text) -> None:
        """Sends the answer as a long string, then its id. Raises ClusterError for a connected asker that does not
        accept it."""
        content = [Segment(text.path, text.offset, text.size)] if text.path else text.payload
        try:
            async with self._asker(peer).strings:
                if not text.path and len(text.payload) <= INLINE_CHUNK:
                    await peer.give_string(commands.DAPI_RES, name, text.payload)
                    return
                string_id = await self._context.sender.send_string(peer, content)
            await peer.request(commands.DAPI_RES, build_words(name, string_id) if name else string_id.encode())
        except ClusterError as failure:
            if not isinstance(failure, LinkClosed) and not isinstance(failure.__cause__, LinkClosed):
                raise
            self._guard.debug(f"{peer.name} is gone, its answer is dropped")

    def _say_refused(self, peer: Peer, failure: ClusterError) -> None:
        """Logs one line a second for each asker, so that thousands of bad requests do not fill the log."""
        now, asker = self._context.clock.monotonic(), self._asker(peer)
        if now - asker.said_at >= SAID_AGAIN_S:
            asker.said_at = now
            self._log.error(f"Error in distributed API: {failure}")

    async def _refuse(self, peer: Peer, name: str, failure: ClusterError) -> None:
        self._say_refused(peer, failure)
        encoded = encode_failure(failure)
        await tell(peer, commands.DAPI_ERR, build_words(name, encoded) if name else encoded)

    def _connected(self) -> list[str]:
        return [self._context.node_name, *(peer.name for peer in self._roster.workers())]


def _is_about_this_node(content: bytes) -> bool:
    """Stock's workers pass such requests to the master, too, but no stock program sends them (dapi.md 3.1)."""
    try:
        return read_envelope(content).request_type == LOCAL_ANY
    except ClusterError:
        return False  # said by whoever serves it


def restarted(name: str) -> bytes:
    """Returns the `dapi_err` of a request that the previous sync process was serving."""
    return build_words(name, encode_failure(ClusterError(1000, "the sync process of this node was restarted")))
