"""The sync process: channels, loop, stop. Decisions are in core.py and the features."""

import asyncio
from contextlib import AbstractContextManager

import uvloop

from clusterd.beat import pause
from clusterd.child_loop import run_loop, until_stopped
from clusterd.clock import Clock
from clusterd.config.loading import load
from clusterd.dapi.protocol.policy import TABLE
from clusterd.event_sender import EventSender
from clusterd.framework import location
from clusterd.leadership import Leadership
from clusterd.logs import Log
from clusterd.memory import Trimmer
from clusterd.messages.links import NetHello, NetToSync, SyncHello
from clusterd.messages.pool import AnyJob, JobDone, PoolHello, PoolToSync, StartJob
from clusterd.reload import adopt
from clusterd.rights import too_many_rights
from clusterd.rundir import jobs_socket, sync_socket
from clusterd.settings import Settings
from clusterd.signals import heed_signals
from clusterd.sync.core import Core
from clusterd.sync.links.change_gate import ChangeGate
from clusterd.sync.links.context import Context
from clusterd.sync.links.outgoing import Sender
from clusterd.sync.links.roster import Roster
from clusterd.sync.links.tags import role_tag
from clusterd.sync.manifest.change_events import ChangeEvents
from clusterd.sync.manifest.keeper import ManifestKeeper
from clusterd.sync.ports.framework_crew import Crew
from clusterd.sync.ports.framework_port import Framework, FrameworkPort, MissingFramework
from clusterd.sync.ports.framework_supply import Supply
from clusterd.sync.ports.net_port import NetPort
from clusterd.sync.ports.net_queue import NetQueue
from clusterd.sync.ports.pool_port import PoolPort
from clusterd.sync.ports.slabs import SlabPool
from clusterd.sync.ports.spool import Spool
from clusterd.sync.ports.tag_log import GUARD, TagLog
from clusterd.sync.ports.troubles import Troubles, round_survives
from clusterd.sync.requests.log_rotation import rotate_nightly
from clusterd.wdb.client import Database
from ipc.arena import Arena
from ipc.board import Board
from ipc.channel import RouterChannel, make_context
from ipc.codec import Decoder
from ipc.errors import BadMessage, NoCredit
from ipc.job_queue import JobQueue

HEARTBEAT_S = 0.5
STORE_START_S = 5.0
"""How long this node's own store may take to serve after sync has begun."""
MAX_WAITING_JOBS = 10_000
HWM = 1000


def run(
    settings: Settings, arena: Arena, board: Board, log: Log, pool_size: int, *, framework_fd: int | None = None
) -> int:
    """The child's main function. `framework_fd`: where the supervisor is asked for processes of the framework, None
    without one. Returns the exit code."""
    main = _SyncProcess(settings, arena, board, log, pool_size, framework_fd).run
    return run_loop(main, settings.root, loop_factory=uvloop.new_event_loop)


def _framework_names() -> dict[tuple[str, str], bool]:
    """What the framework may be asked for, and whether it is a coroutine."""
    return {(row.module, row.qualname): row.is_coroutine for row in TABLE if row.who != "ours"}


