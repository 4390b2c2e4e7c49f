"""The monitoring port: listens, and tries again while another program has the port."""

import asyncio
import contextlib
import errno
import logging
import os
import socket
from collections.abc import Callable
from pathlib import Path

from starlette.types import ASGIApp

from clusterd.listening.bounded_server import HttpBounds, make_server
from clusterd.listening.strangers import StrangerLines
from clusterd.rundir import monitor_url_path
from clusterd.settings import Settings

BOUNDS = HttpBounds(connections=64, per_address=48, per_network=64, head_s=5.0, send_s=30.0)
"""One machine has few viewers, scrapers and checks; a browser opens six connections."""
AGAIN_S = 5.0
SUBJECT = "port"


def url_of(address: str, port: int) -> str:
    return f"http://{f'[{address}]' if ':' in address else address}:{port}"


class MonitorPort:
    """Owner of the listening socket. `say`: logs a text at a level; `problem`: takes a text for `problems` of the
    status, "" when it is over."""

    def __init__(
        self, app: ASGIApp, settings: Settings, say: Callable[[str, str], None], problem: Callable[[str, str], None]
    ) -> None:
        # Drops what uvicorn logs about callers' mistakes: without a handler Python would write it to stderr.
        logging.getLogger("uvicorn").addHandler(logging.NullHandler())
        own, limits = settings.clusterd.monitor, settings.clusterd.limits
        self._app = app
        self._address, self._port = own.address, own.port
        self._url_path = Path(monitor_url_path(settings.root))
        self._say = say
        self._problem = problem
        self._is_failing = False
        self.strangers = StrangerLines(limits.log_lines_per_address_s, limits.log_lines, say)

    async def run(self) -> None:
        """Serves until it is cancelled."""
        while True:
            try:
                listening = _listen(self._address, self._port)
            except OSError as failure:
                self._cannot(failure)
                await asyncio.sleep(AGAIN_S)
                continue
            with contextlib.closing(listening):
                self._can(listening.getsockname()[1])
                await self._serve(listening)

    async def _serve(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        server = make_server(self._app, BOUNDS, refused=lambda caller, text: self._refused(caller, text, loop.time()))
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            await asyncio.shield(serving)
        finally:
            server.end()
            with contextlib.suppress(OSError):
                self._url_path.unlink(missing_ok=True)
            await serving

    def _can(self, port: int) -> None:
        url = url_of(self._address, port)
        with contextlib.suppress(OSError):
            self._url_path.write_text(f"{url}\n", encoding="utf-8")
        self._problem(SUBJECT, "")
        self._is_failing = False
        self._say("INFO", f"The monitoring port is {url}.")

    def _cannot(self, failure: OSError) -> None:
        url, why = url_of(self._address, self._port), os.strerror(failure.errno or 0)
        text = f"the monitoring port {url} cannot be opened: {why}"
        if failure.errno == errno.EADDRINUSE:
            text += (
                ": another program listens there; set clusterd.monitor.port in etc/cluster.json, or enabled to false"
            )
        self._problem(SUBJECT, text)
        if not self._is_failing:
            self._is_failing = True
            self._say("WARNING", f"T{text[1:]}. Everything else goes on; it is tried again every {AGAIN_S:g} s.")

    def _refused(self, caller: str, text: str, now: float) -> None:
        if self.strangers.admit(caller, now) is not None:
            self._say("WARNING", text)


def _listen(address: str, port: int) -> socket.socket:
    """Raises OSError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((address, port))
        listening.listen()
    except BaseException:
        listening.close()
        raise
    return listening
