"""One link as sync sees it: the other end, requests to it, and work in progress on it."""

import asyncio
import contextlib
from collections.abc import Callable, Iterable

from clusterd.errors import ClusterError
from clusterd.messages.bodies import OpenBody
from clusterd.messages.links import LinkInfo
from clusterd.settings import Settings
from clusterd.sync.links.incoming import Incoming
from clusterd.sync.links.tags import worker_tag
from clusterd.sync.ports.net_port import Flight, NetPort, Response
from clusterd.sync.ports.pool_port import JobError, PoolPort
from clusterd.sync.ports.tasks import Tasks, Work
from clusterd.sync.ports.zip_limit import ZipLimit
from clusterd.wire.results import decode_err_payload
from ipc.descriptor import Descriptor

RESPONSE_LIMIT = 16 * 1024 * 1024
LATE_ANSWERS = 64
"""Most requests to one peer that report how a request of its own ended; it must read them before it may ask for more
(R4)."""


def file_limit(settings: Settings) -> int:
    """The largest package that this node takes, in bytes."""
    most = settings.clusterd.limits.unpacked_total_bytes
    return settings.communication.max_zip_size_bytes if settings.is_master else most


class Peer:
    """Owns a link on sync's side. Of `info` only the keepalive changes; the rest belongs to the features.

    `program` is "clusterd" or "stock" once that is known, else ""; `capabilities`: those that both ends listed.
    `interrupted`: task ids that the peer cancelled; `paths`: shared paths of packages that are being sent to it.
    """

    def __init__(
        self,
        info: LinkInfo,
        net: NetPort,
        jobs: PoolPort,
        incoming: Incoming,
        limit: ZipLimit,
        timeout_s: float,
        tell: Callable[[str], None],
        may_send: Callable[[], None] | None = None,
    ) -> None:
        """`tell`: called with the text about an unexpected failure of a task of this link. `may_send`: raises a
        ClusterError where nothing may go out to it; None: nothing speaks against it."""
        self._may_send = may_send
        self.info = info
        self.link = info.link
        self.name = info.name
        self.incoming = incoming
        self.zip_limit = limit
        self.timeout_s = timeout_s
        self.keepalive_at = info.keepalive_at
        self.silent_s = 0.0
        """As LinkDown.silent_s, when the link has ended."""
        self.program = ""
        self.is_slow = False
        """Whether a large chunk takes so long to reach it that what waits behind it would be given up."""
        self.capabilities: frozenset[str] = frozenset()
        self._agreed = asyncio.Event()
        self.gone = asyncio.Event()
        """Set when the link has ended."""
        self.spoke = asyncio.Event()
        """Set when it has sent its first request behind hello."""
        self.interrupted: set[str] = set()
        self.sending: set[str] = set()
        self.paths: set[str] = set()
        self._net = net
        self._jobs = jobs
        self._tasks = Tasks(tell)
        self._late = Tasks(tell, LATE_ANSWERS)

    @property
    def tag(self) -> str:
        """Tag of log lines about a master's work for this worker."""
        return worker_tag(self.name)

    def set_bounds(self, settings: Settings) -> None:
        """What a reload has changed of times and limits; a link may live for months."""
        self.timeout_s = settings.communication.timeout_cluster_request_s
        self.zip_limit.set_rules(settings.communication)
        self.incoming.set_bounds(file_limit(settings), settings.clusterd.limits)

    def agree(self, capabilities: Iterable[str]) -> None:
        """Records what both ends can do."""
        self.capabilities = frozenset(capabilities)
        self._agreed.set()

    async def agreed(self) -> frozenset[str]:
        """Waits for the capabilities; on a worker's link to its master that takes one round trip."""
        await self._agreed.wait()
        return self.capabilities

    async def request(
        self,
        command: str,
        payload: bytes = b"",
        *,
        body: Descriptor | None = None,
        timeout_s: float | None = None,
        small: bool = False,
    ) -> bytes:
        """Sends a request; returns the payload of its `ok`. `small`: a response that net has not opened is refused.

        Raises ClusterError: 3020 without a response in time, LinkClosed, or what the peer's `err` says (C3)."""
        flight = await self.begin(command, payload, body=body, timeout_s=timeout_s)
        return await self.response_of(command, flight, small=small)

    async def begin(
        self, command: str, payload: bytes = b"", *, body: Descriptor | None = None, timeout_s: float | None = None
    ) -> Flight:
        """Sends a request without waiting for it: `response_of` waits. Requests are sent in the order of the calls.
        `body` lies in a slab held by the caller, whose hold it takes whatever happens."""
        if self._may_send is not None:
            try:
                self._may_send()
            except ClusterError:
                await self._net.unsent(body)
                raise
        return await self._net.begin(
            self.link, command, payload, body=body, timeout_s=self.timeout_s if timeout_s is None else timeout_s
        )

    async def give_string(self, command: str, word: str, content: bytes) -> bytes:
        """Sends a long string of at most INLINE_BYTES, then `command` with `word` (may be empty) and the id that the
        peer chose for the string; returns the payload of that command's `ok`.

        Raises ClusterError as `request` does, 3016 when the string was not taken."""
        if self._may_send is not None:
            self._may_send()
        response = await self._net.give_string(self.link, command, word, content, timeout_s=self.timeout_s)
        return await self._said(command, response)

    async def response_of(self, command: str, flight: Flight, *, small: bool = False) -> bytes:
        """Waits for a request that was begun; returns and raises as `request` does."""
        return await self._said(command, await flight.response(), small=small)

    async def _said(self, command: str, response: Response, *, small: bool = False) -> bytes:
        """The payload of an `ok`. Raises ClusterError."""
        if small and response.body is not None:
            await self._net.release(response.body)
            raise ClusterError(3018, f"the response to {command} is larger than agreed")
        content = await self._content(response)
        if response.command == "err":
            raise decode_err_payload(content)
        if response.command != "ok":
            raise ClusterError(3018, f"unknown response command {response.command!r} to {command}")
        return content

    async def _content(self, response: Response) -> bytes:
        if response.body is None:
            return response.payload
        try:
            opened = await self._jobs.run(OpenBody(response.body, RESPONSE_LIMIT), urgent=True)
        except JobError as failure:
            raise ClusterError(3018, str(failure)) from failure
        finally:
            await self._net.release(response.body)
        return opened.payload

    async def note_sending(self, command: str, task_id: str, *, is_open: bool) -> None:
        """Tells net, for a later sync process, that this node sends (or no longer sends) a file under this task."""
        if is_open:
            self.sending.add(task_id)
        else:
            self.sending.discard(task_id)
            self.interrupted.discard(task_id)
        await self._net.note_task(self.link, command, task_id, is_open=is_open)

    def spawn(self, work: Work) -> None:
        """Runs `work` until it or the link ends."""
        self._tasks.spawn(work)

    def answer_late(self, command: str, payload: bytes) -> None:
        """Reports by a request of ours how one of the peer's requests ended; the response is ignored.

        Raises ClusterError 1000 while LATE_ANSWERS wait: a peer that reads nothing gets no more."""
        self._late.spawn(tell(self, command, payload))

    async def close(self) -> None:
        """The link has ended: ends its tasks and forgets what it was sending."""
        self.gone.set()
        await self._late.close()
        await self._tasks.close()
        self._agreed.set()  # whoever still waits for what will not come
        self.incoming.close()


async def tell(peer: Peer, command: str, payload: bytes) -> None:
    """Sends a request whose answer changes nothing here. One that fails is dropped: the peer is gone or no longer waits
    for it, or its own time-out remains."""
    with contextlib.suppress(ClusterError):
        await peer.request(command, payload)
