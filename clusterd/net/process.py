"""The net process: start, loop, stop."""

import asyncio
import contextlib
import gc
import os
import resource
import time
from collections.abc import Coroutine, Iterator
from itertools import islice
from typing import Any

import uvloop

from clusterd import stacks
from clusterd.beat import pause
from clusterd.child_loop import run_loop, until_stopped
from clusterd.clock import Clock
from clusterd.config.loading import Loaded, load
from clusterd.exits import ExitCode
from clusterd.leadership import HAND_OVER_S, Leadership
from clusterd.logs import Log
from clusterd.memory import Trimmer
from clusterd.messages.links import SyncToNet
from clusterd.net.ask_back import AskBack
from clusterd.net.bridge import Bridge
from clusterd.net.context import MAIN, NetContext
from clusterd.net.dial import Dialer
from clusterd.net.fence import Fence
from clusterd.net.link import Link
from clusterd.net.link_commands import LinkCommands, not_leading_text
from clusterd.net.listen import Listener
from clusterd.net.local import LocalServer
from clusterd.net.slabs import HOLD_S, NetSlabs
from clusterd.net.tell_terms import TermTeller
from clusterd.net.terms import Terms
from clusterd.net.tls import client_context, server_context
from clusterd.reload import adopt
from clusterd.role import RoleDamaged, deposed_text, read_role
from clusterd.rundir import reason_path, sync_socket
from clusterd.scheduling import run_promptly
from clusterd.settings import Settings
from clusterd.signals import ROLE_WRITTEN, heed_signals
from clusterd.wire.command_table import NEED_LEADER
from clusterd.wire.seal import Sealer
from ipc.arena import Arena
from ipc.board import HANDED_OVER_NS, Board
from ipc.channel import DealerChannel
from ipc.codec import Decoder

TICK_S = 0.5
SWEEP_LINKS = 256
"""Links checked per tick for messages that were begun and not continued; all links get their turn."""
DRAIN_S = 2.0
CHANGE_DRAIN_S = 0.1
"""The same when the role changes: programs whose requests are not answered ask the processes of the next role."""
HWM = 1000
IDENTITY = b"net"
SPARE_FILES = 64
GC_THRESHOLDS = (20_000, 20, 50)
"""Garbage is collected less often than by default: a collection visits all links while every peer waits."""


def run(settings: Settings, arena: Arena, board: Board, log: Log) -> int:
    """The child's main function. Returns the exit code."""
    main = _NetProcess(settings, arena, board, log).run
    return run_loop(main, settings.root, loop_factory=uvloop.new_event_loop)


