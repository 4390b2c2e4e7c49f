"""The api process: HTTPS on a port, the local socket behind it. It knows no more of the cluster than any local
client."""

import asyncio
import logging
import os
import socket
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import uvloop

from clusterd.api.app import Api
from clusterd.api.node import LocalNode
from clusterd.beat import pause_until
from clusterd.child_loop import run_loop
from clusterd.clock import Clock
from clusterd.config.certificates import certificate_problem
from clusterd.dapi.protocol.patience import asker_waits_s
from clusterd.errors import StartFailure
from clusterd.event_sender import EventSender
from clusterd.listening.bounded_server import HttpBounds, make_server
from clusterd.listening.http_server import CountedServer
from clusterd.listening.strangers import StrangerLines
from clusterd.logs import Log
from clusterd.memory import Trimmer
from clusterd.reload import read_again
from clusterd.settings import Settings
from clusterd.signals import heed_signals
from clusterd.token_secret import SecretFile
from clusterd.users import USERS_FILE, UserProblem, UsersFile
from ipc.board import Board

SUBTAG = "API"
HEARTBEAT_S = 0.5
START_S = 10.0


def run(settings: Settings, board: Board, log: Log) -> int:
    """Runs the child. Returns the exit code."""
    # Discards what uvicorn logs about callers' mistakes: without a handler Python would write it to stderr.
    logging.getLogger("uvicorn").addHandler(logging.NullHandler())
    failures, loop = (StartFailure, UserProblem, OSError), uvloop.new_event_loop
    return run_loop(lambda: _ApiProcess(settings, board, log).run(), settings.root, *failures, loop_factory=loop)


class _ApiProcess:
    def __init__(self, settings: Settings, board: Board, log: Log) -> None:
        self._settings = settings
        self._row = board.row("api")
        self._log = log
        self._trimmer = Trimmer(self._row.set_own_bytes)
        self._stop = asyncio.Event()
        self._clock = Clock().monotonic
        self._events = EventSender(settings.root, "api", is_on=settings.clusterd.has_monitor)
        self._strangers: StrangerLines | None = None
        self._server: CountedServer | None = None

    async def run(self) -> int:
        """Serves until SIGTERM. Raises StartFailure, UserProblem, OSError while it starts."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._on_loop_trouble)
        heed_signals(self._stop.set, self._reload)
        settings, own = self._settings, self._settings.clusterd.api
        users = UsersFile(settings.root)
        if not users.users():
            self._say("WARNING", f"There are no users in {USERS_FILE}: add one with clusterd api user add NAME")
        secret = SecretFile(settings.root)
        secret.secret()
        api = Api(
            LocalNode(settings.root),
            own,
            users=users.users,
            secret=secret.secret,
            waits_s=lambda asked_s, complete: asker_waits_s(self._settings, asked_s, wait_for_complete=complete),
            say=self._say,
            limits=settings.clusterd.limits,
            tell=self._events.tell,
        )
        self._strangers = api.strangers
        listening = _bind(own.host, own.port)
        try:
            await self._serve(api, listening)
        finally:
            listening.close()
        return 0

    async def _serve(self, api: Api, listening: socket.socket) -> None:
        own = self._settings.clusterd.api
        cert, key = self._certificate
        self._refuse_bad_certificate(cert, key)
        bounds = HttpBounds(
            own.connections, own.connections_per_address, own.connections_per_network, own.request_timeout_s
        )
        self._server = server = make_server(api.app, bounds, refused=self._refused, cert=cert, key=key)
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            async with asyncio.timeout(START_S):
                while not server.started and not serving.done():
                    await asyncio.sleep(0.005)
            self._row.set_ready()
            self._say("INFO", f"Serving the REST API on https://{_shown(own.host)}:{own.port}.")
            while not self._stop.is_set() and not serving.done():
                self._row.stamp()
                self._events.flush()
                self._trimmer.tick(self._clock())
                self._row.set("connections", server.connections)
                api.strangers.tick(self._clock())
                for name in ("requests", "refused", "failed"):
                    self._row.set(name, getattr(api.counters, name))
                await pause_until(self._stop, self._row, HEARTBEAT_S)
            self._row.set_stopping()
        finally:
            server.end()
            await serving

    @property
    def _certificate(self) -> tuple[str, str]:
        own, root = self._settings.clusterd.api, self._settings.root
        return os.path.join(root, own.cert), os.path.join(root, own.key)

    def _reload(self) -> None:
        """On SIGHUP: loads the certificate, for new connections, and the settings that can change without a restart."""
        self._settings = read_again(self._settings, self._log)
        limits = self._settings.clusterd.limits
        if self._strangers is not None:
            self._strangers.set_bounds(limits.log_lines_per_address_s, limits.log_lines)
        context = None if self._server is None else self._server.config.ssl
        if context is None:
            return
        cert, key = self._certificate
        try:
            self._refuse_bad_certificate(cert, key)
            context.load_cert_chain(cert, key)
        except (StartFailure, OSError) as failure:
            self._say("WARNING", f"The old certificate stays: {failure}")
        else:
            self._say("INFO", f"Using the certificate {cert} from now on.")

    def _refuse_bad_certificate(self, cert: str, key: str) -> None:
        """Raises StartFailure. Checks as the daemon's user; the configuration may have been checked as root."""
        problem = certificate_problem(Path(cert), Path(key))
        if problem:
            raise StartFailure(problem)

    def _on_loop_trouble(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Logs failures of the loop. Failed handshakes and broken connections are caused by callers."""
        failure = context.get("exception")
        level = "DEBUG" if failure is None or isinstance(failure, OSError) else "WARNING"
        self._say_of_stranger(
            level, type(failure).__name__, f"{context.get('message', 'trouble')}: {type(failure).__name__}"
        )

    def _refused(self, address: str, text: str) -> None:
        self._say_of_stranger("WARNING", address, text)

    def _say_of_stranger(self, level: str, key: Hashable, text: str) -> None:
        strangers = self._strangers
        if strangers is not None and self._log.is_on(level) and strangers.admit(key, self._clock()) is not None:
            self._say(level, text)

    def _say(self, level: str, text: str) -> None:
        tag = "Master" if self._settings.is_master else f"Worker {self._settings.cluster.node_name}"
        self._log.line(level, tag, SUBTAG, text)


def _bind(host: str, port: int) -> socket.socket:
    """Raises StartFailure that names the settings to change."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
    except OSError as failure:
        listening.close()
        text = f"the REST API cannot listen on {_shown(host)}:{port}: {failure.strerror}"
        raise StartFailure(f"{text}; set clusterd.api.host or clusterd.api.port in etc/cluster.json") from None
    return listening


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
