"""The master's port: accepting connections, hello, keepalives, closing (wire.md 1.4, 1.6, 1.7)."""

import asyncio
import contextlib
import functools
import os
import re
import socket
import ssl
from collections.abc import Callable

from clusterd.errors import ClusterError
from clusterd.listening.accepting import Acceptor
from clusterd.listening.addresses import look_up_soon
from clusterd.listening.admission import Bounds, Gatekeeper
from clusterd.listening.transport import give_up
from clusterd.messages.links import HelloRefused
from clusterd.net.bridge import Bridge
from clusterd.net.context import MAIN, NetContext
from clusterd.net.hello import HelloRules, NotAdmitted, check_hello
from clusterd.net.keepalive import silent_too_long
from clusterd.net.link import Link
from clusterd.net.link_commands import LinkCommands
from clusterd.net.pulse import MISSED_S
from clusterd.net.terms import Terms
from clusterd.settings import Limits
from clusterd.wire import commands
from clusterd.wire.command_table import known_commands
from clusterd.wire.events import Sink, Violation
from clusterd.wire.foreign import NOT_OURS
from clusterd.wire.frame import REQUEST_CHUNK
from clusterd.wire.results import encode_failure
from clusterd.wire.seal import Sealer
from clusterd.wire.terms import TermNote, build_term, not_leading, parse_term
from clusterd.wire.token import sealed_length

STRANGER_BYTES = 8192
"""Limit for the body of a frame, and for all divided messages, before hello."""
REFUSED_LINGER_S = 1.0
"""A refused worker closes the connection itself after reading the reason; closing at once could lose the reply."""
BACKLOG = 1024
NODE_DIRECTORY_MODE = 0o770
KEEPALIVE_SUBTAG = "Keep alive"
WRONG_KEY = 3025
_OTHER_KEY = "what it sends is not sealed with our key: compare <key> in the ossec.conf of both nodes"
_BEFORE_HELLO = "no command but hello is answered before hello"


