"""Tracks peers and routes each request to its handler. One Core per sync process; the side of the node's role has the
handlers."""

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any

from clusterd import stacks
from clusterd.errors import ClusterError
from clusterd.messages.bodies import OpenBody
from clusterd.messages.links import (
    Answered,
    HelloRefused,
    KeepaliveSeen,
    LinkDown,
    LinkInfo,
    LinkUp,
    MasterAway,
    NetHello,
    NetToSync,
    PeerRequest,
    SlabsReturned,
    Unanswered,
)
from clusterd.sync.links.bound import bind
from clusterd.sync.links.caps import recall
from clusterd.sync.links.context import Context
from clusterd.sync.links.handlers import DeferredAnswer
from clusterd.sync.links.incoming import Incoming, Refusal
from clusterd.sync.links.incoming_strings import SealViolation
from clusterd.sync.links.partials import Partials
from clusterd.sync.links.peer import Peer, file_limit, tell
from clusterd.sync.links.privileged import check_privileged
from clusterd.sync.manifest.scan import ScanFailed
from clusterd.sync.ports.net_port import LinkClosed
from clusterd.sync.ports.pool_port import JobError
from clusterd.sync.ports.spool import SpoolRefused
from clusterd.sync.ports.tasks import Tasks
from clusterd.sync.ports.troubles import round_survives
from clusterd.sync.ports.zip_limit import ZipLimit
from clusterd.sync.requests.agent_counts import AgentCounts
from clusterd.sync.requests.api import restarted as api_restarted
from clusterd.sync.requests.sendsync_master import restarted
from clusterd.sync.requests.status import node_status
from clusterd.sync.side import Side
from clusterd.sync.side_master import MasterSide
from clusterd.sync.side_worker import WorkerSide
from clusterd.wire import commands
from clusterd.wire.command_table import LARGE, NEED_LEADER, SMALL, Command
from clusterd.wire.payloads import build_task_failure
from clusterd.wire.results import dump_json, encode_failure
from ipc.descriptor import Descriptor


