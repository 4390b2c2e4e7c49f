"""The store process: the agent database and authd, behind the sockets of wdb.md, where no real daemons serve them.

It knows nothing of the cluster but its node's role.
"""

import asyncio
import contextlib
import os
import signal
import sqlite3
import sys
from pathlib import Path

import uvloop

from clusterd.configuration import load
from clusterd.errors import StartFailure
from clusterd.exits import ExitCode
from clusterd.logs import Log
from clusterd.reload import adopt
from clusterd.rundir import HTTP_SOCKET, WDB_SOCKET, reason_path
from clusterd.settings import Settings
from clusterd.store import schema
from clusterd.store.commands import Commands
from clusterd.store.engine import Engine
from clusterd.store.errors import SocketTaken
from clusterd.store.http import Api, QuietServer
from clusterd.store.private import PrivateDatabases
from clusterd.store.stream import Answer, StreamServer, bind, remove_own
from ipc.board import Board

TAG = "Store"
SUBTAG = "Main"
HEARTBEAT_S = 0.5
SWITCH_S = 0.0005
"""Threads of this process let each other in after so long: a keepalive must not wait for a large report."""
HTTP_START_S = 10.0


def run(settings: Settings, board: Board, log: Log) -> int:
    """The child's main function. Returns the exit code."""
    sys.setswitchinterval(SWITCH_S)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_StoreProcess(settings, board, log).run())
    except (StartFailure, SocketTaken, OSError, sqlite3.Error) as failure:
        with contextlib.suppress(OSError):
            Path(reason_path(settings.root)).write_text(f"{failure}\n", encoding="utf-8")
        return int(ExitCode.COULD_NOT_START)


class _StoreProcess:
    def __init__(self, settings: Settings, board: Board, log: Log) -> None:
        self._settings = settings
        self._row = board.row("store")
        self._log = log
        self._stop = asyncio.Event()
        self._requests = 0

    async def run(self) -> int:
        """Until SIGTERM. Raises StartFailure, SocketTaken, OSError, sqlite3.Error while it starts."""
        settings = self._settings
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
        schema.prepare(settings.root)
        engine = Engine(settings.root, readers=max(2, len(os.sched_getaffinity(0))))
        try:
            await self._serve(engine)
        finally:
            engine.close()
        return 0

    async def _serve(self, engine: Engine) -> None:
        settings = self._settings
        private = PrivateDatabases(settings.root, settings.clusterd.version)
        commands = Commands(engine, private, on_worker=not settings.is_master)
        most = settings.clusterd.limits.store_connections
        wdb = StreamServer(f"{settings.root}/{WDB_SOCKET}", self._counted(commands), most=most)
        api = Api(
            engine,
            node_type=settings.cluster.node_type,
            body_limit=settings.clusterd.limits.string_bytes,
            say=self._say,
        )
        async with contextlib.AsyncExitStack() as cleanup:
            wdb.start()
            cleanup.push_async_callback(wdb.stop)
            await self._serve_http(api.server(), cleanup)
            self._row.set_ready()
            self._say("INFO", f"Serving the agent database on {WDB_SOCKET} and {HTTP_SOCKET}.")
            while not self._stop.is_set():
                self._row.stamp()
                self._row.set("connections", wdb.connections)
                self._row.set("requests", self._requests)
                self._row.set("commits", engine.commits)
                self._row.set("writes", engine.writes)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), HEARTBEAT_S)
            self._row.set_stopping()

    async def _serve_http(self, server: QuietServer, cleanup: contextlib.AsyncExitStack) -> None:
        path = f"{self._settings.root}/{HTTP_SOCKET}"
        listening = bind(path)
        inode = os.stat(path).st_ino
        serving = asyncio.create_task(server.serve(sockets=[listening]))

        async def stop() -> None:
            server.should_exit = True
            await serving
            listening.close()
            remove_own(path, inode)

        cleanup.push_async_callback(stop)
        async with asyncio.timeout(HTTP_START_S):
            while not server.started and not serving.done():
                await asyncio.sleep(0.005)
        if serving.done():
            serving.result()

    def _counted(self, commands: Commands) -> Answer:
        async def answer(payload: bytes) -> list[bytes]:
            self._requests += 1
            return await commands.answer(payload)

        return answer

    def _reload(self) -> None:
        """SIGHUP: what can change without a restart."""
        loaded = load(self._settings.root, conf=self._settings.conf or None)
        if loaded.settings is not None:
            self._settings, _ = adopt(self._settings, loaded.settings)
            self._log.set_level(self._settings.log_level)

    def _say(self, level: str, text: str) -> None:
        self._log.line(level, TAG, SUBTAG, text)
