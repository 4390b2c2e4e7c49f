"""The process `election`: the only one that talks to etcd. A change of role does not end it (docs/ha.md)."""

import asyncio
import contextlib
import time
from pathlib import Path
from typing import Any

from clusterd.beat import pause
from clusterd.child_loop import run_loop, until_stopped
from clusterd.election.elector import Elector
from clusterd.election.etcd import Compacted, Etcd, EtcdRefused, EtcdUnavailable, Item, KeyChange
from clusterd.election.keys import LEADER, fingerprint
from clusterd.election.node import PROGRAM_S, Node
from clusterd.election.orders import Orders
from clusterd.election.port import ElectionServer
from clusterd.election.session import Identity
from clusterd.election.shown import problems
from clusterd.event_sender import EventSender
from clusterd.exits import ExitCode
from clusterd.logs import Log
from clusterd.memory import Trimmer
from clusterd.messages.election import ElectionRequest, FailsafeAsked, HaCommand, SetConfirming
from clusterd.reload import read_again
from clusterd.rounds import Rounds
from clusterd.rundir import problem_path
from clusterd.settings import Settings
from clusterd.signals import heed_signals
from ipc.board import SUPERVISOR, Board

NAME = "election"
SUBTAG = "Election"
HEARTBEAT_S = 0.5
STEP_S = 1.0
HURRY_S = 0.1
"""The pause between two steps while this node takes the lead or hands it over."""
TIMEOUT_SHARE = 1 / 3
"""How long etcd may take for an answer, as a share of the lease."""
AGAIN_S = 1.0
ENDING_S = 3.0
LEAVE_S = 12.0
"""How long a leader that is about to be stopped hands over."""


class _Times:
    def boot(self) -> float:
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) / 1e9

    def wall(self) -> float:
        return time.time()


def run(settings: Settings, board: Board, log: Log) -> int:
    """The child's main function. Returns the exit code."""
    return run_loop(lambda: _ElectionProcess(settings, board, log).run(), settings.root, OSError)


def identity(settings: Settings) -> Identity:
    ha, cluster = settings.clusterd.ha, settings.cluster
    return Identity(
        name=cluster.node_name,
        cluster=cluster.name,
        fingerprint=fingerprint(settings),
        advertise=ha.advertise,
        prefix=f"{settings.ha_prefix}/",
        version=settings.clusterd.version,
        priority=ha.priority,
        lease_s=ha.lease_s,
        max_lag=ha.max_lag,
        failsafe=ha.failsafe,
    )


