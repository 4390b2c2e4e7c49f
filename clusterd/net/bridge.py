"""Carries events and requests of links to sync, and sync's replies and requests to links (messages: clusterd/messages).

Sync may die at any moment and return as another process. Then the bridge answers every open request with `err`, takes
back the slabs that sync held, and tells the new process which sendings were lost.
"""

import time
from collections.abc import Callable

import msgspec

from clusterd.messages.links import (
    CloseLink,
    GiveString,
    HelloRefused,
    KeepaliveSeen,
    LinkDown,
    LinkInfo,
    LinkUp,
    MasterAway,
    NetHello,
    NetToSync,
    OpenTask,
    PeerRequest,
    Release,
    Reply,
    Request,
    SyncHello,
    SyncToNet,
    TaskNote,
    WriteLog,
)
from clusterd.net.context import MAIN, NetContext
from clusterd.net.link import Link
from clusterd.net.peer_requests import PeerRequests, restarted
from clusterd.net.sync_bodies import SyncBodies
from clusterd.net.sync_queue import SyncQueue
from clusterd.net.sync_requests import SyncRequests
from clusterd.wire import commands
from clusterd.wire.events import Sink
from ipc.board import BoardRow
from ipc.channel import DealerChannel
from ipc.errors import BadMessage

NOTES_PER_LINK = 1200
"""How many of a peer's open sendings and sendsync requests are remembered, so that a new sync can end them."""
PULSE = "pulse"
"""The capability that net itself takes part in."""
DOES_NOT_LEAD = "it does not lead"
MOST_AWAY = 8
"""Addresses whose reasons are told."""
_GONE = ("down", "failed")


