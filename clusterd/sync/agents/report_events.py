"""Journal events of a master about reports of agents. Reports arrive every few seconds from every worker, so one event
sums up many. A failure is reported at once, and only once until a report succeeds again."""

from collections.abc import Callable

import msgspec

from clusterd.clock import Clock
from clusterd.messages.journal import LONGEST_TEXT, AnyEvent, SyncEvent

EVERY_S = 600.0
MOST_WORKERS = 1000


class _Sum(msgspec.Struct):
    since: float
    reports: int = 0
    bytes: int = 0
    seconds: float = 0.0
    is_failing: bool = False


class ReportEvents:
    """Owns the sums."""

    def __init__(self, clock: Clock, tell: Callable[[AnyEvent], None]) -> None:
        self._clock = clock
        self._tell = tell
        self._sums: dict[str, _Sum] = {}

    def add(self, worker: str, size: int, seconds: float, why: str) -> None:
        """Records that a worker's report of `size` bytes was written; `why`: why not all of it was."""
        found = self._sums.get(worker)
        if found is None:
            if len(self._sums) >= MOST_WORKERS:
                del self._sums[next(iter(self._sums))]
            # The first report is an event at once: it shows that a worker's agents arrive at all.
            found = self._sums[worker] = _Sum(self._clock.monotonic() - EVERY_S)
        if why:
            if not found.is_failing:
                event = SyncEvent(worker=worker, what="agents", bytes=size, seconds=round(seconds, 3), result="failed")
                self._tell(msgspec.structs.replace(event, why=why[:LONGEST_TEXT]))
            found.is_failing = True
            return
        found.reports += 1
        found.bytes += size
        found.seconds += seconds
        now = self._clock.monotonic()
        if found.is_failing or now - found.since >= EVERY_S:
            text = f"{found.reports} reports" if found.reports > 1 else ""
            event = SyncEvent(
                worker=worker, what="agents", bytes=found.bytes, seconds=round(found.seconds, 3), why=text
            )
            self._tell(event)
            self._sums[worker] = _Sum(now)