class _ElectionProcess:
    def __init__(self, settings: Settings, board: Board, log: Log) -> None:
        self._settings, self._log = settings, log
        self._row, self._supervisor = board.row(NAME), board.row(SUPERVISOR)
        self._trimmer = Trimmer(self._row.set_own_bytes)
        self._events = EventSender(settings.root, NAME, is_on=settings.clusterd.has_monitor)
        self._rounds = Rounds(self._say)
        me = identity(settings)
        timeout_s = me.lease_s * TIMEOUT_SHARE
        self._etcd = Etcd(settings.clusterd.ha.etcd, timeout_s=timeout_s, witness=me.prefix + LEADER)
        self._node = Node(settings, board, self._say, self._events.tell)
        times = _Times()
        self._elector = Elector(me, self._etcd, self._node, times)
        self._session = self._elector.session
        self._orders = Orders(self._elector, self._node, times)
        self._stop = asyncio.Event()
        self._news = asyncio.Event()
        self._leaving: asyncio.Task[None] | None = None
        self._problem = ""

    async def run(self) -> int:
        """Runs until SIGTERM."""
        heed_signals(self._stop.set, self._reload, self._look)
        server = ElectionServer(self._settings.root, self._answer, self._rounds)
        await server.start()
        # Ready at once: a node without etcd runs, but serves nobody.
        self._row.set_ready()
        tasks = [asyncio.create_task(work) for work in (self._beat(), self._steps(), self._ask(), self._watch())]
        try:
            await until_stopped(self._stop, tasks)
            self._row.set_stopping()
        finally:
            tasks += [] if self._leaving is None else [self._leaving]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await server.stop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ENDING_S):
                await self._elector.stop()
        await self._node.end_programs(PROGRAM_S)
        self._say_problem("")
        await self._etcd.close()
        return int(ExitCode.OK)

    # ---- endless work ------------------------------------------------------------------------------------------------

    async def _beat(self) -> None:
        while True:
            self._row.stamp()
            self._trimmer.tick(time.monotonic())
            self._events.flush()
            await pause(self._row, HEARTBEAT_S)

    async def _steps(self) -> None:
        """Does a step each second, and at once when something has changed in etcd."""
        while True:
            self._news.clear()
            with self._rounds.survive("the election"):
                await self._elector.step()
            self._say_problem("; ".join(problems(self._elector, self._node.last_program)))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), self._pause_s)

    async def _ask(self) -> None:
        """Keeps what is known of the node itself up to date."""
        while True:
            before = self._node.facts()
            with self._rounds.survive("asking the node"):
                await self._node.refresh()
            if (before.state, before.epoch) != ((now := self._node.facts()).state, now.epoch):
                self._news.set()
            await asyncio.sleep(self._pause_s if now.is_known else HURRY_S)

    @property
    def _pause_s(self) -> float:
        return HURRY_S if self._elector.is_hurried else STEP_S

    async def _watch(self) -> None:
        """Takes changes from etcd as they arrive. Without this watch each step reads everything."""
        session, prefix = self._session, self._elector.me.prefix
        while True:
            with self._rounds.survive("watching etcd"), contextlib.suppress(EtcdUnavailable, EtcdRefused, Compacted):
                await session.read()
                revision = session.view.revision
                self._news.set()
                async with contextlib.aclosing(self._etcd.watch(prefix, revision)) as batches:
                    session.is_live = True
                    async for changes in batches:
                        self._changed(changes)
            session.is_live = False
            await asyncio.sleep(AGAIN_S)

    def _changed(self, changes: list[KeyChange]) -> None:
        """A read that ended meanwhile may be newer."""
        session = self._session
        items: dict[str, Item] = dict(session.items)
        newer = [change for change in changes if change.revision > session.view.revision]
        for change in newer:
            if change.item is None:
                items.pop(change.key, None)
            else:
                items[change.key] = change.item
        if newer:
            session.set_items(newer[-1].revision, items)
            self._news.set()

    async def _leave(self) -> None:
        """The supervisor is about to stop the node, and waits until it leads no more or this is over: another candidate
        leads first, with everything that was answered, as after an order."""
        tenure, session = self._elector.tenure, self._session
        self._elector.leading.leave()
        with self._rounds.survive("handing over before the stop"):
            if tenure.term and not tenure.is_for_ever:
                self._say("INFO", "This node is to be stopped: another one is to lead first.")
                found = await self._orders.answer(HaCommand(kind="switchover"))
                if not found.ok:
                    self._say("WARNING", f"This node is stopped without handing over: {found.text}.")
                self._news.set()
                until, number = time.monotonic() + LEAVE_S, found.facts.get("id")
                while found.ok and tenure.term and time.monotonic() < until:
                    order = session.view.order
                    if order is not None and order.id == number and order.refused:
                        break  # the log says why
                    await asyncio.sleep(HURRY_S)
        self._row.set_stopping()

    # ---- what others ask ---------------------------------------------------------------------------------------------

    async def _answer(self, request: ElectionRequest) -> Any:
        match request:
            case SetConfirming():
                return await self._elector.leading.set_confirming(request.term, request.name, request.position)
            case FailsafeAsked():
                return self._elector.failsafe(request.term, request.leader, request.for_s)
            case HaCommand(kind="status"):
                found = await self._orders.answer(request)
                program = self._node.last_program
                return type(found)(found.ok, found.text, found.facts | {"program": program})
            case HaCommand():
                found = await self._orders.answer(request)
                self._news.set()
                return found

    # ---- telling -----------------------------------------------------------------------------------------------------

    def _say(self, level: str, text: str) -> None:
        self._log.line(level, "Cluster", SUBTAG, text)

    def _say_problem(self, text: str) -> None:
        """Keeps the text for `problems` of the status."""
        if text == self._problem:
            return
        self._problem = text
        path = Path(problem_path(self._settings.root, NAME))
        with contextlib.suppress(OSError):
            if text:
                path.write_text(f"{text[0].upper()}{text[1:]}\n", encoding="utf-8")
            else:
                path.unlink(missing_ok=True)

    def _reload(self) -> None:
        """After SIGHUP: settings that can change without a restart, and a command may have changed the role."""
        self._settings = read_again(self._settings, self._log)
        self._look()

    def _look(self) -> None:
        """The role may have changed, or the node is about to be stopped."""
        if self._supervisor.state == "stopping":
            self._leaving = self._leaving or asyncio.ensure_future(self._leave())
        self._news.set()