class Bridge:
    """Net's end of the channel, and the table of links that sync knows."""

    def __init__(
        self,
        context: NetContext,
        channel: DealerChannel[SyncToNet],
        sync_row: BoardRow,
        incarnation: int,
    ) -> None:
        self._context = context
        self._channel = channel
        self._to_sync = SyncQueue(context, channel)
        self._bodies = SyncBodies(context, self.tell)
        self._sync_row = sync_row
        self._incarnation = incarnation
        self._sync: int | None = None
        self._is_greeted = False
        """Whether the sync process that is served has said hello to this life of net."""
        self._links: dict[int, Link] = {}
        self.peer_requests = PeerRequests(context, self._bodies, context.begin_life(incarnation), self.keepalive)
        self._requests = SyncRequests(self._bodies, self.tell)
        self._notes: dict[int, dict[tuple[str, str], None]] = {}
        self.serving = ""
        self._away: dict[str, str] = {}
        self.agreed: Callable[[Link, list[str]], None] = lambda link, capabilities: None
        """Called when both ends of a link have agreed on capabilities."""

    # ---- from links --------------------------------------------------------------------------------------------------

    def link_up(self, link: Link, node_type: str = "", version: str = "") -> None:
        """Tells sync about this link. `kind` and `name` of the link are set."""
        link.info = LinkInfo(
            link.number,
            link.kind,
            link.name,
            node_type,
            version,
            link.address,
            link.connected_at,
            link.keepalive_at,
            link.uid,
            link.pid,
            link.up_since,
        )
        self._links[link.number] = link
        if link.kind == "master":
            self._away.clear()
        self.tell(LinkUp(link.info))
        if link.kind != "local":  # programs are few, and some of what they ask net answers itself
            self._to_sync.hold_if_full(link)

    def link_down(self, link: Link, reason: str) -> None:
        """The link has ended; its requests need no answers."""
        self.peer_requests.link_down(link)
        self._to_sync.forget(link)
        self._notes.pop(link.number, None)
        if self._links.pop(link.number, None) is not None:
            self.tell(LinkDown(link.number, reason, link.given_up_s))

    def master_away(self, address: str, reason: str) -> bool:
        """Records why there is no link to the master at this address. Returns whether the reason has changed."""
        if self._away.get(address) == reason:
            return False
        self._away[address] = reason
        while len(self._away) > MOST_AWAY:
            del self._away[next(iter(self._away))]
        self.tell(MasterAway(self._why_away()))
        return True

    def _why_away(self) -> str:
        """Of all addresses: the one that was tried last may be a candidate that has nothing to do with the reason."""
        rows = sorted(self._away.items(), key=lambda row: row[1] == DOES_NOT_LEAD)
        return "; ".join(f"{address}: {reason}" for address, reason in rows)

    def keepalive(self, link: Link) -> None:
        """Records a keepalive. Sync hears of nodes' keepalives only, not of local clients'."""
        now = self._context.clock
        link.heard_at = now.awake()
        link.keepalive_at = now.wall()
        if link.kind != "local" and link.number in self._links:
            self.tell(KeepaliveSeen(link.number, link.keepalive_at))
            self._to_sync.hold_if_full(link)

    def refused(self, refusal: HelloRefused) -> None:
        """Tells sync of a node that may not join. Anybody may cause that at any rate, so not while much waits."""
        if not self._to_sync.is_full:
            self.tell(refusal)

    def forward(
        self, link: Link, counter: int, command: str, payload: bytes, bodies: list[Sink], answer_as: str = ""
    ) -> None:
        """Passes a request on to sync."""
        if self.sync_is_lost:
            self._bodies.drop(bodies)
            link.respond(counter, commands.ERR, restarted())
            return
        serial = self.peer_requests.add(link, counter, command, answer_as)
        self.tell(PeerRequest(link.number, serial, command, payload, self._bodies.lend(bodies)))
        self._to_sync.hold_if_full(link)

    def slabs_written(self, slabs: list[int]) -> None:
        """See SyncBodies.written."""
        self._bodies.written(slabs)

    # ---- from sync ---------------------------------------------------------------------------------------------------

    def handle(self, message: SyncToNet) -> None:
        """Handles one message of sync. What comes before its hello was meant for the life of net before this one, or
        is what a dead sync process has left: nobody waits for the responses, and nobody counts the slabs."""
        if not (self._is_greeted or isinstance(message, SyncHello | WriteLog)):
            return
        match message:
            case Reply():
                self.peer_requests.answer(message)
            case Request():
                self._requests.send(message, self._link_to(message.link))
            case GiveString():
                self._requests.give_string(message, self._link_to(message.link))
            case Release():
                self._bodies.free(message.slabs)
            case WriteLog():
                self._context.log.line(message.level, message.tag, MAIN, message.text)
            case TaskNote():
                self._note(message)
            case CloseLink():
                link = self._links.get(message.link)
                if link is not None:
                    link.abort(message.reason)
            case SyncHello():
                self._sync_hello(message.incarnation)

    def _link_to(self, number: int) -> Link | None:
        """Returns the link to which sync sends a request, None if there is none, or nothing may be sent to it."""
        link = self._links.get(number)
        return link if link is not None and self.peer_requests.may_send(link) else None

    def _note(self, message: TaskNote) -> None:
        link = self._links.get(message.link)
        if link is None:
            return
        if message.command == commands.CAPS:
            link.expect_pulse(message.open and PULSE in message.task_id.split(","))
            if message.open:
                self.agreed(link, message.task_id.split(","))
        notes = self._notes.setdefault(message.link, {})
        if not message.open:
            notes.pop((message.command, message.task_id), None)
        elif len(notes) < NOTES_PER_LINK:
            notes[message.command, message.task_id] = None

    # ---- lives of sync -----------------------------------------------------------------------------------------------

    def say_hello(self, answers: int = 0, *, goes_on: bool = False) -> None:
        """NetHello: everything that a sync process needs to know before any other message. `answers`: the one whose
        hello it answers. `goes_on`: nothing was dropped since the hello before."""
        links = [
            msgspec.structs.replace(link.info, keepalive_at=link.keepalive_at)
            for link in self._links.values()
            if link.info
        ]
        tasks = [OpenTask(link, command, task) for link, notes in self._notes.items() for command, task in notes]
        sending = self._bodies.sending()
        self.tell(NetHello(self._incarnation, links, sending, tasks, self.serving, self._why_away(), answers, goes_on))

    def _sync_hello(self, incarnation: int) -> None:
        if incarnation != self._sync:
            if self._sync is not None:
                self._lose_sync()
            self._sync = incarnation
        self._is_greeted = True
        was_lost = self.sync_is_lost
        self._to_sync.is_lost = False
        self.say_hello(incarnation, goes_on=not was_lost)

    def watch_sync(self) -> None:
        """Called by the tick: the board shows at once that sync's process has ended."""
        row = self._sync_row.snapshot()
        if self._sync is None:
            if row.state not in _GONE:
                self._sync = row.incarnation
        elif row.state in _GONE or row.incarnation != self._sync:
            self._lose_sync()

    def _lose_sync(self) -> None:
        """Sync has died: answers its open requests and takes back its slabs."""
        if self.sync_is_lost:
            return
        self._to_sync.lose()
        self._is_greeted = False
        self._requests.withdraw_all()
        self._context.slabs.sync_lost(self._context.clock.awake())
        refused = self.peer_requests.sync_is_gone()
        self._to_sync.let_links_go()
        self._context.own_line(
            "WARNING", f"The sync process is gone; {refused} requests that it had were refused. Links stay."
        )

    # ---- the channel -------------------------------------------------------------------------------------------------

    def tell(self, message: NetToSync) -> None:
        """Queues a message to sync. Without a sync process nothing is queued: NetHello will tell the next one
        everything."""
        self._to_sync.tell(message)

    async def send_all(self) -> None:
        """Hands the queued messages to sync. Runs until cancelled."""
        await self._to_sync.send_all()

    async def receive_all(self) -> None:
        """Runs until cancelled."""
        while True:
            try:
                message = await self._channel.recv()
            except BadMessage as problem:
                self._context.own_line("ERROR", f"A message of sync was not understood: {problem}")
                continue
            began = time.thread_time_ns()
            with self._context.rounds.survive("messages of sync"):
                self.handle(message)
            self._context.meter.worked(began)

    @property
    def sync_is_lost(self) -> bool:
        """Whether there is no sync process at this moment."""
        return self._to_sync.is_lost