class Core:
    """Passes each message of net to its feature. Only Core adds peers to the roster and removes them."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._roster = context.roster
        self._serving = ""
        self._away = ""
        self._agent_counts = AgentCounts(context)
        self._tasks = Tasks(context.tag_log(self._context.tag, "Sync").error)
        self.partials = Partials(context.spool, context.clock.monotonic)
        self._side: Side = MasterSide(context) if context.settings.is_master else WorkerSide(context)
        side, on_master = self._side, context.settings.is_master
        self._remote = bind("worker" if on_master else "master", side.remote, side.sealed, on_master=on_master)
        self._local = bind("local", {**side.local, commands.STATUS: self.tell_status}, {}, on_master=on_master)

    # ---- life --------------------------------------------------------------------------------------------------------

    async def handle(self, message: NetToSync) -> None:
        """Handles one message of net. Each request is answered by a task of its own; the tasks begin in the order of
        the requests."""
        match message:
            case PeerRequest():
                self._tasks.spawn(self._answer(message))
            case Answered():
                await self._context.net.answered(message)
            case Unanswered():
                self._context.net.unanswered(message)
            case SlabsReturned():
                await self._context.net.slabs_returned(message)
            case KeepaliveSeen():
                peer = self._roster.at(message.link)
                if peer is not None:
                    peer.keepalive_at = message.keepalive_at
            case LinkUp():
                await self._serve_link(message.info)
            case LinkDown():
                await self._link_down(message.link, message.reason, message.silent_s)
            case HelloRefused():
                self._side.refused(message)
            case MasterAway():
                self._away = message.reason
                self._side.away(message.reason)
            case NetHello():
                await self._net_hello(message)

    async def net_lost(self) -> None:
        """net has died, and every link with it."""
        self._serving = ""
        async with contextlib.AsyncExitStack() as ending:
            ending.push_async_callback(self._context.net.net_lost)
            for link in [peer.link for peer in self._roster.all()]:
                ending.push_async_callback(self._link_down, link, "the network process of this node ended")

    async def _net_hello(self, message: NetHello) -> None:
        """Adopts the links that a net process holds: of a new net, or of the same one after a restart of sync."""
        for link in [peer.link for peer in self._roster.all()]:
            with self._survives("links that net has given up"):
                await self._link_down(link, "the network process of this node gave it up")
        self._serving = message.serving
        self._away = message.away
        if message.away:
            self._side.away(message.away)
        for info in message.links:
            with self._survives("links that net holds"):
                await self._serve_link(info)
        for task in message.open_tasks:
            peer = self._roster.at(task.link)
            if peer is not None and task.command == commands.CAPS:
                if peer.info.kind == "worker":  # a master is asked anew
                    recall(peer, task.task_id, self._context.settings)
            elif peer is not None:
                self._tasks.spawn(self._end_lost_task(peer, task.command, task.task_id))

    async def _end_lost_task(self, peer: Peer, command: str, task_id: str) -> None:
        """The sync process that was sending this file, or was answering this sendsync request, has died: tells the
        peer, which would otherwise wait until its time-out."""
        if command in (commands.SENDSYN_ERR, commands.DAPI_ERR):
            await self._context.net.note_task(peer.link, command, task_id, is_open=False)
            text = restarted(task_id) if command == commands.SENDSYN_ERR else api_restarted(task_id)
            await tell(peer, command, text)
            return
        error = ClusterError(1000, "the sync process was restarted while it sent this file")
        await tell(peer, commands.FILE_NOT_SENT[command], build_task_failure(task_id, error))
        await peer.note_sending(command, task_id, is_open=False)

    async def _serve_link(self, info: LinkInfo) -> None:
        """Serves a link. If that fails, closes the link: the peer dials again instead of waiting on an unserved
        link."""
        try:
            await self._link_up(info)
        except Exception:
            await self._context.net.close(info.link, "this node could not begin to serve it")
            raise

    async def _link_up(self, info: LinkInfo) -> None:
        settings = self._context.settings
        node = info.name if info.kind == "worker" else settings.cluster.node_name
        incoming = Incoming(
            node,
            self._context.spool,
            self._context.jobs,
            file_limit=file_limit(settings),
            limits=settings.clusterd.limits,
            now=self._context.clock.awake,
            partials=self.partials if info.kind == "master" else None,
            sender=info.name,
        )
        peer = Peer(
            info,
            self._context.net,
            self._context.jobs,
            incoming,
            ZipLimit(settings.communication),
            settings.communication.timeout_cluster_request_s,
            self._context.tag_log(self._context.tag, "Sync").error,
            self._context.check_lead if info.kind == "worker" and self._context.leadership is not None else None,
        )
        self._roster.add(peer)
        self._side.link_up(peer)

    async def _link_down(self, link: int, why: str, silent_s: float = 0.0) -> None:
        peer = self._roster.remove(link)
        if peer is not None:
            peer.silent_s = silent_s
            await self._side.link_down(peer, why)

    def forever(self) -> list[Coroutine[Any, Any, None]]:
        """The node's endless tasks, apart from those of its links. For the owner of the process, once."""
        return self._side.forever()

    async def tell_status(self, client: Peer, payload: bytes) -> bytes:
        database = await self._agent_counts.shown()
        part = self._side.status(self._away)
        await asyncio.to_thread(self._context.look_at_role)
        agents = database | {"syncs": part.agents}
        return dump_json(node_status(self._context, self._serving, part, agents, await self._side.ha_status()))

    def reloaded(self) -> None:
        """The settings of the context are other ones now: they hold for the links that are up, too."""
        for peer in self._roster.all():
            peer.set_bounds(self._context.settings)

    # ---- requests ----------------------------------------------------------------------------------------------------

    async def _answer(self, message: PeerRequest) -> None:
        peer = self._roster.at(message.link)
        if peer is None:
            await self._context.net.release(message.body)
            return
        peer.spoke.set()
        net = self._context.net
        try:
            if message.command == commands.ECHO and message.body is not None:
                await self._echo(message.body)
                await net.reply(message.link, message.serial, commands.OK, body=message.body)
                return
            payload = await self._handled(peer, message)
            if self._context.leadership is not None and peer.info.kind == "worker":
                self._context.check_lead()
            if isinstance(payload, DeferredAnswer):
                if payload.first is not None:
                    await net.reply(message.link, message.serial, commands.OK, payload.first, more=True)
                answer = await payload.work()
                if answer is not None:
                    # An empty answer with more to follow. What follows needs the asker's response, which is read with
                    # its next requests: they must not wait until this one is answered.
                    await net.reply(message.link, message.serial, "", more=True)
                    await tell(peer, *answer)  # the daemons hang up without an answer (dapi.md 1.4)
                await net.reply(message.link, message.serial, "")
                return
        except SealViolation as violation:
            await net.close(message.link, str(violation))
        except Refusal as refusal:
            await net.reply(message.link, message.serial, commands.ERR, str(refusal).encode())
        except ClusterError as failure:
            # Whoever asks with a command of ours is told why it is refused: no fault of this node.
            is_told = isinstance(failure, SpoolRefused) or message.command in commands.OF_OPERATORS
            log = "" if is_told else str(failure)
            await net.reply(message.link, message.serial, commands.ERR, encode_failure(failure), log=log)
        except (JobError, ScanFailed, OSError) as failure:
            error = ClusterError(1000, str(failure))
            await net.reply(message.link, message.serial, commands.ERR, encode_failure(error), log=str(error))
        except Exception as bug:
            # An unexpected failure of one request must neither end the process nor leave the peer without an answer.
            error = ClusterError(1000, f"{type(bug).__name__} while answering {message.command}")
            await net.reply(message.link, message.serial, commands.ERR, encode_failure(error), log=str(error))
            self._context.tag_log(self._context.tag, "Sync").error(
                f"Unexpected failure while answering {message.command}: {stacks.told()}"
            )
        else:
            command = commands.OK_NEW_FILE if message.command == commands.NEW_FILE else commands.OK
            await net.reply(message.link, message.serial, command, payload)

    async def _echo(self, body: list[Descriptor]) -> None:
        """Checks that a large echo is sealed with our key; the body itself is sent back unchanged."""
        try:
            await self._open(body, LARGE, check_only=True)
        except BaseException:
            await self._context.net.release(body)
            raise

    async def _open(
        self, body: list[Descriptor], limit: int, *, check_only: bool = False, sealed: bool = True
    ) -> bytes:
        job = OpenBody(body, limit, check_only=check_only, sealed=sealed)
        try:
            return (await self._context.jobs.run(job, urgent=True)).payload
        except JobError as failure:
            if failure.kind == "bad-seal":
                raise SealViolation from failure
            raise

    async def _handled(self, peer: Peer, message: PeerRequest) -> bytes | DeferredAnswer:
        """Returns the payload of `ok`, or what is sent instead. Sealed bodies of chunks go to the pool unopened; others
        are opened first."""
        is_local = peer.info.kind == "local"
        bound = (self._local if is_local else self._remote).get(message.command)
        try:
            if self._context.leadership is not None and (not is_local or message.command in NEED_LEADER):
                self._context.check_lead()
            if bound is not None and bound.sealed is not None:
                await _admit(peer, bound.row)
                return await bound.sealed(peer, message.payload, message.body)
            payload = message.payload
            if message.body is not None:
                limit = SMALL if bound is None else bound.row.most_bytes or SMALL
                payload = await self._open(message.body, limit, sealed=not is_local)
        finally:
            await self._context.net.release(message.body)
        if peer.gone.is_set():  # it ended while the body was opened: nobody would clean up after this request
            raise LinkClosed(message.command)
        if bound is None or bound.opened is None:
            raise Refusal(commands.unknown_command_text(message.command).decode())
        await _admit(peer, bound.row)
        return await bound.opened(peer, payload)

    def _survives(self, subject: str) -> contextlib.AbstractContextManager[None]:
        return round_survives(self._context.tag_log(self._context.tag, "Sync"), self._context.troubles, subject)


async def _admit(peer: Peer, row: Command) -> None:
    """Raises ClusterError 4000 for a program that may not send this command, and Refusal, with stock's text, for a node
    that has not agreed to it. A master may use what was agreed as soon as it has answered: until that answer has been
    read here its commands wait."""
    if row.privileged:
        check_privileged(peer, row.privileged)
    if not row.capability:
        return
    if peer.info.kind == "master":
        await peer.agreed()
    if row.capability not in peer.capabilities:
        raise Refusal(commands.unknown_command_text(row.word).decode())
