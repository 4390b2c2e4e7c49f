"""Our own open requests on one connection: counters, deadlines, late responses (wire.md 2.3, 3.5)."""

COUNTERS = 1 << 32
_NEAR = 1 << 20
_REMEMBERED = 4096


class RequestTable:
    """Counter and deadline of each request that waits for its response. Time is passed in.

    Late responses are dropped silently, so expired counters are remembered; only the newest 4096 (the original keeps
    all, wire.md R4).
    """

    __slots__ = ("_expired", "_last", "_peer", "_waiting")

    def __init__(self, start: int) -> None:
        """`start`: a random 32-bit number; the first request uses the number after it."""
        self._last = start % COUNTERS
        self._peer: int | None = None
        self._waiting: dict[int, float] = {}
        self._expired: dict[int, None] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def open(self, deadline: float) -> int:
        """Returns the counter of a new request."""
        counter = (self._last + 1) % COUNTERS
        if self._peer is not None and (counter - self._peer + _NEAR) % COUNTERS < 2 * _NEAR:
            # Both ends count upwards in one number space; a stock peer would take our request for a response (wire.md
            # C2).
            counter = (self._peer + COUNTERS // 2) % COUNTERS
        while counter in self._waiting or counter in self._expired:
            counter = (counter + 1) % COUNTERS
        self._last = counter
        self._waiting[counter] = deadline
        return counter

    def peer_used(self, counter: int) -> None:
        """The peer's latest request used this counter; ours keep away from it."""
        self._peer = counter

    def settle(self, counter: int) -> bool | None:
        """A response has arrived: True if its request waits, False if that has expired, None if there is none."""
        if self._waiting.pop(counter, None) is not None:
            return True
        if counter in self._expired:
            del self._expired[counter]
            return False
        return None

    def forget(self, counter: int) -> None:
        """Forgets a request; its response will be dropped."""
        if self._waiting.pop(counter, None) is not None:
            self._remember(counter)

    def put_off(self, counter: int, deadline: float) -> None:
        """The request has not been sent yet: its time is not over before `deadline`."""
        known = self._waiting.get(counter)
        if known is not None and known < deadline:
            self._waiting[counter] = deadline

    def expire(self, now: float) -> list[int]:
        """Removes and returns the counters whose deadline has passed at `now`."""
        late = [counter for counter, deadline in self._waiting.items() if deadline <= now]
        for counter in late:
            del self._waiting[counter]
            self._remember(counter)
        return late

    def next_deadline(self) -> float | None:
        return min(self._waiting.values(), default=None)

    def take_all(self) -> list[int]:
        """Removes and returns the counters of all open requests: the connection has ended."""
        waiting = list(self._waiting)
        self._waiting.clear()
        self._expired.clear()
        return waiting

    def _remember(self, counter: int) -> None:
        self._expired[counter] = None
        if len(self._expired) > _REMEMBERED:
            del self._expired[next(iter(self._expired))]
