"""Sendsync on a worker: a daemon of this machine asks a daemon of the master (wire.md 4.13, wdb.md 9.2, dapi.md 1.10).

A local client's request gets no response (`sendsync`), or an immediate `ok` (`sendasync`). The answer is sent to it as
a request of ours with command `ok`, a failure as one with command `err`. The master's answers name the client only by
its number, so each client has one request at the master at a time.
"""

import asyncio

from clusterd.errors import ClusterError
from clusterd.sync.links.caps import CLUSTERD
from clusterd.sync.links.context import Context
from clusterd.sync.links.handlers import DeferredAnswer, Handler
from clusterd.sync.links.outgoing import INLINE_CHUNK, read_segments
from clusterd.sync.links.peer import Peer
from clusterd.sync.ports.fair_queue import FairQueue, FairQueueLimits
from clusterd.sync.ports.net_port import LinkClosed, NotSent
from clusterd.sync.ports.pool_port import JobError
from clusterd.sync.requests.sendsync_rights import WHO
from clusterd.wire import commands
from clusterd.wire.payloads import build_words, parse_addressed, parse_sendsync, parse_string_for
from clusterd.wire.results import dump_json, encode_failure, shorten

LOST = "the connection was lost before the answer came; what was asked may have been done"
"""Follows 3023 when the request had been sent; 3023 alone says that it had not."""
LARGEST_SENDSYNC = 1_000_000
"""Most bytes of a request (wdb.md 9.2)."""
LARGEST_ANSWER = 5242880
"""Most bytes of an answer: what the local socket carries undivided. The daemons themselves accept 65,536."""
LARGEST_ERROR = 65536
LIMITS = FairQueueLimits(64, 48, 64, 48, known_source=1024, bytes_source=64 << 20, bytes=64 << 20)
"""A clusterd master serves 64 requests of a worker at a time, 48 of them for one daemon."""
DAEMONS = frozenset({"authd", "remoted", "task-manager", "wazuh-db"})
OTHER_DAEMON = "another daemon"
WORKER = 0
TIMEOUT, NO_MASTER = 3020, 3023


def _plain(payload: bytes) -> bytes:
    """For a master that is no clusterd: without the members that only a store of ours knows."""
    request = parse_sendsync(payload)
    if isinstance(request.message, str) or WHO not in request.message:
        return payload
    message = {name: value for name, value in request.message.items() if name != WHO}
    return dump_json({"daemon_name": request.daemon_name, "message": message})


class _OpenSendsync:
    """A request of a local client, from its arrival to its answer. `is_answered`: the master has sent an answer or a
    failure."""

    __slots__ = ("answer", "client", "is_answered", "master", "task")

    def __init__(self, client: Peer, task: "asyncio.Task[object]") -> None:
        self.client = client
        self.task = task
        self.master: Peer | None = None
        self.answer: asyncio.Future[tuple[str, bytes]] = asyncio.get_running_loop().create_future()
        self.is_answered = False

    def settle(self, command: str, payload: bytes) -> None:
        self.is_answered = True
        if not self.answer.done():
            self.answer.set_result((command, payload))


