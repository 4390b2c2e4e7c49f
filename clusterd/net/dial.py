"""A worker's link to its master: which address, hello, keepalives, and when to try again (wire.md 1.4, 1.6, 1.7)."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from typing import Any, NamedTuple

from clusterd.clock import Backoff
from clusterd.errors import ClusterError, in_words
from clusterd.listening.addresses import Found, look_up_soon, meant_by
from clusterd.listening.transport import give_up
from clusterd.net.awaited import AwaitedAnswer, AwaitedTerm
from clusterd.net.bridge import DOES_NOT_LEAD, Bridge
from clusterd.net.connect import connect
from clusterd.net.context import MAIN, NetContext
from clusterd.net.keepalive import KeepaliveSender
from clusterd.net.link import Link
from clusterd.net.link_commands import LinkCommands
from clusterd.net.listen import keep_awake, make_node_directory
from clusterd.net.terms import Terms
from clusterd.wire import commands
from clusterd.wire.command_table import known_commands
from clusterd.wire.events import Sink, Violation
from clusterd.wire.frame import REQUEST_CHUNK
from clusterd.wire.payloads import Hello, build_hello
from clusterd.wire.results import decode_err_payload
from clusterd.wire.seal import Sealer
from clusterd.wire.terms import TermNote, build_term, parse_term, read_refusal
from clusterd.wire.token import sealed_length

FIRST_RETRY_S = 1.0
JITTER = 0.25
CHANGE_S = 20.0
"""How long after the loss of a master another one is expected soon, in a cluster that has seen terms."""
CHANGE_PAUSES = 0.25, 1.0
"""The shortest and the longest pause between two rounds then; seconds."""
NAMED_ALONE = 3
"""A master named by this node's own election answers within a second or two. This many rounds ask only that one, with
the shortest pause, then one round asks all nodes."""
CONNECT_S = 8.0
"""Time limit for a TCP connection. The system repeats its SYN after 1, 3 and 7 s; a connection that needs longer would
be bad anyway."""
KEEPALIVE_SUBTAG = "Keep Alive"
MOST_TRIED = 16
"""Addresses of one round: those that are configured, and those that nodes which do not lead name."""
TERM = "term"
TIMED_OUT = 3020
SHOWN_CHARACTERS = 100
_NO_ANSWER = "it closed the connection instead of answering hello; does it have the same cluster key? Its log says why"
_CHANGING = "it closed the connection, as a node does that begins or ceases to be the master"
OURS = {
    3028: 'our node_name is "{0.name}", and another node has it',
    3029: 'our node_name is "{0.name}", and so is the master\'s',
    3030: 'our cluster name is "{0.cluster}"',
    3031: "our version is {0.version}",
}
"""What this node said in its hello, by the code of the refusal: templates that take its Hello."""


class Address(NamedTuple):
    """Address of a master."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(node: str, default_port: int) -> Address:
    """Parses HOST, HOST:PORT, [V6]:PORT, [V6] or a bare V6 address (which has more than one colon)."""
    if node.startswith("["):
        host, _, rest = node[1:].partition("]")
        return Address(host, int(rest[1:]) if rest.startswith(":") else default_port)
    if node.count(":") == 1:
        host, _, port = node.partition(":")
        return Address(host, int(port))
    return Address(node, default_port)