class _NetProcess:
    def __init__(self, settings: Settings, arena: Arena, board: Board, log: Log) -> None:
        self._settings = settings
        self._board = board
        self._row = board.row("net")
        self._trimmer = Trimmer(self._row.set_own_bytes)
        is_bound = settings.is_master and settings.has_election
        self._fence = Fence(Leadership(board, settings)) if is_bound else None
        if self._fence is not None:
            self._fence.lapsed = self._lapsed
        if settings.is_master:
            log.bound_workers()
        clock = Clock()
        self._context = NetContext(settings, log, clock, NetSlabs(arena, clock.awake), self._fence)
        self._stop = asyncio.Event()
        self._listener: Listener | None = None
        self._dialer: Dialer | None = None
        self._sweep: Iterator[Link] = iter(())
        self._reading: set[asyncio.Task[None]] = set()

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._unexpected)
        heed_signals(self._stop.set, self._reload, self._look)
        gc.set_threshold(*GC_THRESHOLDS)
        run_promptly()
        self._context.slabs.on_room = lambda: loop.call_soon(self._context.slabs.wake)
        _allow_files(self._settings)
        channel: DealerChannel[SyncToNet] = DealerChannel(
            sync_socket(self._settings.root), IDENTITY, Decoder(SyncToNet), HWM
        )
        try:
            return await self._serve(channel)
        finally:
            channel.close()

    async def _serve(self, channel: "DealerChannel[SyncToNet]") -> int:
        context = self._context
        bridge = self._bridge = Bridge(context, channel, self._board.row("sync"), self._row.snapshot().incarnation)
        link_commands = LinkCommands(context, bridge)
        self._local = LocalServer(context, bridge, link_commands)
        refusal = await self._start(link_commands)
        if refusal is not None:
            self._stop_accepting()
            with open(reason_path(self._settings.root), "w", encoding="utf-8") as file:
                file.write(f"{refusal}\n")
            return int(ExitCode.COULD_NOT_START)
        bridge.say_hello()
        tasks = [asyncio.create_task(bridge.send_all()), asyncio.create_task(bridge.receive_all())]
        tasks.append(asyncio.create_task(self._beat()))
        if self._settings.is_master and self._settings.role is not None and self._settings.role.former:
            tasks.append(asyncio.create_task(TermTeller(self._context, self._terms, self._asker.claim).run()))
        if self._listener is not None:
            tasks.append(asyncio.create_task(self._asker.run()))
        if self._dialer is not None:
            tasks.append(asyncio.create_task(self._dialer.run()))
        self._row.set_ready()
        try:
            await until_stopped(self._stop, tasks)
        finally:
            self._row.set_stopping()
            self._stop_accepting()
            await self._drain(tasks)
        return int(ExitCode.OK)

    async def _start(self, link_commands: LinkCommands) -> str | None:
        """Opens the sockets. Returns why that failed, in words for whoever started the node."""
        settings, log = self._settings, self._context.log
        sealer = Sealer(settings.cluster.key.value)
        terms = self._terms = Terms(self._context, self._board, self._drop_workers, self._deposed)
        self._asker = AskBack(self._context, terms)
        try:
            if settings.is_master:
                self._listener = self._listen(link_commands, sealer)
                self._bridge.serving = await self._listener.start()
            else:
                self._dialer = Dialer(
                    self._context, self._bridge, link_commands, sealer, client_context(settings), terms
                )
                self._bridge.agreed = self._dialer.capabilities
        except OSError as problem:
            role = "master" if settings.is_master else "worker"
            log.line("ERROR", self._context.role_tag, MAIN, f"Could not start {role}: {problem}")
            place = f"port {settings.cluster.port} of {settings.cluster.bind_addr}" if settings.is_master else "TLS"
            return f"{place} cannot be used: {problem}"
        was_master = settings.role is not None and (settings.role.role or settings.is_deposed)
        if not settings.is_master and (was_master or settings.has_election):
            await self._tell_where_the_master_is(link_commands, sealer)
        try:
            await self._local.start()
        except OSError as problem:
            log.line("ERROR", "Local Server", MAIN, f"Could not create server: {problem}")
            return f"the local socket cannot be made: {problem}"
        return None

    def _listen(self, link_commands: LinkCommands, sealer: Sealer) -> Listener:
        """Raises OSError for TLS that cannot be had."""
        tls = server_context(self._settings)
        return Listener(self._context, self._bridge, link_commands, sealer, tls, self._terms, self._asker.claim)

    async def _tell_where_the_master_is(self, link_commands: LinkCommands, sealer: Sealer) -> None:
        """A node that was a master before, or may be one, may be dialled by those who know nothing else."""
        try:
            listener = self._listen(link_commands, sealer)
            await listener.start()
        except OSError as problem:
            text = f"Workers that dial this node cannot be told where the master is: {problem}."
            self._context.own_line("WARNING", text)
        else:
            self._listener = listener

    def _lapsed(self) -> None:
        """The lease has ended and nobody has renewed it in time: another node may lead now."""
        until_ns = self._board.lead()[1]
        was_given_up = until_ns in (0, HANDED_OVER_NS)
        what = "was given up" if was_given_up else "has ended"
        text = f"The lease of this node {what}: it serves nobody as a master until the election gives it another one."
        self._context.own_line("WARNING" if was_given_up else "ERROR", text)
        self._drop_workers()
        after_s = HAND_OVER_S if until_ns == HANDED_OVER_NS else 0.0
        if self._fence is not None and after_s:
            self._fence.wait(after_s)
        self._bridge.peer_requests.refuse_programs(
            lambda command: command in NEED_LEADER, not_leading_text(), after_s=after_s
        )

    def _deposed(self) -> None:
        """Another node leads in a higher term: the supervisor changes the processes. The term is on the disk by now, or
        the disk refuses it. Since it was heard nobody was served as by a master."""
        self._context.own_line("ERROR", f"{deposed_text(self._terms.given, is_elected=self._settings.has_election)}.")
        tell_supervisor()

    def _drop_workers(self) -> None:
        if self._listener is not None:
            self._listener.drop_workers("this node leads no more")

    # ---- stop --------------------------------------------------------------------------------------------------------

    def _stop_accepting(self) -> None:
        if self._listener is not None:
            self._listener.stop()
        self._local.stop()

    async def _drain(self, tasks: "list[asyncio.Task[None]]") -> None:
        """Writes sync's last answers, closes the links and ends the tasks, all within two times DRAIN_S."""
        clock = self._context.clock
        give_up = clock.awake() + (CHANGE_DRAIN_S if self._changes_role() else DRAIN_S)
        while self._bridge.peer_requests and not self._bridge.sync_is_lost and clock.awake() < give_up:
            await asyncio.sleep(0.01)
        if self._dialer is not None:
            tasks[-1].cancel()
        for link in self._links():
            link.close()
        give_up = clock.awake() + DRAIN_S
        while self._links() and clock.awake() < give_up:
            await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _changes_role(self) -> bool:
        """Whether this process ends because the node changes its role, and not because the node ends."""
        try:
            given = read_role(self._settings.root)
        except RoleDamaged:
            return False
        return given is not None and given.change is not None

    def _links(self) -> list[Link]:
        links = list(self._local.links.values())
        for owner in (self._listener, self._dialer):
            if owner is not None:
                links += owner.links.values()
        return links

    # ---- time --------------------------------------------------------------------------------------------------------

    async def _beat(self) -> None:
        while True:
            began = time.thread_time_ns()
            self._tick()
            self._context.meter.worked(began)
            await pause(self._row, TICK_S)

    def _tick(self) -> None:
        context, now = self._context, self._context.clock.awake()
        survive = context.rounds.survive
        self._row.stamp()
        self._trimmer.tick(now)
        with survive("watching sync"):
            self._bridge.watch_sync()
        with survive("requests without an answer"):
            for link in list(context.asking):
                link.expire(now)
        with survive("beats of links"):
            # These measure a pause themselves: for the peers it is one.
            beaten = context.clock.monotonic()
            for beating in list(context.beating):
                beating.beat(beaten)
        if self._listener is not None:
            with survive("keepalives and handshakes"):
                self._listener.tick(now)
        if self._fence is not None:
            with survive("looking at the lease"):
                self._fence.is_open()
        with survive("keeping the term"):
            self._terms.tick(now)
        with survive("keepalives of programs"):
            self._local.tick(now)
        with survive("messages that do not go on"):
            self._look_at_some(now)
        with survive("freeing memory"):
            self._make_room()
            context.slabs.free_idle(now)
        with survive("lines of strangers"):
            context.strangers.tick(now)
            context.insiders.tick(now)
        self._count()

    def _make_room(self) -> None:
        """Ends one of the links that receive a large body too slowly while others wait for room."""
        slabs = self._context.slabs
        if not slabs.is_short:
            return
        links = {link.number: link for link in self._links()}
        for number in slabs.overdue(lambda number: links[number].missing if number in links else 0):
            link = links.get(number)
            if link is not None and not link.is_held_by_us and not link.is_lost:
                link.abort(f"a large message took more than {HOLD_S:g} seconds while others waited for room")
                return

    def _look_at_some(self, now: float) -> None:
        """Checks the next few links for messages that were begun and not continued."""
        timeout_s = self._settings.clusterd.limits.divided_timeout_s
        looked_at = 0
        for link in islice(self._sweep, SWEEP_LINKS):
            looked_at += 1
            if not link.is_lost:
                link.check(now, timeout_s)
        if looked_at < SWEEP_LINKS:
            self._sweep = iter(self._links())

    def _count(self) -> None:
        context, row = self._context, self._row
        context.meter.show(row)
        listener = self._listener
        if listener is not None and self._dialer is None:
            row.set("connections", len(listener.names))
            row.set("handshakes", listener.waiting)
        elif self._dialer is not None:
            row.set("connections", len(self._dialer.links))
        row.set("local_clients", len(self._local.links))
        row.set("slabs", context.slabs.total)
        row.set("slabs_free", context.slabs.free)

    # ---- reload, bugs ------------------------------------------------------------------------------------------------

    def _reload(self) -> None:
        """SIGHUP: applies the settings that can change without a restart. The supervisor has checked the files
        before."""
        self._begin(self._read_again())
        self._look()

    def _look(self) -> None:
        """This node's own election, or a command, may have said who leads."""
        if self._dialer is not None:
            self._begin(self._look_for_the_master(self._dialer))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._reading.add(task)
        task.add_done_callback(self._reading.discard)

    async def _read_again(self) -> None:
        root, conf = self._settings.root, self._settings.conf or None
        with self._context.rounds.survive("reloading the configuration"):
            self._adopt(await self._context.disk.run("settings", lambda: load(root, conf=conf)))

    async def _look_for_the_master(self, dialer: Dialer) -> None:
        with self._context.rounds.survive("looking for the master"):
            if await self._terms.look_again():
                dialer.look_elsewhere()

    def _adopt(self, loaded: Loaded) -> None:
        if loaded.settings is None:
            self._context.own_line("WARNING", "The configuration has mistakes and was not reloaded.")
            return
        self._settings, _ = adopt(self._settings, loaded.settings)
        self._context.set_settings(self._settings)
        _allow_files(self._settings)
        self._context.log.set_level(self._settings.log_level)
        if self._listener is not None:
            self._listener.set_limits()
        for link in self._links():
            if link.info is not None:  # no stranger
                link.allow_divided(self._context.divided_bytes)

    def _unexpected(self, loop: asyncio.AbstractEventLoop, details: dict[str, Any]) -> None:
        """Logs a bug in a callback: the loop has closed its link, the others continue."""
        problem = details.get("exception")
        stack = stacks.told(problem) if problem is not None else ""
        self._context.own_line("ERROR", f"Unexpected failure: {details.get('message', '')}\n{stack}".rstrip())


def tell_supervisor() -> None:
    """It looks at the role of the node."""
    os.kill(os.getppid(), ROLE_WRITTEN)


def _allow_files(settings: Settings) -> None:
    """Raises the limit of open files to what the connection limits need, if the system allows it."""
    limits = settings.clusterd.limits
    wanted = limits.connections + limits.local_clients + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
