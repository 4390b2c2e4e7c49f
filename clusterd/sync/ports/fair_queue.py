"""A fair queue for requests of several sources to several services, with limits (wire.md P9).

Requests of one lane (a client) run one after another, in order; lanes wait in order for each source and service, and
the sources take turns. No source, and no service that does not answer, can occupy the places of the others.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Hashable
from typing import TypeVar

import msgspec

from clusterd.errors import ClusterError

K = TypeVar("K", bound=Hashable)


class FairQueueLimits(msgspec.Struct, frozen=True):
    """How many requests may run: in all, per service, per source, per source and service; how many requests of one
    source may exist; and how many bytes, per source and in all."""

    running: int
    running_service: int
    running_source: int
    running_pair: int
    known_source: int
    bytes_source: int
    bytes: int


class Ticket:
    """One request, from `join` to `leave`."""

    __slots__ = ("begun", "has_left", "holds_service", "lane", "service", "size", "source")

    def __init__(self, source: int, lane: str, service: str, size: int) -> None:
        self.source = source
        self.lane = lane
        self.service = service
        self.size = size
        self.begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.holds_service = False
        self.has_left = False


class FairQueue:
    """Everything that has joined and not left."""

    def __init__(self, limits: FairQueueLimits) -> None:
        self._limits = limits
        self._lanes: dict[tuple[int, str], deque[Ticket]] = {}
        self._heads: dict[tuple[int, str], deque[Ticket]] = {}
        self._running = 0
        self._services: Counter[str] = Counter()
        self._sources: Counter[int] = Counter()
        self._pairs: Counter[tuple[int, str]] = Counter()
        self._known: Counter[int] = Counter()
        self._bytes: Counter[int] = Counter()
        self._all_bytes = 0

    @property
    def running(self) -> int:
        """Requests that occupy a place at their service."""
        return self._running

    def known(self, source: int) -> int:
        """Requests of one source, waiting or running."""
        return self._known[source]

    def join(self, source: int, lane: str, service: str, size: int) -> Ticket:
        """Joins the line; `size` bytes are accounted for the request. Raises ClusterError 1014 when there are too
        many."""
        limits = self._limits
        if (
            self._known[source] >= limits.known_source
            or self._bytes[source] + size > limits.bytes_source
            or self._all_bytes + size > limits.bytes
        ):
            raise ClusterError(1014, f"too many requests wait already, one for {service} was refused")
        turn = Ticket(source, lane, service, size)
        self._known[source] += 1
        self._bytes[source] += size
        self._all_bytes += size
        line = self._lanes.setdefault((source, lane), deque())
        line.append(turn)
        if len(line) == 1:
            self._queue(turn)
            self._go_on()
        return turn

    async def begin(self, turn: Ticket, timeout_s: float | None) -> None:
        """Waits for the turn. Raises ClusterError 1014 after `timeout_s` (None: never); the request must `leave` in
        every case."""
        if turn.begun.done() and not turn.begun.cancelled():
            return
        try:
            async with asyncio.timeout(timeout_s):
                await turn.begun
        except TimeoutError:
            raise ClusterError(1014, f"{turn.service} was busy for {timeout_s:g} s") from None

    def free_service(self, turn: Ticket) -> None:
        """The service has answered; others may use it while the answer is passed on."""
        if turn.holds_service:
            turn.holds_service = False
            self._running -= 1
            _less(self._services, turn.service)
            _less(self._pairs, (turn.source, turn.service))
            self._go_on()

    def leave(self, turn: Ticket) -> None:
        """Ends the request, whatever its outcome; may be called twice."""
        if turn.has_left:
            return
        turn.has_left = True
        line = self._lanes[turn.source, turn.lane]
        was_first = line[0] is turn
        line.remove(turn)
        if was_first:
            # Also skip cancelled futures: the task that waited may have been cancelled.
            queue = self._heads.get((turn.source, turn.service))
            if queue is not None and turn in queue:
                queue.remove(turn)
                if not queue:
                    del self._heads[turn.source, turn.service]
            else:
                _less(self._sources, turn.source)
            if line:
                self._queue(line[0])
        if not line:
            del self._lanes[turn.source, turn.lane]
        _less(self._known, turn.source)
        _less(self._bytes, turn.source, turn.size)
        self._all_bytes -= turn.size
        self.free_service(turn)
        self._go_on()

    def _queue(self, turn: Ticket) -> None:
        self._heads.setdefault((turn.source, turn.service), deque()).append(turn)

    def _go_on(self) -> None:
        """Begins whatever may begin."""
        limits = self._limits
        while self._running < limits.running:
            pair = next((pair for pair in self._heads if self._may_begin(pair)), None)
            if pair is None:
                return
            queue = self._heads.pop(pair)
            turn = queue.popleft()
            if queue:
                self._heads[pair] = queue  # behind the others
            turn.holds_service = True
            self._running += 1
            self._services[turn.service] += 1
            self._sources[turn.source] += 1
            self._pairs[pair] += 1
            if not turn.begun.done():
                turn.begun.set_result(None)

    def _may_begin(self, pair: tuple[int, str]) -> bool:
        source, service = pair
        limits = self._limits
        return (
            self._services[service] < limits.running_service
            and self._sources[source] < limits.running_source
            and self._pairs[pair] < limits.running_pair
        )


def _less(counter: Counter[K], key: K, by: int = 1) -> None:
    """Counters at zero are removed: sources come and go for ever."""
    counter[key] -= by
    if not counter[key]:
        del counter[key]