class Dialer:
    """Owns the one outbound link. `run` never ends by itself."""

    def __init__(
        self,
        context: NetContext,
        bridge: Bridge,
        link_commands: LinkCommands,
        sealer: Sealer,
        tls: ssl.SSLContext | None,
        terms: Terms,
    ) -> None:
        self._context = context
        self._terms = terms
        self._led_elsewhere = ""
        """Where the node that was asked last says the master is."""
        self._bridge = bridge
        self._commands = link_commands
        self._sealer = sealer
        self._tls = tls
        self._known = known_commands("master", on_master=False)
        self._closed = asyncio.Event()
        self._hurry = asyncio.Event()
        self._change_until = self._named_until = float("-inf")
        self._connecting: asyncio.Timeout | None = None
        self._why = ""
        """How the last link violated the protocol."""
        self.links: dict[int, Link] = {}

    async def run(self) -> None:
        """Connects, waits until the link ends, and connects again, with pauses that grow to connection_retry."""
        first_s, longest_s = CHANGE_PAUSES
        soon = Backoff(first_s, longest_s, factor=1.5, jitter=JITTER)
        named = Backoff(first_s, first_s, jitter=JITTER)
        retry_s, backoff, alone = -1.0, soon, 0
        while True:
            if retry_s != self._context.settings.worker.connection_retry_s:  # of a reload, too
                retry_s = self._context.settings.worker.connection_retry_s
                backoff = Backoff(min(FIRST_RETRY_S, retry_s), retry_s / (1 + JITTER), jitter=JITTER)
            self._hurry.clear()
            lasted_s, is_named = 0.0, self._context.clock.awake() < self._named_until
            alone = (alone + 1) % (NAMED_ALONE + 1) if is_named else 0
            with self._context.rounds.survive("connecting to the master"):
                lasted_s = await self._one_round(alone=alone > 0)
            if lasted_s >= retry_s:
                backoff.reset()
            if lasted_s > 0:
                soon.reset()
                if not self._hurry.is_set():
                    self._named_until = float("-inf")
            pauses = named if is_named else soon if self._is_changing() else backoff
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pauses.next_s()):
                    await self._hurry.wait()
                backoff.reset()
                soon.reset()

    def look_elsewhere(self) -> None:
        """Another node leads: it is dialled at once, and the one before is left, also if it does not answer."""
        self._change_until = self._named_until = self._context.clock.awake() + CHANGE_S
        self._hurry.set()
        if self._connecting is not None and not self._connecting.expired():
            self._connecting.reschedule(asyncio.get_running_loop().time())
        for link in list(self.links.values()):
            link.abort("")

    async def _one_round(self, *, alone: bool) -> float:
        """Tries the addresses in order until one accepts this node: first where the master of the highest term is, as
        far as that is known, then, unless `alone`, what is configured. A node that does not lead says who does; that
        address is next. Returns how long the link lasted in seconds, 0 for none."""
        cluster, tried, sent_to = self._context.settings.cluster, set[Address](), set[Address]()
        nodes = [self._terms.master, *cluster.nodes] if cluster.nodes and self._terms.master else [*cluster.nodes]
        waiting = list(dict.fromkeys(parse_address(node, cluster.port) for node in nodes[: 1 if alone else None]))
        while waiting and not self._hurry.is_set():
            address = waiting.pop(0)
            tried.add(address)
            link = await self._connect(address, not waiting)
            if link is None:
                continue
            began, self._led_elsewhere = self._context.clock.awake(), ""
            try:
                if await self._join(link, asks=address in sent_to):
                    await self._stay(link)
                    return self._context.clock.awake() - began
            finally:
                link.close()
                await self._closed.wait()
            if self._led_elsewhere:
                master = parse_address(self._led_elsewhere, cluster.port)
                sent_to.add(master)
                if master not in tried and len(tried) < MOST_TRIED:
                    waiting = [master, *(other for other in waiting if other != master)]
        return 0.0

    async def _connect(self, address: Address, is_last: bool) -> Link | None:
        context = self._context
        timeout_s = min(CONNECT_S, context.settings.communication.timeout_cluster_request_s)
        name = f"Worker {context.settings.cluster.node_name}"
        self._closed.clear()
        self._why = ""
        link = Link(context, self._bridge, self, "worker", self._sealer, context.new_link_number())
        link.kind, link.name, link.address, link.tag = "master", str(address), address.host, name
        link.known = self._known
        server_name = (context.settings.clusterd.tls.server_name or address.host) if self._tls else None
        connected: socket.socket | None = None
        making: asyncio.Task[Any] | None = None
        found: list[Found] = []
        try:
            async with asyncio.timeout(timeout_s) as self._connecting:
                found = await look_up_soon(address.host, address.port)  # each time: what the name means may change
                connected = await connect(found)
                making = asyncio.create_task(self._make(link, connected, server_name))
                await asyncio.shield(making)
        except OSError as problem:
            self._connecting = None  # over: while the link closes nobody is to end it early
            if connected is not None and making is not None:
                give_up(connected)
                await asyncio.wait([making])
                if making.exception() is not None:
                    connected.close()
            if link.is_made:
                link.abort("")
                await self._closed.wait()
            if self._hurry.is_set():
                return None  # nobody wants it any more
            reason = str(problem) or f"no connection in {timeout_s:g} seconds"
            why = in_words(problem) or reason  # the stock line has the number, too
            if meant := meant_by(address.host, found):
                why += f" ({meant})"
            is_news = self._bridge.master_away(str(address), why)
            if is_news and is_last:  # the stock lines name no address
                context.own_line("WARNING", f"No connection to the master at {address}: {why}.")
            if not is_last:
                context.own_line("ERROR", f"Could not connect to {address}: {why}. Trying the next address.")
            elif isinstance(problem, ConnectionRefusedError):
                context.log.line("ERROR", name, MAIN, "Could not connect to master. Trying again in 10 seconds.")
            else:
                text = f"Could not connect to master: {reason}. Trying again in 10 seconds."
                context.log.line("ERROR", name, MAIN, text)
            return None
        finally:
            self._connecting = None
        return link

    async def _make(self, link: Link, connected: socket.socket, server_name: str | None) -> None:
        await asyncio.get_running_loop().create_connection(
            lambda: link, sock=connected, ssl=self._tls, server_hostname=server_name
        )

    async def _join(self, link: Link, *, asks: bool) -> bool:
        """Says hello. Returns whether the master accepts this node. A node that has heard of a term asks for that of
        the other first, and joins no master of a lower one."""
        if (self._terms.term or asks) and not await self._leads(link):
            return False
        settings = self._context.settings
        hello = Hello(
            settings.cluster.node_name, settings.cluster.name, settings.cluster.node_type, settings.clusterd.version
        )
        try:
            command, payload = await self._ask(link, commands.HELLO, build_hello(hello), lambda: self._joined(link))
            if command == commands.ERR:
                raise decode_err_payload(payload)
        except ConnectionResetError:
            self._say_unanswered(link)
            return False
        except ClusterError as refusal:
            elsewhere = read_refusal(refusal)
            if elsewhere is not None and elsewhere.term >= self._terms.term:
                # It is asked itself before its term counts.
                self._led_elsewhere = elsewhere.master
            ours = OURS.get(refusal.code, "").format(hello)
            is_news = self._bridge.master_away(link.name, str(refusal) + (f" ({ours})" if ours else ""))
            self._context.log.line("ERROR", link.tag, MAIN, f"Could not connect to master: {refusal}.")
            if ours and is_news:
                text = (
                    f"The master at {link.name} does not take this node: {ours}. The log of the master has both sides."
                )
                self._context.own_line("WARNING", text)
            return False
        return True

    async def _leads(self, link: Link) -> bool:
        """Asks for the term, which the other end learns from us, too. Returns whether it may be our master."""
        note = TermNote(0, True, "")
        try:
            command, payload = await self._ask(link, commands.TERM, build_term(self._terms.note))
            if command != commands.ERR:
                note = parse_term(payload, self._terms.cluster)
        except ConnectionResetError:
            self._say_unanswered(link)
            return False
        except ClusterError as problem:
            if problem.code == TIMED_OUT:
                self._bridge.master_away(link.name, "it does not say its term")
                self._context.own_line("WARNING", f"The node at {link.name} does not say its term: {problem.extra}.")
                return False
        refusal = self._terms.refusal(note, f"the master at {link.name}")
        if refusal:
            if self._bridge.master_away(link.name, f"REFUSED, {refusal}"):
                self._context.own_line("ERROR", f"Refused: {refusal}. Nothing is taken from it.")
            return False
        if note.leads:
            self._terms.believe(note)
            await self._terms.settled()
        else:
            self._led_elsewhere = note.master if note.term >= self._terms.term else ""
            if self._bridge.master_away(link.name, DOES_NOT_LEAD):
                text = (
                    f"{note.node} at {link.name} does not lead; the master is at {note.master or 'an unknown place'}."
                )
                self._context.own_line("INFO", text)
        return note.leads

    def _is_changing(self) -> bool:
        """Whether another master is expected: nodes that change their role close their connections."""
        return self._terms.term > 0 and self._context.clock.awake() < self._change_until

    def _say_unanswered(self, link: Link) -> None:
        level, reason = ("INFO", _CHANGING) if self._is_changing() else ("WARNING", _NO_ANSWER)
        if self._why:
            level, reason = "WARNING", self._why
        if self._bridge.master_away(link.name, reason):
            self._context.own_line(level, f"No answer from the master at {link.name}: {reason}.")

    def capabilities(self, link: Link, agreed: list[str]) -> None:
        """Both ends of the link have agreed on these. A master that has something to say about terms is asked."""
        if TERM in agreed and self.links.get(link.number) is link:
            link.ask(
                commands.TERM,
                build_term(self._terms.note),
                self._context.settings.communication.timeout_cluster_request_s,
                AwaitedTerm(self._context, self._terms),
            )

    def _joined(self, link: Link) -> None:
        """The master has accepted this node; its first request may follow immediately."""
        self._context.log.line("INFO", link.tag, MAIN, "Successfully connected to master.")
        make_node_directory(self._context, self._context.settings.cluster.node_name)
        link.keepalive_at = self._context.clock.wall()
        self._bridge.link_up(link)

    async def _ask(
        self, link: Link, command: str, payload: bytes, at_once: Callable[[], None] | None = None
    ) -> tuple[str, bytes]:
        answer = AwaitedAnswer(self._context, command, at_once)
        link.ask(command, payload, self._context.settings.communication.timeout_cluster_request_s, answer)
        return await answer.future

    async def _stay(self, link: Link) -> None:
        """Sends keepalives until the link ends or too many of them have failed."""
        clock, intervals = self._context.clock, self._context.settings.worker
        keepalive = KeepaliveSender(intervals.keep_alive_s, intervals.max_failed_keepalive_attempts, clock.awake())
        while True:
            try:
                async with asyncio.timeout(max(0.0, keepalive.next_at - clock.awake())):
                    await self._closed.wait()
                return
            except TimeoutError:
                pass
            intervals = self._context.settings.worker
            keepalive.set_intervals(intervals.keep_alive_s, intervals.max_failed_keepalive_attempts)
            if await self._keepalive(link):
                keepalive.succeeded(clock.awake())
            elif keepalive.failed(clock.awake()):
                text = "Maximum number of failed keep alives reached. Disconnecting."
                self._context.log.line("ERROR", link.tag, KEEPALIVE_SUBTAG, text)
                return

    async def _keepalive(self, link: Link) -> bool:
        log = self._context.log
        try:
            command, payload = await self._ask(link, commands.ECHO_C, commands.KEEPALIVE)
            if command == commands.ERR:
                raise decode_err_payload(payload)
        except (ClusterError, ConnectionResetError) as failure:
            log.line("ERROR", link.tag, KEEPALIVE_SUBTAG, f"Error sending keep alive: {failure}")
            return False
        shown = "".join(filter(str.isprintable, payload.decode(errors="replace")))[:SHOWN_CHARACTERS]
        log.line("INFO", link.tag, KEEPALIVE_SUBTAG, f"Successful response from master: {shown}")
        self._bridge.keepalive(link)
        return True

    # ---- the link ----------------------------------------------------------------------------------------------------

    def made(self, link: Link) -> None:
        keep_awake(link.socket)
        link.allow(sealed_length(REQUEST_CHUNK), self._context.divided_bytes)
        self.links[link.number] = link

    def request(self, link: Link, counter: int, command: str, payload: bytes, bodies: list[Sink]) -> None:
        if link.info is None:
            # The master sent a request before it answered our hello; sync does not know this link yet.
            self._context.slabs.drop(bodies, self._context.clock.awake())
            link.abort(f"the master sent {commands.python_bytes(command)} before it answered hello")
            return
        self._commands.request(link, counter, command, payload, bodies)

    def violated(self, link: Link, violation: Violation) -> None:
        self._why = violation.text
        link.abort(violation.text)

    def lost(self, link: Link, reason: str) -> None:
        self.links.pop(link.number, None)
        log = self._context.log
        if reason:
            log.line("ERROR", link.tag, MAIN, f"Connection closed due to an unhandled error: {reason}")
        else:
            log.line("INFO", link.tag, MAIN, "The master closed the connection")
        was_up = link.info is not None
        self._bridge.link_down(link, reason)
        if was_up:
            self._change_until = self._context.clock.awake() + CHANGE_S
            self._bridge.master_away(link.name, reason or "the connection was closed")
        self._closed.set()
