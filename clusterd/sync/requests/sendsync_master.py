"""Sendsync on a master: a worker's client asks one of the master's daemons (wire.md 4.13, wdb.md 9.3 and 9.4).

The stock master serves one request at a time and blocks meanwhile (wire.md P9). Here many run at once, with limits, so
that a silent daemon or worker delays no other. Requests of one client are answered in their order. Messages are never
logged and never quoted in an error: they may hold agent keys.
"""

import asyncio
import re
from collections import Counter
from pathlib import PurePosixPath
from typing import NamedTuple

from clusterd.errors import ClusterError, in_passing
from clusterd.sync.links.context import Context
from clusterd.sync.links.handlers import Handler
from clusterd.sync.links.peer import Peer
from clusterd.sync.links.tags import MASTER
from clusterd.sync.ports.fair_queue import FairQueue, FairQueueLimits, Ticket
from clusterd.sync.ports.net_port import LinkClosed
from clusterd.sync.requests.audit import SUBTAG as AUDIT
from clusterd.sync.requests.sendsync_rights import WorkerRights, described, outcome, through, without_own
from clusterd.sync.requests.sendsync_worker import LARGEST_SENDSYNC
from clusterd.wdb.stream import ask_once
from clusterd.wire import commands
from clusterd.wire.payloads import MAX_ID_BYTES, build_words, parse_addressed, parse_sendsync
from clusterd.wire.results import dump_json, shorten

SOCKETS = {
    "authd": "queue/sockets/auth",
    "remoted": "queue/sockets/remote",
    "task-manager": "queue/tasks/task",
    "wazuh-db": "queue/db/wdb",
}
LIMITS = FairQueueLimits(256, 192, 64, 48, known_source=1064, bytes_source=16 << 20, bytes=64 << 20)
WAIT_SHARE = 0.25
DAEMON_SHARE = 0.5
"""Shares of the time that a worker waits for the whole (timeout_dapi_request): in the queue, and for the daemon. So the
worker gets the reason in time."""
LARGEST_ANSWER = 5242880
STRINGS_AT_ONCE = 8
"""Most answers being sent to one worker at a time: it accepts 16 long strings, and other features send strings, too."""
SHOWN_NAME = 64
_CLIENT = re.compile(f"[!-~]{{1,{MAX_ID_BYTES}}}")


class _Worker:
    """What runs for one worker's connection: its requests, how many each client has, answers being sent."""

    __slots__ = ("clients", "is_told", "strings", "turns")

    def __init__(self) -> None:
        self.turns: set[Ticket] = set()
        self.clients: Counter[str] = Counter()
        self.strings = asyncio.Semaphore(STRINGS_AT_ONCE)
        self.is_told = False


class _AskedOfDaemon(NamedTuple):
    """What the audit logs of a request; `reads`: it only reads, and nothing secret."""

    text: str
    reads: bool