class Listener:
    """Owns the inbound links. A link waits until its hello is accepted; then it has a name for the rest of its life."""

    def __init__(
        self,
        context: NetContext,
        bridge: Bridge,
        link_commands: LinkCommands,
        sealer: Sealer,
        tls: ssl.SSLContext | None,
        terms: Terms,
        claimed: Callable[[TermNote, str], None],
    ) -> None:
        """`claimed`: called with what another node says of terms, and its host."""
        self._context = context
        self._terms = terms
        self._claimed = claimed
        self._bridge = bridge
        self._commands = link_commands
        self._sealer = sealer
        self._tls = tls
        self._known = known_commands("worker", on_master=True)
        self._gatekeeper = Gatekeeper(_bounds(context.settings.clusterd.limits))
        self._acceptor: Acceptor | None = None
        self._announced: set[int] = set()
        self._arriving: dict[int, tuple[socket.socket, asyncio.Task[None]]] = {}
        self._deadlines: dict[int, float] = {}
        self._refused: set[int] = set()
        self._told: set[int] = set()
        """Connections that have asked for the term: they may end without hello."""
        self._next_keepalive_check = 0.0
        self.links: dict[int, Link] = {}
        self.names: dict[str, Link] = {}

    # ---- the port ----------------------------------------------------------------------------------------------------

    async def start(self) -> str:
        """Binds and listens; returns the address as text. Raises OSError."""
        cluster = self._context.settings.cluster
        found = await look_up_soon(cluster.bind_addr, cluster.port, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.setblocking(False)
            listening.bind(address)
            listening.listen(BACKLOG)
        except OSError:
            listening.close()
            raise
        self._acceptor = Acceptor(listening, self._accepted, self._no_room)
        self._acceptor.start()
        host, port = listening.getsockname()[:2]
        if self._terms.was_given:
            self._context.log.line("INFO", "Master", MAIN, f"Serving on ({host!r}, {port})")
        else:
            self._context.own_line("INFO", f"Whoever dials ({host!r}, {port}) is told where the master is.")
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def stop(self) -> None:
        """Stops accepting. Links stay."""
        if self._acceptor is not None:
            self._acceptor.stop()

    def _no_room(self, text: str) -> None:
        self._context.abuse_line("ERROR", "Worker", "Net", "", "accept", text, is_insider=True)

    def _accepted(self, accepted: socket.socket, address: tuple[str, int]) -> None:
        context = self._context
        number, host = context.new_link_number(), address[0]
        admission = self._gatekeeper.admit(number, host)
        if admission.refused:
            accepted.close()
            context.meter.refused += 1
            text = f"Refused a connection from {host}: {admission.refused}."
            context.abuse_line("WARNING", "Worker", "Net", host, "refused", text)
            return
        if admission.evicted is not None:
            self._drop_stranger(admission.evicted, "it said no hello and others wait")
        keep_awake(accepted)
        link = Link(context, self._bridge, self, "master", self._sealer, number)
        link.tag, link.address = "Worker", host
        link.port = address[1]
        self.links[number] = link
        self._deadlines[number] = context.clock.awake() + context.settings.clusterd.handshake_timeout_s
        task = asyncio.ensure_future(self._arrive(link, accepted))
        self._arriving[number] = accepted, task
        task.add_done_callback(functools.partial(self._arrived, link, accepted))

    async def _arrive(self, link: Link, accepted: socket.socket) -> None:
        """Creates the transport for an accepted socket, with TLS if it is on."""
        await asyncio.get_running_loop().connect_accepted_socket(
            lambda: link,
            accepted,
            ssl=self._tls,
            ssl_handshake_timeout=self._context.settings.clusterd.handshake_timeout_s if self._tls else None,
        )

    def _arrived(self, link: Link, accepted: socket.socket, task: "asyncio.Task[None]") -> None:
        """Also called for a task that was cancelled before its first step."""
        self._arriving.pop(link.number, None)
        reason = "the connection was dropped"
        problem = None if task.cancelled() else task.exception()
        if problem is not None:
            text = (problem.strerror if isinstance(problem, OSError) else None) or problem
            reason = f"TLS: {text}" if self._tls else str(text)
        if not link.is_made:
            with contextlib.suppress(OSError):
                accepted.shutdown(socket.SHUT_RDWR)  # what there is of TLS by now ends by that, too
            accepted.close()
            self.lost(link, reason)

    def _drop_stranger(self, number: int, reason: str) -> None:
        """Closes a connection that has not said hello."""
        self._deadlines.pop(number, None)
        link, arriving = self.links.get(number), self._arriving.get(number)
        if link is not None and link.is_made:
            link.abort(reason)
        elif arriving is not None:
            give_up(arriving[0])

    # ---- links -------------------------------------------------------------------------------------------------------

    def made(self, link: Link) -> None:
        link.allow(STRANGER_BYTES, STRANGER_BYTES)

    def request(self, link: Link, counter: int, command: str, payload: bytes, bodies: list[Sink]) -> None:
        if link.number not in self._announced:
            # Only now: a peer that has sealed something with our key is no stranger.
            self._announced.add(link.number)
            text = f"Connection from ({link.address!r}, {link.port})"
            self._context.ordinary_line("INFO", "Worker", link.address, text)
        if command == commands.HELLO and not bodies:
            self._commands.log_command(link, command)
            self._hello(link, counter, payload)
        elif command == commands.TERM and not bodies and self._terms.is_on:
            self._term(link, counter, payload)
        elif link.name:
            self._commands.request(link, counter, command, payload, bodies)
        else:
            error = ClusterError(1000, _BEFORE_HELLO)
            link.respond(counter, commands.ERR, encode_failure(error))
            text = f"Internal error processing request '{commands.python_bytes(command)}': {error}"
            self._context.abuse_line("ERROR", "Worker", MAIN, link.address, "before hello", text, is_insider=True)

    def _term(self, link: Link, counter: int, payload: bytes) -> None:
        """Another node has heard of a term, or asks for ours."""
        try:
            note = parse_term(payload, self._terms.cluster)
        except ClusterError as malformed:
            link.respond(counter, commands.ERR, encode_failure(malformed))
            return
        terms, who = self._terms, f"{note.node} at {link.address}"
        if note.leads and terms.leads and note.term == terms.term > 0 and note.node != terms.note.node:
            text = (
                f"Two masters: {who} leads in term {note.term}, and so does this node. The name that comes last counts."
            )
            self._context.abuse_line("ERROR", "Master", "Net", link.address, "two masters", text, is_insider=True)
        self._claimed(note, link.address)
        link.respond(counter, commands.OK, build_term(terms.note))
        if not link.name:
            self._told.add(link.number)

    def drop_workers(self, reason: str) -> None:
        """This node leads no more: whoever is connected looks for the master."""
        for link in list(self.names.values()):
            link.abort(reason)

    def _hello(self, link: Link, counter: int, payload: bytes) -> None:
        settings = self._context.settings
        rules = HelloRules(
            settings.cluster.node_name,
            settings.cluster.name,
            settings.clusterd.version,
            settings.clusterd.version_rule,
        )
        try:
            if not self._terms.leads:
                raise NotAdmitted(1000, not_leading(self._terms.note).extra)
            registered = {
                name: known.address for name, known in self.names.items() if known is link or known.silent_s < MISSED_S
            }
            hello = check_hello(payload, rules, registered, link.name)
        except NotAdmitted as refusal:
            self._context.meter.refuse_hello(refusal.code)
            link.respond(counter, commands.ERR, encode_failure(refusal))
            text = f"Internal error processing request '{commands.python_bytes(commands.HELLO)}': {refusal}"
            kind = f"hello {refusal.code}"
            self._context.abuse_line("ERROR", link.tag, MAIN, link.address, kind, text, is_insider=True)
            self._tell_refused(link, refusal.node, refusal.both or str(refusal))
            if not link.name:
                self._refused.add(link.number)
                link.end_by(REFUSED_LINGER_S, "")
            return
        before = self.names.get(hello.name)
        if before is not None:
            before.abort("")
            self.lost(before, f"nothing has come for {before.silent_s:.0f} seconds, and it has connected again")
        link.go_on()
        self._refused.discard(link.number)
        self._deadlines.pop(link.number, None)
        self._gatekeeper.name(link.number)
        link.kind, link.name, link.known = "worker", hello.name, self._known
        link.tag = f"Worker {hello.name}"
        link.allow(sealed_length(REQUEST_CHUNK), self._context.divided_bytes)
        self.names[hello.name] = link
        make_node_directory(self._context, hello.name)
        link.respond(counter, commands.OK, commands.hello_accepted(hello.name))
        self._bridge.link_up(link, hello.node_type, hello.version)

    def _tell_refused(self, link: Link, name: str, reason: str) -> None:
        """Tells the operator what the stock line lacks: a line of our own, and a row in `status`."""
        self._say_refused(link, name, reason)
        self._bridge.refused(HelloRefused(name, link.address, reason))

    def _say_refused(self, link: Link, name: str, reason: str) -> None:
        who = f"{name} at {link.address}" if name else link.address
        text = f"Refused {who}: {reason}."
        self._context.abuse_line(
            "WARNING", "Worker", "Net", link.address, f"refused {name}", text, is_insider=bool(name)
        )

    def violated(self, link: Link, violation: Violation) -> None:
        if violation.code == WRONG_KEY and not link.name:
            self._context.meter.refused_key += 1
            self._tell_refused(link, "", _OTHER_KEY)
        elif violation.text.startswith(NOT_OURS):
            self._say_refused(link, "", violation.text)
        link.abort(violation.text)

    def lost(self, link: Link, reason: str) -> None:
        if self.links.pop(link.number, None) is None:
            return  # another connection has taken its place
        self._announced.discard(link.number)
        self._deadlines.pop(link.number, None)
        self._gatekeeper.release(link.number)
        was_told = link.number in self._told
        self._told.discard(link.number)
        log = self._context.log
        if link.name:
            del self.names[link.name]
            if reason:
                log.line("ERROR", link.tag, MAIN, f"Error during connection with '{link.name}': {reason}.")
            else:
                log.line("DEBUG", link.tag, MAIN, f"Disconnected {link.name}.")
            log.line("INFO", link.tag, MAIN, "Cancelling pending tasks.")
            self._bridge.link_down(link, reason)
        elif link.number in self._refused or was_told:
            self._refused.discard(link.number)
        else:
            text = "Error during handshake with incoming connection" + (f": {reason}." if reason else ".")
            kind = f"handshake {re.sub(r'[0-9]+', '#', reason)}"
            self._context.abuse_line("ERROR", "Worker", MAIN, link.address, kind, text)

    # ---- time --------------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Called twice a second: ends handshakes that took too long, and checks keepalives when that is due."""
        timeout_s = self._context.settings.clusterd.handshake_timeout_s
        while self._deadlines:
            number, deadline = next(iter(self._deadlines.items()))
            if deadline > now:
                break
            if number in self._refused:
                del self._deadlines[number]
            else:
                self._context.meter.refused_silent += 1
                self._drop_stranger(number, f"no hello in {timeout_s:g} seconds")
        intervals = self._context.settings.master
        if now >= self._next_keepalive_check and self._terms.leads:
            self._next_keepalive_check = now + intervals.check_worker_lastkeepalive_s
            self._check_keepalives(now, intervals.max_allowed_time_without_keepalive_s)

    def _check_keepalives(self, now: float, allowed_s: float) -> None:
        log = self._context.log
        log.line("DEBUG", "Master", KEEPALIVE_SUBTAG, "Calculating.")
        read = [link for link in self.names.values() if not link.is_held]
        for link in silent_too_long(read, now, allowed_s):
            text = f"No keep alives have been received from {link.name} in the last minute. Disconnecting"
            log.line("ERROR", "Master", KEEPALIVE_SUBTAG, text)
            link.given_up_s = allowed_s
            link.abort("")
        log.line("DEBUG", "Master", KEEPALIVE_SUBTAG, "Calculated.")

    def set_limits(self) -> None:
        """Adopts limits that a reload may have changed."""
        self._gatekeeper.bounds = _bounds(self._context.settings.clusterd.limits)

    @property
    def waiting(self) -> int:
        """Connections that have not said hello."""
        return self._gatekeeper.waiting


def _bounds(limits: Limits) -> Bounds:
    return Bounds(limits.connections, limits.connections_per_address, limits.connections_per_network, limits.handshakes)


def make_node_directory(context: NetContext, name: str) -> None:
    """Creates `queue/cluster/{name}`, which stock peers expect. Nothing of ours is written there."""
    path = f"{context.settings.root.rstrip('/')}/queue/cluster/{name}"

    def make() -> None:
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, NODE_DIRECTORY_MODE)

    def made(making: "asyncio.Future[None]") -> None:
        problem = None if making.cancelled() else making.exception()
        if problem is not None:
            text = (problem.strerror if isinstance(problem, OSError) else None) or problem
            context.own_line("ERROR", f"The directory {path} cannot be made: {text}")

    context.disk.run(path, make).add_done_callback(made)


def keep_awake(connected: socket.socket) -> None:
    """Finds a peer that vanished without closing within about a minute, so that its name becomes free: by probes on an
    idle connection, by a time-out on a busy one (the system's own would take a quarter of an hour)."""
    for level, option, value in (
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 60_000),
    ):
        connected.setsockopt(level, option, value)
