"""The broadcasts of agent groups that wait for one worker, sent one after the other, and its results (wire.md 6.3)."""

import asyncio
from collections import deque
from collections.abc import Callable

from clusterd.beat import awake_timeout
from clusterd.errors import ClusterError
from clusterd.messages.journal import LONGEST_TEXT, SyncEvent
from clusterd.sync.agents.broadcasts import GUARD, Broadcast, Broadcasts
from clusterd.sync.agents.info import log_result
from clusterd.sync.links.context import Context
from clusterd.sync.links.peer import Peer
from clusterd.sync.links.records import WorkerRecord
from clusterd.sync.ports.net_port import NotSent
from clusterd.sync.ports.tag_log import TagLog
from clusterd.sync.ports.troubles import round_survives
from clusterd.wire import commands
from clusterd.wire.payloads import BatchResult, parse_batch_result
from clusterd.wire.results import shorten
from hashing.segment import Segment

SEND = "Agent-groups send"
NO_ANSWER = 3020
ATTEMPTS = 5
"""How often rows that a worker cannot write are sent to it."""
TEXT_BYTES = 4096
MOST_WAITING = 32
"""Most broadcasts that wait for one worker; a slower worker must rely on the comparison of checksums."""


class WorkerQueue:
    """The queue of the worker `peer`, as long as its link."""

    def __init__(
        self, context: Context, broadcasts: Broadcasts, peer: Peer, record_of: Callable[[Peer], WorkerRecord]
    ) -> None:
        self.peer = peer
        self._context = context
        self._broadcasts = broadcasts
        self._record_of = record_of
        self._queue: deque[Broadcast] = deque()
        self._wake = asyncio.Event()
        self._is_behind = False
        """The worker was not able to write its groups, or is too slow. Logged once."""
        self._is_silent = False
        """The worker did not answer the last message."""
        self._owed = 0
        """Messages whose results did not come in time. A worker answers in order: the next results are theirs."""
        self._came_late = False
        """Whether such a result has come during the message under way."""
        self._started: float | None = None
        self._answer: asyncio.Future[BatchResult] | None = None
        """Receives the result of the broadcast under way."""

    def put(self, broadcast: Broadcast) -> bool:
        """Queues a broadcast; returns whether it will be sent. A worker with a waiting message needs no further one
        that holds only the hash."""
        if self._queue and not broadcast.has_groups:
            return False
        if len(self._queue) >= MOST_WAITING:
            self._note_behind(f"{MOST_WAITING} messages wait for it already")
            return False
        broadcast.waiting.add(self.peer.link)
        self._queue.append(broadcast)
        self._wake.set()
        return True

    async def serve(self) -> None:
        """Sends the queued broadcasts, for ever."""
        log = self._context.tag_log(self.peer.tag, GUARD)
        while True:
            while not self._queue:
                self._wake.clear()
                await self._wake.wait()
            with round_survives(log, self._context.troubles, _sending(self.peer)):
                await self._serve_one(self._queue[0], log)

    def left(self) -> None:
        """Called when the link has ended."""
        for subject in (_subject(self.peer), _sending(self.peer)):
            self._context.troubles.end(subject)
        self._broadcasts.left(self.peer.link)

    async def _serve_one(self, broadcast: Broadcast, log: TagLog) -> None:
        began = self._context.clock.monotonic()
        try:
            problem = await self.send_patiently(broadcast)
        except BaseException:
            broadcast.is_lost = True  # the rows stay marked
            raise
        finally:
            self._queue.popleft()
            self._broadcasts.has_result(broadcast, self.peer.link)
        self._record_of(self.peer).groups_problem = problem
        if broadcast.has_groups:
            seconds = self._context.clock.monotonic() - began
            self._context.events.tell(groups_event(self.peer, len(broadcast.rows), broadcast.size, seconds, problem))
        if problem:
            self._note_behind(problem)
        elif broadcast.has_groups and self._is_behind:
            self._is_behind = False
            log.info(f"{self.peer.name} takes groups again.")

    async def send_patiently(self, broadcast: Broadcast) -> str:
        """Sends a broadcast, and sends it again while the worker cannot write its rows (a group's directory may be on
        its way). Returns the last reason of the worker, empty if it accepted the rows."""
        attempts = ATTEMPTS if broadcast.has_groups and not self._is_behind else 1
        problem = ""
        for attempt in range(attempts):
            if attempt:
                await asyncio.sleep(self._context.settings.master.sync_agent_groups_s)
            problem = await self._send(broadcast)
            if not problem or self._is_silent:
                break  # nobody else's groups wait for one that says nothing
        return problem

    def _note_behind(self, problem: str) -> None:
        if self._is_behind:
            return
        self._is_behind = True
        self._context.tag_log(self.peer.tag, GUARD).error(
            f"{self.peer.name} does not take the groups it is sent and is left to the comparison of checksums: "
            f"{problem}"
        )

    async def _send(self, broadcast: Broadcast) -> str:
        """Sends one message and waits for its result. Returns why the worker did not accept it, else empty."""
        context, peer = self._context, self.peer
        record = self._record_of(peer)
        log = context.tag_log(peer.tag, SEND)
        log.info("Starting.")
        self._started = context.clock.monotonic()
        record.groups_started_at, record.groups_ended_at = context.clock.wall(), None
        self._answer = asyncio.get_running_loop().create_future()
        self._is_silent = self._came_late = False
        try:
            string_id = await context.sender.send_string(peer, [Segment(broadcast.path, 0, broadcast.size)])
            log.debug("Sending chunks.")
            await peer.request(commands.SYN_G_M_W, string_id.encode())
            async with awake_timeout(context.settings.worker.timeout_agent_groups_s + peer.timeout_s):
                result = await self._answer
        except TimeoutError:
            self._is_silent = True
            # Where a late one has come meanwhile it was perhaps this one's, and an earlier one is lost for good.
            self._owed = 0 if self._came_late else self._owed + 1
            return self._not_sent(log, "no result came in time")
        except (ClusterError, OSError) as failure:
            cause = failure.__cause__ or failure
            self._is_silent = isinstance(cause, ClusterError) and cause.code == NO_ANSWER
            # The worker may have read the message all the same.
            if cause is failure and self._is_silent and not isinstance(failure, NotSent):
                self._owed += 1
            return self._not_sent(log, str(failure))
        finally:
            self._answer = None
        context.troubles.end(_subject(peer))
        return shorten("; ".join(result.error_messages), TEXT_BYTES)

    def _not_sent(self, log: TagLog, why: str) -> str:
        """Logged once until a message arrives: a worker whose disk is full is tried again every few seconds."""
        text = f"Error sending agent-groups information to {self.peer.name}: {why}"
        if not self._context.troubles.begin(_subject(self.peer), text, log, "ERROR"):
            log.debug2(text)
        return why

    def finished(self, payload: bytes) -> None:
        """`syn_w_g_e`. Raises ClusterError 1000 for an invalid result."""
        result = parse_batch_result(payload)
        log = self._context.tag_log(self.peer.tag, SEND)
        log_result(log, self._context.clock, self._started, result)
        if self._is_late() or self._answer is None:
            return
        record = self._record_of(self.peer)
        record.groups_ended_at, record.groups_chunks = self._context.clock.wall(), result.updated_chunks
        self._set_answer(result)

    def refused(self, payload: bytes) -> None:
        """`syn_w_g_err`."""
        text = say_refused(self._context, self.peer, SEND, payload)
        if not self._is_late():
            self._set_answer(BatchResult(0, [text or "refused without a reason"], 0.0))

    def _is_late(self) -> bool:
        """Returns whether the result that has come is that of an earlier message, which is waited for no longer."""
        if not self._owed:
            return False
        self._owed -= 1
        self._came_late = True
        return True

    def _set_answer(self, result: BatchResult) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(result)


def groups_event(peer: Peer, agents: int, size: int, seconds: float, problem: str) -> SyncEvent:
    """Returns the event that a worker was sent the groups of this many agents, and accepted them unless there was a
    problem."""
    return SyncEvent(
        worker=peer.name,
        what="groups",
        files=agents,
        bytes=size,
        seconds=round(seconds, 3),
        result="failed" if problem else "ok",
        why=problem[:LONGEST_TEXT],
    )


def say_refused(context: Context, peer: Peer, subtag: str, payload: bytes) -> str:
    """Logs that a worker refused groups, and returns the text."""
    text = shorten(payload.decode(errors="replace"), TEXT_BYTES)
    context.tag_log(peer.tag, subtag).error(f"There was an error while processing agent-groups on the peer: {text}")
    return text


def _subject(peer: Peer) -> str:
    return f"groups for {peer.name}"


def _sending(peer: Peer) -> str:
    return f"broadcasts to {peer.name}"
