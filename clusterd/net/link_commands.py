"""Requests that net answers itself on an established link: echoes and unknown commands. Everything else goes to sync
(wire.md 4.1)."""

import asyncio
from typing import NamedTuple

from clusterd.errors import ClusterError
from clusterd.leadership import NOT_LEADING
from clusterd.net.bridge import Bridge
from clusterd.net.context import MAIN, NetContext
from clusterd.net.link import Link
from clusterd.wire import commands
from clusterd.wire.command_table import NEED_LEADER
from clusterd.wire.events import Sink
from clusterd.wire.results import encode_failure

NOT_CONNECTED = 3023
LOOK_S = 0.05
MOST_HELD = 1000
_ECHOES = {commands.ECHO: commands.OK, commands.ECHO_C: commands.OK_ECHO_C, commands.ECHO_M: commands.OK_C}


def not_leading_text() -> bytes:
    """The answer to a program whose request needs a master that leads."""
    return encode_failure(ClusterError(NOT_CONNECTED, NOT_LEADING))


class _Held(NamedTuple):
    """A program's request that waits for the lease."""

    link: Link
    counter: int
    command: str
    payload: bytes


class LinkCommands:
    """Shared by listen, dial and local."""

    def __init__(self, context: NetContext, bridge: Bridge) -> None:
        self._context = context
        self._bridge = bridge
        self._held: list[_Held] = []

    def request(self, link: Link, counter: int, command: str, payload: bytes, bodies: list[Sink]) -> None:
        """Answers a request of a peer whose link sync knows, or passes it on."""
        if command == commands.ECHO and payload == commands.PULSE and link.has_pulse:
            link.respond(counter, commands.OK, payload)  # every few seconds: no line for it
            return
        fence = self._context.fence
        if fence is not None and link.kind != "master" and not fence.is_open() and not self._may_ask(link, command):
            if link.kind == "local" and not bodies and fence.is_changing and len(self._held) < MOST_HELD:
                self._hold(_Held(link, counter, command, payload))
                return
            self._drop(bodies)
            if link.kind == "local":
                link.respond(counter, commands.ERR, not_leading_text())
            else:
                link.abort(NOT_LEADING)
            return
        self.log_command(link, command)
        if command not in link.known:
            self._drop(bodies)
            link.respond(counter, commands.ERR, commands.unknown_command_text(command))
        elif command in _ECHOES:
            self._echo(link, counter, command, payload, bodies)
        else:
            self._bridge.forward(link, counter, command, payload, bodies)

    def _hold(self, request: _Held) -> None:
        """While the lead changes hands, nothing is refused of which nothing was executed."""
        if not self._held:
            asyncio.get_running_loop().call_later(LOOK_S, self._look_at_held)
        self._held.append(request)

    def _look_at_held(self) -> None:
        fence = self._context.fence
        assert fence is not None
        if not fence.is_open() and fence.is_changing:
            asyncio.get_running_loop().call_later(LOOK_S, self._look_at_held)
            return
        held, self._held = self._held, []
        for one in held:
            if not one.link.is_lost:
                with self._context.rounds.survive("requests that waited for the lease"):
                    self.request(one.link, one.counter, one.command, one.payload, [])

    @staticmethod
    def _may_ask(link: Link, command: str) -> bool:
        """Whether that needs no master that leads."""
        return link.kind == "local" and command not in NEED_LEADER

    def log_command(self, link: Link, command: str) -> None:
        """The original prints it differently on a worker (wire.md 9.4)."""
        if self._context.log.is_on("DEBUG"):
            shown = commands.python_bytes(command)
            text = f"Command received: '{shown}'" if link.kind == "master" else f"Command received: {shown}"
            self._context.log.line("DEBUG", link.tag, MAIN, text)

    def _echo(self, link: Link, counter: int, command: str, payload: bytes, bodies: list[Sink]) -> None:
        if not bodies:
            link.respond(counter, _ECHOES[command], payload)
            if command == commands.ECHO_C:
                self._bridge.keepalive(link)
        elif link.kind == "local":
            # The echo is not sealed again: the received bytes are sent back from where they lie.
            parts = self._context.slabs.numbers(bodies)
            views = [sink.view for sink in bodies]
            link.respond_body(counter, _ECHOES[command], views, parts)
            if command == commands.ECHO_C:
                self._bridge.keepalive(link)
        else:
            self._bridge.forward(link, counter, commands.ECHO, b"", bodies, _ECHOES[command])

    def _drop(self, bodies: list[Sink]) -> None:
        self._context.slabs.drop(bodies, self._context.clock.awake())