class _SyncProcess:
    def __init__(
        self,
        settings: Settings,
        arena: Arena,
        board: Board,
        log: Log,
        pool_size: int,
        framework_fd: int | None,
    ) -> None:
        self._settings = settings
        self._arena = arena
        self._board = board
        self._row = board.row("sync")
        self._log = log
        if settings.is_master:
            log.bound_workers()
        self._trimmer = Trimmer(self._row.set_own_bytes)
        self._pool_size = pool_size
        self._framework_fd = framework_fd
        self._crew: Crew | None = None
        self._incarnation = self._row.snapshot().incarnation
        self._is_known_to_net = False
        self._admitted = False
        self._troubles = Troubles()
        self._stop = asyncio.Event()

    async def run(self) -> int:
        root = self._settings.root
        heed_signals(self._stop.set, self._reload)
        zmq_context = make_context()
        self._net_channel: RouterChannel[NetToSync] = RouterChannel(
            sync_socket(root), Decoder(NetToSync), HWM, zmq_context
        )
        self._pool_channel: RouterChannel[PoolToSync] = RouterChannel(
            jobs_socket(root), Decoder(PoolToSync), HWM, zmq_context, announces=True
        )
        self._to_net = NetQueue(self._net_channel, self._board.row("net"), self._survives)
        self._queue: JobQueue[AnyJob] = JobQueue(MAX_WAITING_JOBS)
        self._context = self._make_context()
        self._context.spool.prepare()
        self._core = Core(self._context)
        tasks = [
            asyncio.create_task(work)
            for work in (
                self._serve_net(),
                self._to_net.run(),
                self._serve_pool(),
                self._beat(),
                self._say_hello(),
                self._rotate(),
            )
        ]
        if self._crew is not None:
            tasks.append(asyncio.create_task(self._crew.forever()))
        tasks += [asyncio.create_task(work) for work in (self._context.manifests.run(), *self._core.forever())]
        self._row.set_ready()
        try:
            await until_stopped(self._stop, tasks)
            return 0
        finally:
            self._row.set_stopping()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._core.net_lost()
            await self._context.manifests.close()
            if self._crew is not None:
                await self._crew.close()
            self._core.partials.clear()
            await self._context.database.close()
            self._net_channel.close()
            self._pool_channel.close()
            zmq_context.term()

    def _make_context(self) -> Context:
        settings, clock = self._settings, Clock()
        has_monitor = settings.clusterd.has_monitor
        later = asyncio.get_running_loop().call_later
        events = EventSender(settings.root, "sync", is_on=has_monitor, wall=clock.wall, later=later)
        troubles = self._troubles
        troubles.tell = events.tell
        rights = too_many_rights(settings.clusterd.owner)
        if rights is not None:
            # The supervisor has said it in the log.
            troubles.begin("rights", rights)
        guard = TagLog(self._log, self._tag, GUARD)
        spool = Spool(
            settings.root,
            self._incarnation,
            troubles,
            TagLog(self._log, self._tag, "Spool"),
            settings.clusterd.limits,
            is_master=settings.is_master,
        )
        slabs = SlabPool(self._arena.sync_slabs)
        slabs.free_pages = self._arena.free_pages
        jobs = PoolPort(
            self._send_to_pool,
            self._queue,
            self._pool_size,
            clock,
            spool.remove,
            lambda count: self._row.set("hurry", count),
        )
        manifests = ManifestKeeper(
            settings.root,
            spool.state_dir,
            self._pool_size,
            jobs,
            clock,
            settings.clusterd.full_walk_s,
            rules=settings.rules if settings.clusterd.watch else None,
            log=guard,
            troubles=troubles,
            events=ChangeEvents(
                events.tell, lambda: spool.new_path("changes"), spool.remove, asyncio.get_running_loop().call_soon
            )
            if has_monitor
            else None,
        )
        manifests.adopt(settings.clusterd, settings.rules, is_master=settings.is_master)
        may_hand_over = settings.is_master and settings.has_election
        found = location.find(settings)
        return Context(
            settings=settings,
            clock=clock,
            log=self._log,
            net=NetPort(self._to_net.send, slabs),
            jobs=jobs,
            slabs=slabs,
            spool=spool,
            manifests=manifests,
            sender=Sender(jobs, slabs, clock),
            progress=[],
            database=Database(settings.root, STORE_START_S if settings.serves_store else 0.0),
            troubles=troubles,
            events=events,
            roster=Roster(),
            framework=self._make_framework(found, spool, clock),
            no_framework=found.why,
            leadership=Leadership(self._board, settings) if may_hand_over else None,
            changes=ChangeGate(clock) if may_hand_over else None,
        )

    def _make_framework(self, found: location.Found, spool: Spool, clock: Clock) -> Framework | None:
        """None where none is installed, or none is wanted: then nothing is different."""
        tag_log = TagLog(self._log, self._tag, "Framework")
        fd = self._framework_fd
        if fd is None:
            if not found.is_wrong:
                return None
            self._troubles.begin("framework", f"The framework is not used: {found.told}", tag_log, "ERROR")
            return MissingFramework(found.why, self._settings.clusterd.framework.mode)
        names = _framework_names()
        self._crew = Crew(
            self._settings,
            names,
            lambda take, tell: Supply(fd, self._incarnation, take, tell),
            spool=spool,
            log=tag_log,
            troubles=self._troubles,
            clock=clock,
        )
        return FrameworkPort(self._crew, names, self._settings.clusterd.framework.processes, spool, clock)

    # ---- channels ----------------------------------------------------------------------------------------------------

    async def _send_to_pool(self, identity: bytes, message: StartJob) -> None:
        try:
            await self._pool_channel.send(identity, message)
        except NoCredit:
            self._context.jobs.lost(int(identity.removeprefix(b"pool-")))

    async def _say_hello(self) -> None:
        """Until net answers: it may not be there yet."""
        while True:
            if not self._is_known_to_net:
                await self._to_net.send(SyncHello(self._incarnation))
            await asyncio.sleep(HEARTBEAT_S)

    async def _serve_net(self) -> None:
        while True:
            try:
                _, message = await self._net_channel.recv()
            except BadMessage as problem:
                self._say(f"A message from net was not understood: {problem}")
                continue
            with self._survives(f"{type(message).__name__} of net"):
                if isinstance(message, NetHello):
                    await self._net_is_there(message)
                elif self._to_net.life is not None:
                    await self._core.handle(message)

    async def _net_is_there(self, message: NetHello) -> None:
        """A net that starts says hello unasked, perhaps to the sync process before this one, while that dies: it would
        take this one for lost as well, and tell it nothing more. So a hello is believed, and answered by ours until
        there is one that answers ours. One that only goes on tells nothing new: the links stay as they are served, with
        the requests of theirs that are being answered."""
        try:
            if self._to_net.life not in (None, message.incarnation):
                await self._core.net_lost()
                self._to_net.net_is_gone()
        finally:
            self._context.net.life = message.incarnation
            self._is_known_to_net = message.sync == self._incarnation
            if not self._is_known_to_net:  # not before: a new net believes what comes behind it
                await self._to_net.send(SyncHello(self._incarnation))
        if message.goes_on and message.incarnation == self._to_net.life:
            return
        if self._to_net.life is None:
            self._context.slabs.net_sends(message.sending_slabs)
        self._to_net.life = message.incarnation
        await self._core.handle(message)
        await self._admit_slabs()

    async def _serve_pool(self) -> None:
        while True:
            try:
                identity, message = await self._pool_channel.recv()
            except BadMessage as problem:
                self._say(f"A message from the pool was not understood: {problem}")
                continue
            with self._survives(f"{type(message).__name__} of the pool"):
                if isinstance(message, PoolHello):
                    await self._context.jobs.hello(message)
                    await self._admit_slabs()
                elif isinstance(message, JobDone):
                    await self._context.jobs.done(int(identity.removeprefix(b"pool-")), message)

    async def _admit_slabs(self) -> None:
        """Slabs may be used once net has said which it sends from and every pool process has ended its old job."""
        if self._admitted or self._to_net.life is None:
            return
        alive = {
            slot
            for slot in range(1, self._pool_size + 1)
            if self._board.row(f"pool-{slot}").state in ("starting", "ready")
        }
        if alive <= self._context.jobs.known_slots:
            self._admitted = True
            await self._context.slabs.admit()
            self._context.spool.remove_earlier()

    # ---- time --------------------------------------------------------------------------------------------------------

    async def _beat(self) -> None:
        while True:
            self._row.stamp()
            now = self._context.clock.monotonic()
            self._context.clock.awake()  # it knows of pauses by being asked
            with self._survives("watching the pool"):
                self._context.jobs.watch(self._board)
                await self._admit_slabs()
            with self._survives("tidying the spool"):
                self._context.spool.tidy(now)
                for peer in self._context.roster.all():
                    peer.incoming.strings.tidy()
            with self._survives("tidying sealed bodies"):
                await self._context.sender.bodies.tidy(now)
                self._context.slabs.free_idle(now)
            self._trimmer.tick(now)
            self._count()
            await pause(self._row, HEARTBEAT_S)

    def _count(self) -> None:
        self._row.set("jobs_queued", self._queue.waiting)
        self._row.set("jobs_running", self._queue.running)
        self._row.set("tasks", len(self._context.progress))
        self._row.set("slabs", self._context.slabs.total)
        self._row.set("slabs_free", self._context.slabs.free)

    async def _rotate(self) -> None:
        await rotate_nightly(self._context)

    def _reload(self) -> None:
        """SIGHUP: what can change without a restart. The supervisor's reload checked the files before."""
        loaded = load(self._settings.root, conf=self._settings.conf or None)
        if loaded.settings is None:
            self._say("The configuration has mistakes and was not reloaded: run clusterd check-config.")
            return
        self._settings, waiting = adopt(self._settings, loaded.settings)
        self._context.settings = self._settings
        self._context.needs_restart, self._context.reloaded_at = tuple(waiting), self._context.clock.wall()
        self._context.spool.ledger.limits = self._settings.clusterd.limits
        self._core.reloaded()
        settings = self._settings
        self._context.manifests.adopt(settings.clusterd, settings.rules, is_master=settings.is_master)
        self._log.set_level(self._settings.log_level)
        if self._crew is not None:
            self._crew.renew()

    def _say(self, text: str) -> None:
        self._log.line("WARNING", self._tag, "Sync", text)

    def _survives(self, subject: str) -> AbstractContextManager[None]:
        return round_survives(TagLog(self._log, self._tag, "Sync"), self._troubles, subject)

    @property
    def _tag(self) -> str:
        settings = self._settings
        return role_tag(settings.cluster.node_name, is_master=settings.is_master)
