"""Sync's side of the channel to net: requests and their responses, replies, slabs. It makes no decisions."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable

import msgspec

from clusterd.errors import ClusterError
from clusterd.messages.links import (
    Answered,
    CloseLink,
    GiveString,
    Release,
    Reply,
    Request,
    SlabsReturned,
    SyncToNet,
    TaskNote,
    Unanswered,
    WriteLog,
)
from clusterd.sync.ports.slabs import SlabPool
from ipc.descriptor import Descriptor

Send = Callable[[SyncToNet], Awaitable[None]]


class Response(msgspec.Struct, frozen=True):
    """A peer's response: its command word, and its payload or, when large, the sealed body in net's slabs."""

    command: str
    payload: bytes
    body: list[Descriptor] | None = None


class Flight:
    """A request that was sent. Wait for its `response` once, or `forget` it."""

    __slots__ = ("_drop", "_future", "_is_taken", "_number", "_waiting")

    def __init__(
        self,
        number: int,
        future: "asyncio.Future[Response]",
        waiting: "dict[int, tuple[int, str, asyncio.Future[Response]]]",
        drop: Callable[[Response], None],
    ) -> None:
        """`drop`: gets a response that nobody takes."""
        self._number = number
        self._future = future
        self._waiting = waiting
        self._drop = drop
        self._is_taken = False

    async def response(self) -> Response:
        """Raises ClusterError 3020 when no response came in time (NotSent if the peer will not read the request),
        LinkClosed when the link has ended."""
        try:
            response = await self._future
            self._is_taken = True
            return response
        finally:
            self.forget()

    def forget(self) -> None:
        """Drops the request: its response is no longer needed. It may be there: whoever waited was cancelled in the
        moment in which it came."""
        self._waiting.pop(self._number, None)
        if self._future.cancel() or self._future.cancelled():
            return
        if self._future.exception() is None and not self._is_taken:  # asked: asyncio would complain otherwise
            self._is_taken = True
            self._drop(self._future.result())


class LinkClosed(ClusterError):
    """The link ended before the response came."""

    def __init__(self, command: str) -> None:
        super().__init__(3018, f"the connection was closed before {command} was answered")


class NotSent(ClusterError):
    """No response in time: the peer took nothing, and the request was withdrawn. It will never be read."""

    def __init__(self, command: str) -> None:
        super().__init__(3020, command)


class NetPort:
    """Numbers requests and matches responses to them. `send` writes one message to the current net process even when
    its caller is cancelled: otherwise a slab that is marked as net's would never be returned."""

    def __init__(self, send: Send, slabs: SlabPool) -> None:
        self._send = send
        self._slabs = slabs
        self._ids = itertools.count(1)
        self._waiting: dict[int, tuple[int, str, asyncio.Future[Response]]] = {}
        self._releasing: set[asyncio.Task[None]] = set()
        self.life = 0
        """Incarnation of the net process that is served; 0 before the first."""

    async def request(
        self, link: int, command: str, payload: bytes = b"", *, body: Descriptor | None = None, timeout_s: float
    ) -> Response:
        """Sends a request and waits for the response.

        Raises ClusterError 3020 when no response came in `timeout_s`, LinkClosed when the link has ended."""
        return await (await self.begin(link, command, payload, body=body, timeout_s=timeout_s)).response()

    async def begin(
        self, link: int, command: str, payload: bytes = b"", *, body: Descriptor | None = None, timeout_s: float
    ) -> Flight:
        """Sends a request. `body` lies in a slab held by the caller; from here on net has that hold, whatever
        happens."""
        if body is not None:
            self._slabs.sent(body.slab)
        number = next(self._ids)
        message = Request(link, number, command, payload, None if body is None else [body], timeout_s=timeout_s)
        return await self._ask(link, number, command, message)

    async def unsent(self, body: Descriptor | None) -> None:
        """Drops the caller's hold of a body that is not sent after all."""
        if body is not None:
            await self._slabs.drop_now(body.slab)

    async def give_string(self, link: int, command: str, word: str, content: bytes, *, timeout_s: float) -> Response:
        """Makes net send a long string and then `command`; returns the response. `timeout_s`: for each of the requests.

        Raises ClusterError 3016 when the peer did not accept the string, and otherwise as `request` does."""
        number = next(self._ids)
        message = GiveString(link, number, command, word, content, timeout_s)
        return await (await self._ask(link, number, command, message)).response()

    async def _ask(self, link: int, number: int, command: str, message: Request | GiveString) -> Flight:
        future: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self._waiting[number] = (link, command, future)
        flight = Flight(number, future, self._waiting, self._drop)
        try:
            await self._send(message)
        except BaseException:
            flight.forget()
            raise
        return flight

    async def reply(
        self,
        link: int,
        serial: int,
        command: str,
        payload: bytes = b"",
        *,
        body: list[Descriptor] | None = None,
        log: str = "",
        more: bool = False,
    ) -> None:
        """Nothing is sent if `body` is of an earlier net process: whoever asked is gone with it."""
        if body and not self._is_lent(body):
            return
        await self._send(Reply(link, serial, command, payload, body, log, more))

    def _drop(self, response: Response) -> None:
        if response.body is not None:
            releasing = asyncio.create_task(self.release(response.body))
            self._releasing.add(releasing)
            releasing.add_done_callback(self._releasing.discard)

    async def release(self, body: list[Descriptor] | None) -> None:
        """Returns slabs to net, unless an earlier net process has lent them."""
        if body and self._is_lent(body):
            await self._send(Release([part.slab for part in body]))

    def _is_lent(self, body: list[Descriptor]) -> bool:
        """Whether nobody but us uses these slabs: those that a dead net process has lent are its successor's."""
        return all(part.life in (0, self.life) for part in body)

    async def close(self, link: int, reason: str) -> None:
        await self._send(CloseLink(link, reason))

    async def note_task(self, link: int, command: str, task_id: str, *, is_open: bool) -> None:
        await self._send(TaskNote(link, command, task_id, is_open))

    async def main_line(self, level: str, tag: str, text: str) -> None:
        """Makes net write a log line under subtag Main."""
        await self._send(WriteLog(level, tag, text))

    async def answered(self, message: Answered) -> None:
        found = self._waiting.get(message.id)
        if found is None or found[2].done():
            await self.release(message.body)
            return
        found[2].set_result(Response(message.command, message.payload, message.body))

    def unanswered(self, message: Unanswered) -> None:
        found = self._waiting.get(message.id)
        if found is None or found[2].done():
            return
        command = found[1]
        if message.why == "timeout":
            found[2].set_exception(ClusterError(3020, command))
        elif message.why == "unsent":
            found[2].set_exception(NotSent(command))
        elif message.why == "closed":
            found[2].set_exception(LinkClosed(command))
        elif message.why == "string":
            found[2].set_exception(ClusterError(3016, message.text))
        else:
            found[2].set_exception(ClusterError(3018, message.text or message.why))

    async def slabs_returned(self, message: SlabsReturned) -> None:
        await self._slabs.take_back(message.slabs)

    async def net_lost(self) -> None:
        """Called when net died: every request in flight fails, every slab that net held is free."""
        self.life = 0
        for _, command, future in list(self._waiting.values()):
            if not future.done():
                future.set_exception(LinkClosed(command))
        await self._slabs.net_lost()