class SendsyncWorker:
    """`local` and `remote` are its commands on the local socket and on the link to the master."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._roster = context.roster
        self._turns = FairQueue(LIMITS)
        self._known: set[_OpenSendsync] = set()
        self._with_master: dict[str, _OpenSendsync] = {}
        self._unclaimed: set[str] = set()
        self.local: dict[str, Handler] = {commands.SENDSYNC: self.sendsync, commands.SENDASYNC: self.sendasync}
        self.remote: dict[str, Handler] = {commands.SENDSYN_RES: self.answered, commands.SENDSYN_ERR: self.failed}

    # ---- the local socket --------------------------------------------------------------------------------------------

    async def sendsync(self, peer: Peer, payload: bytes) -> DeferredAnswer:
        return self._accept(peer, payload, None)

    async def sendasync(self, peer: Peer, payload: bytes) -> DeferredAnswer:
        return self._accept(peer, payload, commands.SENDASYNC_QUEUED)

    def _accept(self, client: Peer, payload: bytes, first: bytes | None) -> DeferredAnswer:
        """Raises ClusterError for a request that is not passed on."""
        self._roster.need_master()
        if len(payload) > LARGEST_SENDSYNC:
            raise ClusterError(1000, f"a request of {len(payload)} bytes is above the limit of {LARGEST_SENDSYNC}")
        daemon = parse_sendsync(payload).daemon_name

        service = daemon if daemon in DAEMONS else OTHER_DAEMON
        return DeferredAnswer(first, lambda: self._outcome(client, service, payload))

    async def _outcome(self, client: Peer, service: str, payload: bytes) -> tuple[str, bytes]:
        """Returns command and payload of the message to the client."""
        timeout_s = self._context.settings.communication.timeout_dapi_request_s
        task = asyncio.current_task()
        assert task is not None
        asked = _OpenSendsync(client, task)
        self._known.add(asked)
        try:
            turn = self._turns.join(WORKER, client.name, service, len(payload))
            try:
                async with asyncio.timeout(timeout_s):
                    await turn.begun
                    return await self._ask_master(asked, payload)
            finally:
                self._turns.leave(turn)
        except TimeoutError:
            return commands.ERR, encode_failure(ClusterError(3021, f"the master did not answer within {timeout_s:g} s"))
        except ClusterError as failure:
            if failure.code == NO_MASTER:
                await self._roster.settled()
            return commands.ERR, encode_failure(failure)
        finally:
            self._known.discard(asked)

    async def _ask_master(self, asked: _OpenSendsync, payload: bytes) -> tuple[str, bytes]:
        """Raises ClusterError: 3023 without a link, or the master's refusal."""
        master, name = self._roster.need_master(), asked.client.name
        if name in self._unclaimed:
            # The answer to an earlier request could be mistaken for the one to this request.
            raise ClusterError(1000, "an earlier request was not answered in time; ask over another connection")
        asked.master = master
        self._with_master[name] = asked
        refused = False
        try:
            try:
                await self._forward(
                    master, build_words(name, payload if master.program == CLUSTERD else _plain(payload))
                )
            except LinkClosed:
                raise ClusterError(NO_MASTER, LOST) from None
            except JobError as failure:
                refused = True
                raise ClusterError(3018, str(failure)) from failure
            except ClusterError as failure:
                refused = failure.code != TIMEOUT or isinstance(failure, NotSent)
                if not asked.is_answered:
                    raise
            return await asked.answer
        finally:
            del self._with_master[name]
            if not refused and not asked.is_answered and self._roster.master() is master:
                self._unclaimed.add(name)

    async def _forward(self, master: Peer, payload: bytes) -> None:
        """Large ones are sealed in the pool, to keep net free."""
        if len(payload) <= INLINE_CHUNK:
            await master.request(commands.SENDSYNC, payload)
        else:
            await master.request(commands.SENDSYNC, body=await self._context.sender.seal(payload))

    # ---- the link to the master --------------------------------------------------------------------------------------

    async def answered(self, peer: Peer, payload: bytes) -> bytes:
        """`sendsyn_res`. An answer without a waiting client is dropped; the master gets the same response (wire.md
        4.1)."""
        found = parse_string_for(payload)
        asked = self._find(peer, found.id)
        if asked is None:
            peer.incoming.strings.drop(found.string_id)
            return commands.SENDSYNC_FORWARDED
        try:
            content = await self._take(peer, found.string_id)
        except ClusterError as failure:
            log = self._context.tag_log(self._context.tag, "SendSync")
            log.error(f"Error sending sendsync response to local client: {failure}")
            asked.settle(commands.ERR, encode_failure(failure))
            raise
        asked.settle(commands.OK, content)
        return commands.SENDSYNC_FORWARDED

    async def failed(self, peer: Peer, payload: bytes) -> bytes:
        """`sendsyn_err`: the text is passed to the client unchanged."""
        found = parse_addressed(payload)
        asked = self._find(peer, found.id)
        if asked is None:
            raise ClusterError(1000, repr(found.id))
        asked.settle(commands.ERR, found.content[:LARGEST_ERROR])
        return commands.SENDSYNC_ERROR_FORWARDED

    def _find(self, master: Peer, name: str) -> _OpenSendsync | None:
        """Returns the request that waits for this answer. An answer that arrives after its client gave up frees the
        client's number."""
        asked = self._with_master.get(name)
        if asked is None:
            self._unclaimed.discard(name)
            return None
        return None if asked.is_answered or asked.master is not master else asked

    async def _take(self, peer: Peer, string_id: str) -> bytes:
        """Returns the long string, which is removed. Raises ClusterError: 3035 it does not exist, 3016 it is too long
        or was never sent."""
        if string_id.startswith("Error"):
            raise ClusterError(3016, shorten(string_id))
        segment = await peer.incoming.strings.take(string_id)
        try:
            if segment.length > LARGEST_ANSWER:
                raise ClusterError(3016, f"an answer of {segment.length} bytes is above the limit of {LARGEST_ANSWER}")
            return read_segments([segment])
        except OSError as failure:
            raise ClusterError(1000, str(failure)) from failure
        finally:
            self._context.spool.remove(segment.path)

    # ---- ends --------------------------------------------------------------------------------------------------------

    def link_lost(self, peer: Peer) -> None:
        """Called when a link is no longer in the roster: its requests end now."""
        if peer.info.kind == "master":
            self._unclaimed.clear()
        for asked in list(self._known):
            if asked.client is peer:
                asked.task.cancel()
            elif asked.master is peer and not asked.answer.done():
                asked.answer.set_exception(ClusterError(NO_MASTER, LOST))
