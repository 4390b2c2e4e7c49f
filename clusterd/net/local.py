"""The local socket: programs on this machine (wire.md appendix A, dapi.md 1). No encryption, no hello."""

import asyncio
import contextlib
import os
import secrets
import socket
import struct

from clusterd.listening.doors import doors
from clusterd.net.bridge import Bridge
from clusterd.net.context import MAIN, NetContext
from clusterd.net.keepalive import silent_too_long
from clusterd.net.link import Link
from clusterd.net.link_commands import LinkCommands
from clusterd.net.listen import KEEPALIVE_SUBTAG
from clusterd.rundir import local_socket
from clusterd.wire.command_table import known_commands
from clusterd.wire.events import Sink, Violation
from clusterd.wire.frame import REQUEST_CHUNK

TAG = "Local Server"
SOCKET_UMASK = 0o117
NAMES = 1 << 20
BACKLOG = 128
_CREDENTIALS = struct.Struct("3i")
"""Linux's struct ucred: pid, uid, gid."""


class LocalServer:
    """Owns the local links. A client's name is a number; sync knows each client from the start."""

    def __init__(self, context: NetContext, bridge: Bridge, link_commands: LinkCommands) -> None:
        self._context = context
        self._bridge = bridge
        self._commands = link_commands
        self._path = local_socket(context.settings.root)
        self._known = known_commands("local", on_master=context.settings.is_master)
        self._server: asyncio.Server | None = None
        self._inode = 0
        self._next_keepalive_check = 0.0
        self.links: dict[int, Link] = {}
        self._names: set[str] = set()

    async def start(self) -> None:
        """Binds (mode 0660, replacing a stale file) and listens, or takes the socket of before a change of role. Raises
        OSError."""
        inherited = doors.inherited(self._path)
        listening = inherited or socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            if inherited is None:
                self._bind(listening)
            self._server = await asyncio.get_running_loop().create_unix_server(
                self._new_link, sock=listening, backlog=BACKLOG
            )
        except OSError:
            listening.close()
            raise
        self._context.log.line("INFO", TAG, MAIN, f"Serving on {self._path}")

    def _bind(self, listening: socket.socket) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        before = os.umask(SOCKET_UMASK)
        try:
            listening.bind(self._path)
        finally:
            os.umask(before)
        self._inode = os.stat(self._path).st_ino

    def stop(self) -> None:
        """Stops accepting and removes the file, unless it is the supervisor's, or another daemon has replaced it."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        with contextlib.suppress(OSError):  # a disk that is read-only by now: the links are still to be drained
            if os.stat(self._path).st_ino == self._inode:
                os.unlink(self._path)

    def _new_link(self) -> Link:
        return Link(self._context, self._bridge, self, "local-server", None, self._context.new_link_number())

    # ---- links -------------------------------------------------------------------------------------------------------

    def made(self, link: Link) -> None:
        limits = self._context.settings.clusterd.limits
        if len(self.links) >= limits.local_clients:
            text = f"Refused a local client: {len(self.links)} are connected, no more are allowed."
            self._context.abuse_line("WARNING", TAG, "Net", "local", "refused", text, is_insider=True)
            self._context.meter.refused += 1
            link.abort("")
            return
        name = str(secrets.randbelow(NAMES))
        while name in self._names:
            name = str(secrets.randbelow(NAMES))
        self._names.add(name)
        link.kind, link.name, link.known, link.tag = "local", name, self._known, f"Local {name}"
        link.pid, link.uid = _program_at(link.socket)
        link.allow(REQUEST_CHUNK, self._context.divided_bytes)
        self.links[link.number] = link
        self._bridge.link_up(link)

    def request(self, link: Link, counter: int, command: str, payload: bytes, bodies: list[Sink]) -> None:
        self._commands.request(link, counter, command, payload, bodies)

    def violated(self, link: Link, violation: Violation) -> None:
        link.abort(violation.text)

    def lost(self, link: Link, reason: str) -> None:
        if self.links.pop(link.number, None) is None:
            return
        self._names.discard(link.name)
        if reason:
            text = f"Error during connection with '{link.name}': {reason}."
            self._context.abuse_line("ERROR", link.tag, MAIN, "local", "lost", text, is_insider=True)
        else:
            self._context.log.line("DEBUG", link.tag, MAIN, f"Disconnected {link.name}.")
        self._bridge.link_down(link, reason)

    # ---- time --------------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Drops clients that have sent no `echo-c` for too long (dapi.md 1.2)."""
        intervals = self._context.settings.master
        if now < self._next_keepalive_check:
            return
        self._next_keepalive_check = now + intervals.check_worker_lastkeepalive_s
        log = self._context.log
        log.line("DEBUG", TAG, KEEPALIVE_SUBTAG, "Calculating.")
        # Daemons that wait up to 600 s for a sendsync answer send no keepalives; they wait for us.
        idle = [link for link in self.links.values() if not link.serials]
        for link in silent_too_long(idle, now, intervals.max_allowed_time_without_keepalive_s):
            text = f"No keep alives have been received from {link.name} in the last minute. Disconnecting"
            log.line("ERROR", TAG, KEEPALIVE_SUBTAG, text)
            link.abort("")
        log.line("DEBUG", TAG, KEEPALIVE_SUBTAG, "Calculated.")


def _program_at(connected: socket.socket) -> tuple[int, int]:
    """Process and user at the other end (dapi.md 8, number 9)."""
    credentials = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(credentials)
    return pid, uid
