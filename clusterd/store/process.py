"""The store process: serves the agent database and authd on the sockets of wdb.md, on nodes without the stock daemons.

Of the cluster it knows only its node's role.
"""

import asyncio
import contextlib
import os
import sqlite3
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import uvloop

from clusterd.beat import pause_until
from clusterd.child_loop import run_loop
from clusterd.errors import StartFailure
from clusterd.event_sender import EventSender
from clusterd.key_guard import KeyRules
from clusterd.leadership import Leadership
from clusterd.listening.http_server import CountedServer
from clusterd.logs import Log
from clusterd.memory import Trimmer
from clusterd.reload import read_again
from clusterd.rounds import Rounds
from clusterd.rundir import (
    AUTH_SOCKET,
    HTTP_SOCKET,
    STORE_SOCKETS,
    WDB_SOCKET,
    replica_socket,
)
from clusterd.settings import Settings
from clusterd.signals import heed_signals
from clusterd.store import schema
from clusterd.store.authd import Authd
from clusterd.store.commands import DatabaseCommands
from clusterd.store.engine import Engine
from clusterd.store.errors import DatabaseMoved, SocketTaken
from clusterd.store.follow import Follower
from clusterd.store.forward import Forwarder
from clusterd.store.gate import Handover, WriteGate
from clusterd.store.http import StoreApi
from clusterd.store.keys import KeyFile, KeyMarks, keys_in_use
from clusterd.store.moved import is_lost, rescue
from clusterd.store.private import PrivateDatabases
from clusterd.store.replica_copy import ReplicaCopy
from clusterd.store.replica_port import MOST_BYTES, ReplicaPort
from clusterd.store.replica_side import replica_side
from clusterd.store.replica_source import ReplicaSource
from clusterd.store.stream import Answer, StreamServer, bind, caller, remove_own
from clusterd.store.table import StoreTable
from clusterd.store.trouble import Trouble
from ipc.board import Board

SUBTAG = "Store"
HEARTBEAT_S = 0.5
SWITCH_S = 0.0005
"""Switch interval of this process's threads: a keepalive must not wait for a large report."""
HTTP_START_S = 10.0
RETRY_S = 5.0
SURE_LOOKS = 2
"""In so many heartbeats the file of the database must be gone, or another one: it may be replaced in two steps."""
FINISH_S = 3.0
"""How long a stop waits for the batch of registrations that is under way."""
_FAILURES = (StartFailure, SocketTaken, OSError, sqlite3.Error)
"""Failures that keep the store from serving and can be repaired while the node runs."""
REGISTRATION_WAIT_S = 1.0
"""How long authd waits for the request on a connection (wdb.md 8.1)."""


def run(settings: Settings, board: Board, log: Log) -> int:
    """The child's main function. Returns the exit code."""
    sys.setswitchinterval(SWITCH_S)
    return run_loop(
        lambda: _StoreProcess(settings, board, log).run(), settings.root, OSError, loop_factory=uvloop.new_event_loop
    )