class SendsyncMaster:
    """`remote` is its command on the links of the workers."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._log = context.tag_log(MASTER, "SendSync")
        self._turns = FairQueue(LIMITS)
        self._workers: dict[int, _Worker] = {}
        self._rights = WorkerRights(context.clock.monotonic)
        self.giving = 0
        """Answers that their askers have not taken yet."""
        self.remote: dict[str, Handler] = {commands.SENDSYNC: self.sendsync}

    async def sendsync(self, peer: Peer, payload: bytes) -> bytes:
        """Acknowledges at once. Even a malformed request is answered by `sendsyn_err`, which stock's workers read.

        Raises ClusterError 1000 when it names no client, or when too many such answers wait for this worker."""
        client, content = parse_addressed(payload)
        if not _CLIENT.fullmatch(client):
            raise ClusterError(1000, "a client is named by visible ASCII characters")
        try:
            daemon, message = read_request(content)
            self._log.debug(f"Receiving SendSync request ({daemon}) from {peer.name} ({client})")
            text, reads = described(daemon, message)
            asked = _AskedOfDaemon(f"{text} asked by worker {peer.name} (SendSync)", reads)
            given = self._rights.permitted(peer.name, daemon, message, self._context.settings.clusterd.worker_api)
            if given is None:
                peer.answer_late(commands.SENDSYN_ERR, build_words(client, str(self._refuse(asked, text))))
                return commands.SENDSYNC_QUEUED
            if daemon == "authd":
                is_ours = self._context.settings.serves_store
                given = through(given, peer.name, message) if is_ours else without_own(given)
            turn = self._turns.join(peer.link, client, daemon, len(given))
        except ClusterError as refusal:
            peer.answer_late(commands.SENDSYN_ERR, build_words(client, str(refusal)))
            self._failed("", refusal)
            return commands.SENDSYNC_QUEUED
        worker = self._workers.setdefault(peer.link, _Worker())
        worker.turns.add(turn)
        worker.clients[client] += 1
        peer.spawn(self._serve(worker, peer, client, turn, given, asked))
        return commands.SENDSYNC_QUEUED

    async def _serve(
        self, worker: _Worker, peer: Peer, client: str, turn: Ticket, message: bytes, asked: _AskedOfDaemon
    ) -> None:
        """Waits for the turn, asks the daemon and sends the answer. Is cancelled with the link, perhaps before its
        first step: see `link_lost`."""
        try:
            await self._context.net.note_task(peer.link, commands.SENDSYN_ERR, client, is_open=True)
            try:
                answer = await self._ask(turn, message)
                self._audit(asked, outcome(answer))
                worker_api = self._context.settings.clusterd.worker_api
                self._rights.answered(peer.name, turn.service, message, answer, worker_api)
            except ClusterError as failure:
                self._audit(asked, f"no answer ({failure})")
                self._failed(turn.service, failure)
                await self._say(worker, peer, commands.SENDSYN_ERR, build_words(client, str(failure)))
            except asyncio.CancelledError:
                self._audit(asked, "broken off, it may have been done")
                raise
            else:
                await self._give(worker, peer, client, turn.service, answer)
        finally:
            self._turns.leave(turn)
            worker.turns.discard(turn)
            worker.clients[client] -= 1
            if not worker.turns and self._workers.get(peer.link) is worker:
                del self._workers[peer.link]
            if not worker.clients[client]:
                del worker.clients[client]
                await self._context.net.note_task(peer.link, commands.SENDSYN_ERR, client, is_open=False)

    async def _ask(self, turn: Ticket, message: bytes) -> bytes:
        """Returns the daemon's answer. Raises ClusterError 1013, 1121, 1014 (wdb.md 9.4)."""
        settings = self._context.settings
        whole_s = settings.communication.timeout_dapi_request_s
        path = SOCKETS[turn.service]
        try:
            await self._turns.begin(turn, whole_s * WAIT_SHARE)
            answer = await ask_once(f"{settings.root}/{path}", message, whole_s * DAEMON_SHARE)
        except ClusterError as failure:
            if failure.code in (1013, 1121):
                raise ClusterError(failure.code, PurePosixPath(path).name) from failure
            raise ClusterError(failure.code, (failure.extra or "").replace(f"{settings.root}/", "")) from failure
        finally:
            self._turns.free_service(turn)
        if len(answer) > LARGEST_ANSWER:
            raise ClusterError(1014, f"an answer of {len(answer)} bytes is above the limit of {LARGEST_ANSWER}")
        return answer

    async def _give(self, worker: _Worker, peer: Peer, client: str, daemon: str, answer: bytes) -> None:
        """Sends the answer as a long string, then its id. A worker that cannot accept it gets `sendsyn_err`."""
        self.giving += 1
        try:
            async with worker.strings:
                string_id = await self._context.sender.send_string(peer, answer)
                await self._say(worker, peer, commands.SENDSYN_RES, build_words(client, string_id))
        except ClusterError as failure:
            if isinstance(failure.__cause__, LinkClosed):
                self._lost(worker, peer)
                return
            self._failed(daemon, failure)
            await self._say(worker, peer, commands.SENDSYN_ERR, build_words(client, str(failure)))
        finally:
            self.giving -= 1

    async def _say(self, worker: _Worker, peer: Peer, command: str, payload: bytes) -> None:
        try:
            await peer.request(command, payload)
        except LinkClosed:
            self._lost(worker, peer)
        except ClusterError as refusal:
            # Usually the client has hung up.
            tag_log = self._context.tag_log(MASTER, "SendSync guard")
            tag_log.debug(f"{peer.name} did not take {command}: {in_passing(refusal)}")

    # ---- ends --------------------------------------------------------------------------------------------------------

    def link_lost(self, peer: Peer) -> None:
        """Called when a worker's link is no longer in the roster; its tasks are cancelled with the peer."""
        worker = self._workers.pop(peer.link, None)
        if worker is not None:
            self._lost(worker, peer)
            for turn in worker.turns:
                self._turns.leave(turn)

    def _audit(self, asked: _AskedOfDaemon, end: str) -> None:
        self._context.log.line("DEBUG2" if asked.reads else "INFO", MASTER, AUDIT, f"{asked.text}: {end}.")

    def _refuse(self, asked: _AskedOfDaemon, text: str) -> ClusterError:
        worker_api = self._context.settings.clusterd.worker_api
        self._audit(asked, "refused with 4000")
        return ClusterError(4000, f"this master's clusterd.worker_api is {worker_api}: {text}")

    def _failed(self, daemon: str, failure: ClusterError) -> None:
        """Stock's line has the whole request; the message is left out here (dapi.md 8, number 15)."""
        shown = {"daemon_name": daemon} if daemon else {}
        self._log.error(f"Error in SendSync (parameters {shown}): {failure}")

    def _lost(self, worker: _Worker, peer: Peer) -> None:
        if not worker.is_told:
            worker.is_told = True
            self._log.error(f"Error in Sendsync. The destination node is not connected or does not exist: {peer.name}.")


def read_request(content: bytes) -> tuple[str, bytes]:
    """Returns the daemon's name, one of SOCKETS, and the bytes to send it: an object as the JSON that stock writes, a
    text unchanged.

    Raises ClusterError 1014 for anything else."""
    if len(content) > LARGEST_SENDSYNC:
        raise ClusterError(1014, f"a request of {len(content)} bytes is above the limit of {LARGEST_SENDSYNC}")
    try:
        request = parse_sendsync(content)
        message = request.message.encode() if isinstance(request.message, str) else dump_json(request.message)
    except ClusterError as failure:
        raise ClusterError(1014, failure.extra) from None
    except RecursionError:
        raise ClusterError(1014, "the message is nested too deeply") from None
    if request.daemon_name not in SOCKETS:
        raise ClusterError(1014, repr(shorten(request.daemon_name, SHOWN_NAME)))
    return request.daemon_name, message


def restarted(client: str) -> bytes:
    """Returns the `sendsyn_err` of a request that the previous sync process was serving."""
    return build_words(client, str(ClusterError(1014, "the sync process of the master was restarted")))
