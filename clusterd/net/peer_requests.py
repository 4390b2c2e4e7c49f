"""Requests of peers and programs that were passed on to sync, and what is answered to them."""

import asyncio
from collections.abc import Callable

from clusterd.errors import ClusterError
from clusterd.messages.links import Reply
from clusterd.net.asking import IgnoreAnswer
from clusterd.net.context import MAIN, NetContext
from clusterd.net.link import Link
from clusterd.net.reading import HELD_REQUESTS
from clusterd.net.sync_bodies import SyncBodies
from clusterd.net.sync_requests import INTERNAL
from clusterd.wire import commands
from clusterd.wire.results import encode_failure

MOST_CONTINUED = 16
"""Times `requests_per_link`: most requests of a link of which a part of the answer may follow."""
TOLD_S = 20.0
"""How long net waits for the response to a request of its own."""


class OpenRequest:
    """A request of a peer that sync is answering. `answer_as`: the command word that replaces `ok` (echo-c, echo-m).
    `answered`: the response was sent, and more will follow."""

    __slots__ = ("answer_as", "answered", "command", "counter", "link")

    def __init__(self, link: Link, counter: int, command: str, answer_as: str) -> None:
        self.link = link
        self.counter = counter
        self.command = command
        self.answer_as = answer_as
        self.answered = False


class PeerRequests:
    """Owns the requests that sync has not answered. `keepalive`: called when an echo is answered."""

    def __init__(self, context: NetContext, bodies: SyncBodies, serial: int, keepalive: Callable[[Link], None]) -> None:
        """`serial`: of the request before the first one."""
        self._context = context
        self._bodies = bodies
        self._serial = serial
        self._keepalive = keepalive
        self._open: dict[int, OpenRequest] = {}
        self._silenced: set[int] = set()
        """Links of programs to which nothing is sent any more, until they are closed."""

    def __len__(self) -> int:
        return len(self._open)

    def add(self, link: Link, counter: int, command: str, answer_as: str) -> int:
        """Returns the serial number under which sync answers."""
        self._serial += 1
        self._open[self._serial] = OpenRequest(link, counter, command, answer_as)
        link.serials.add(self._serial)
        if not self._takes_more(link):
            link.hold(HELD_REQUESTS)
        return self._serial

    def link_down(self, link: Link) -> None:
        """The link has ended; its requests need no answers."""
        for serial in link.serials:
            self._open.pop(serial, None)
        link.serials.clear()
        link.continued = 0

    def answer(self, message: Reply) -> None:
        """Sends sync's answer."""
        body = message.body
        request = self._open.get(message.serial)
        if request is None or not self.may_send(request.link):
            if body:
                self._bodies.unsent(body)
            return
        link = request.link
        if message.more:
            link.continued += not request.answered
            request.answered = True
        else:
            self._ended(message.serial)
        if self._takes_more(link):
            link.let_go(HELD_REQUESTS)
        if not message.command:
            return
        if message.log:
            text = f"Internal error processing request '{commands.python_bytes(request.command)}': {message.log}"
            self._context.log.line("ERROR", link.tag, MAIN, text)
        command = message.command
        if request.answer_as and command == commands.OK:
            command = request.answer_as
            if request.answer_as == commands.OK_ECHO_C:
                self._keepalive(link)
        if body is None:
            link.respond(request.counter, command, message.payload)
            return
        views, slabs = self._bodies.take(body, link)
        if views is None:
            link.respond(request.counter, commands.ERR, encode_failure(ClusterError(INTERNAL, "the answer was lost")))
        else:
            link.respond_body(request.counter, command, views, slabs)

    def _ended(self, serial: int) -> OpenRequest:
        request = self._open.pop(serial)
        request.link.serials.discard(serial)
        request.link.continued -= request.answered
        return request

    def _takes_more(self, link: Link) -> bool:
        """Whether the next request of this link may be read. What was answered, and waits for the rest of its answer,
        needs responses to requests of ours, which are read with the next requests: it must not keep them unread."""
        most = self._context.settings.clusterd.limits.requests_per_link
        return len(link.serials) - link.continued < most and len(link.serials) < MOST_CONTINUED * most

    def may_send(self, link: Link) -> bool:
        """Whether anything may go out to this link: to a worker nothing of a master that does not lead. When that is
        noticed the links are closed."""
        fence = self._context.fence
        if link.number in self._silenced:
            return False
        return fence is None or link.kind != "worker" or fence.is_open()

    def refuse_programs(self, refused: Callable[[str], bool], answer: bytes, *, after_s: float = 0.0) -> None:
        """Programs whose requests need a master that leads hear that this one does not; sync's answers come too late.
        `after_s`: so much later they hear it. A program that asks again then finds the next master, and these processes
        have most likely ended before."""
        late: list[OpenRequest] = []
        for serial, request in list(self._open.items()):
            if request.link.kind != "local" or not refused(request.command):
                continue
            late.append(self._ended(serial))
            request.link.let_go(HELD_REQUESTS)
            if request.answered:
                self._silenced.add(request.link.number)
        if after_s:
            asyncio.get_running_loop().call_later(after_s, self._refuse, late, answer)
        else:
            self._refuse(late, answer)

    def _refuse(self, late: list[OpenRequest], answer: bytes) -> None:
        for request in late:
            link = request.link
            self._silenced.discard(link.number)
            if link.is_lost:
                continue
            if request.answered:
                link.abort("this node does not lead any more")
            else:
                link.respond(request.counter, commands.ERR, answer)

    def sync_is_gone(self) -> int:
        """Refuses all requests of the sync process that has died. Returns how many there were."""
        lost, self._open = self._open, {}
        for request in lost.values():
            link = request.link
            link.serials.clear()
            link.continued = 0
            if request.answered:
                link.ask(commands.ERR, restarted(), TOLD_S, IgnoreAnswer(self._context))
            else:
                link.respond(request.counter, commands.ERR, restarted())
            link.let_go(HELD_REQUESTS)
        return len(lost)


def restarted() -> bytes:
    return encode_failure(ClusterError(INTERNAL, "sync process was restarted"))