class _StoreProcess:
    def __init__(self, settings: Settings, board: Board, log: Log) -> None:
        self._settings = settings
        self._row = board.row("store")
        self._log = log
        self._events = EventSender(settings.root, "store", is_on=settings.clusterd.has_monitor)
        self._leadership = Leadership(board, settings)
        self._gate = WriteGate(self._leadership.holds) if settings.is_master and settings.has_election else None
        self._trimmer = Trimmer(self._row.set_own_bytes)
        self._stop = asyncio.Event()
        self._requests = 0
        self._rounds = Rounds(self._say)
        self._tasks: list[asyncio.Task[None]] = []
        self._keys: KeyFile | None = None
        self._trouble = Trouble(settings.root, self._say, RETRY_S)
        self._was_damaged = False

    async def run(self) -> int:
        """Runs until SIGTERM. A failure that keeps the store from serving is logged once and retried: the rest of the
        node works without agents."""
        heed_signals(self._stop.set, self._reload)
        while not self._stop.is_set():
            try:
                await self._live()
            except _FAILURES as failure:
                self._trouble.begins(failure)
                self._row.set_ready()
                await self._pause(RETRY_S)
        self._row.set_stopping()
        return 0

    async def _live(self) -> None:
        """Serves until SIGTERM. Raises one of _FAILURES."""
        settings = self._settings
        # In a thread: checking a large file takes long, and the supervisor expects signs of life.
        name, version = settings.cluster.node_name, settings.clusterd.version
        # A former master may lead again, or is a worker soon and goes on from what it has.
        log = None if settings.is_deposed and settings.has_replica else settings.is_master and settings.has_replica
        work = asyncio.to_thread(schema.prepare, settings.root, name, version, thorough=self._was_damaged, log=log)
        opening = asyncio.ensure_future(work)
        while not opening.done():
            self._row.stamp()
            await asyncio.wait([opening], timeout=HEARTBEAT_S)
        opening.result()
        if self._stop.is_set():
            return  # the next process has this one's sockets by now, or there is none
        self._was_damaged = False
        engine = Engine(settings.root, readers=max(2, len(os.sched_getaffinity(0))), gate=self._gate)
        try:
            await self._serve(engine)
        except DatabaseMoved:
            await self._rescue(engine)
        finally:
            engine.close()

    async def _rescue(self, engine: Engine) -> None:
        """Another program has moved the database away: what is in it is kept, as soon as the disk allows it."""
        engine.end_work()
        while True:
            try:
                self._say("ERROR", rescue(self._settings.root, engine))
            except (OSError, sqlite3.Error) as failure:
                what = "another program has moved the agent database away, and what was in it "
                if is_lost(failure):
                    self._say("ERROR", f"A{what[1:]}is lost: {failure}.")
                    return
                self._trouble.begins(failure, f"{what}cannot be kept: ")
                await self._pause(RETRY_S)
                if self._stop.is_set():
                    return
            else:
                return

    async def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._stop.is_set() and time.monotonic() < until:
            self._row.stamp()
            await pause_until(self._stop, self._row, HEARTBEAT_S)

    async def _serve(self, engine: Engine) -> None:
        settings = self._settings
        private = PrivateDatabases(settings.root, settings.clusterd.version)
        leads = None if self._gate is None else self._leadership.holds
        replica = replica_side(settings, leads=leads, say=self._say_of_replica)
        commands = DatabaseCommands(
            engine, private, on_worker=not settings.is_master, say=self._say, tell=self._events.tell
        )
        most = settings.clusterd.limits.store_connections
        rounds = self._rounds
        wdb = StreamServer(f"{settings.root}/{WDB_SOCKET}", self._counted(commands), most=most, rounds=rounds)
        api = StoreApi(
            engine,
            node_type=settings.cluster.node_type,
            body_limit=lambda: self._settings.clusterd.limits.string_bytes,
            say=self._say,
        )
        follower = Follower(
            engine,
            private,
            settings.root,
            on_worker=not settings.is_master,
            is_first_life=self._row.snapshot().incarnation <= 1,
            read_keys=lambda: keys_in_use(settings.root),
            authd=lambda: KeyMarks() if self._keys is None else self._keys.marks,
            say=self._say,
            guard=self._guard,
            rules=lambda: self._settings.rules,
            max_delete_share=lambda: self._settings.clusterd.max_delete_share,
            tell=self._events.tell,
            gate=self._gate,
        )
        async with contextlib.AsyncExitStack() as cleanup:
            if replica is not None:
                cleanup.callback(replica.close)
            await follower.look()
            wdb.start()
            cleanup.push_async_callback(wdb.stop)
            await self._serve_http(api.server(most), cleanup)
            authd = self._make_authd(engine, private, replica if isinstance(replica, ReplicaSource) else None)
            if authd is not None:
                self._begin(authd.run(), cleanup)
            if replica is not None:
                await self._serve_replica(replica, engine, authd, cleanup)
            auth = self._make_auth(authd, most)
            auth.start()
            cleanup.push_async_callback(auth.stop)
            self._begin(follower.run(), cleanup)
            if authd is not None:
                cleanup.push_async_callback(_finish, authd)  # what is pushed last is called first
            self._row.set_ready()
            self._trouble.is_over()
            self._say("INFO", f"Serving the agent database and authd on {', '.join(STORE_SOCKETS)}.")
            await self._beat_until_stopped(engine, wdb, auth)

    async def _beat_until_stopped(self, engine: Engine, wdb: StreamServer, auth: StreamServer) -> None:
        """Raises DatabaseMoved, and StartFailure for a damaged database."""
        moved_looks = 0
        while not self._stop.is_set():
            moved_looks = moved_looks + 1 if engine.file.look() else 0
            if moved_looks >= SURE_LOOKS or (moved_looks and engine.damage):
                raise DatabaseMoved
            if engine.damage:
                self._was_damaged = True
                database = f"{self._settings.root}/{schema.DATABASE}"
                raise StartFailure(f"the agent database {database} is damaged: {engine.damage}")
            for task in self._tasks:
                if task.done():
                    # These tasks never end. If one does, that is a bug: the process ends and the supervisor replaces
                    # it.
                    task.result()
            self._row.stamp()
            self._events.flush()
            self._trimmer.tick(time.monotonic())
            self._row.set("connections", wdb.connections + auth.connections)
            self._row.set("requests", self._requests)
            self._row.set("commits", engine.commits)
            self._row.set("writes", engine.writes)
            await pause_until(self._stop, self._row, HEARTBEAT_S)
        if engine.file.look() == "replaced":
            raise DatabaseMoved  # `mv BACKUP` and a stop: the next start would read the old journal into the backup

    async def _serve_replica(
        self,
        replica: ReplicaSource | ReplicaCopy,
        engine: Engine,
        authd: Authd | None,
        cleanup: contextlib.AsyncExitStack,
    ) -> None:
        """On a socket in the run directory, which only the daemon's user may enter."""
        handover = None
        if isinstance(replica, ReplicaSource):
            engine.committed = replica.committed
            if replica.confirming is not None:
                self._begin(replica.confirming.run(), cleanup)
        if self._gate is not None and authd is not None:
            handover = Handover(self._gate, engine.settle, authd.is_idle, authd.note_answered)
        server = StreamServer(
            replica_socket(self._settings.root),
            ReplicaPort(replica, handover, engine.mark).answer,
            most=self._settings.clusterd.limits.store_connections,
            rounds=self._rounds,
            largest=MOST_BYTES,
        )
        server.start()
        cleanup.push_async_callback(server.stop)

    def _make_authd(self, engine: Engine, private: PrivateDatabases, replica: ReplicaSource | None) -> Authd | None:
        """A master registers agents itself."""
        settings = self._settings
        if not settings.is_master:
            return None
        self._keys = KeyFile(settings.root)
        self._keys.sweep()
        return Authd(
            settings.root,
            StoreTable(engine, private)
            if replica is None
            else StoreTable(engine, private, replica.have, replica.ready),
            self._keys,
            lambda: self._settings.clusterd.force,
            say=self._say,
            guard=self._guard,
            tell=self._events.tell,
            gate=self._gate,
            term=0 if settings.role is None else settings.role.led,
        )

    def _make_auth(self, authd: Authd | None, most: int) -> StreamServer:
        """A worker forwards registrations to its master."""
        settings = self._settings
        answer: Callable[[bytes, str], Awaitable[bytes]]
        if authd is not None:
            answer = authd.answer
        else:
            answer = Forwarder(
                settings.root,
                lambda: self._settings.clusterd.force,
                answer_s=lambda: self._settings.communication.timeout_dapi_request_s + 10,
            ).answer

        async def frames(payload: bytes) -> list[bytes]:
            self._requests += 1
            return [await answer(payload, caller.get())]

        return StreamServer(
            f"{settings.root}/{AUTH_SOCKET}",
            frames,
            most=most,
            rounds=self._rounds,
            once=True,
            wait_s=REGISTRATION_WAIT_S,
            asks_who=settings.clusterd.has_monitor,
        )

    def _begin(self, work: Coroutine[Any, Any, None], cleanup: contextlib.AsyncExitStack) -> None:
        self._tasks.append(asyncio.create_task(work))

        async def end() -> None:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            self._tasks.clear()

        cleanup.push_async_callback(end)

    async def _serve_http(self, server: CountedServer, cleanup: contextlib.AsyncExitStack) -> None:
        path = f"{self._settings.root}/{HTTP_SOCKET}"
        listening = bind(path)
        inode = os.stat(path).st_ino
        serving = asyncio.create_task(server.serve(sockets=[listening]))

        async def stop() -> None:
            server.end()
            await serving
            listening.close()
            remove_own(path, inode)

        cleanup.push_async_callback(stop)
        async with asyncio.timeout(HTTP_START_S):
            while not server.started and not serving.done():
                await asyncio.sleep(0.005)
        if serving.done():
            serving.result()

    def _counted(self, commands: DatabaseCommands) -> Answer:
        async def answer(payload: bytes) -> list[bytes]:
            self._requests += 1
            return await commands.answer(payload)

        return answer

    def _reload(self) -> None:
        """SIGHUP: applies the settings that can change without a restart."""
        self._settings = read_again(self._settings, self._log)

    def _guard(self) -> KeyRules:
        own = self._settings.clusterd
        return KeyRules(own.max_key_loss_share, own.key_loss_from)

    def _say_of_replica(self, level: str, text: str) -> None:
        self._write("Replica", level, text)

    def _say(self, level: str, text: str) -> None:
        self._write(SUBTAG, level, text)

    def _write(self, subtag: str, level: str, text: str) -> None:
        tag = "Master" if self._settings.is_master else f"Worker {self._settings.cluster.node_name}"
        self._log.line(level, tag, subtag, text)


async def _finish(authd: Authd) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(FINISH_S):
            await authd.finish()
