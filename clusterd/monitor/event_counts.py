"""Counters made from the journal's events since this process began, for sums that `status` does not have."""

from bisect import bisect_left
from collections.abc import Iterator

from clusterd.messages.journal import (
    OUTCOMES,
    AnyEvent,
    ChangeEvent,
    LoginEvent,
    MasterEvent,
    ProcessEvent,
    RegistrationEvent,
    SyncEvent,
    WorkerEvent,
)

SYNC_BOUNDS_S = (0.01, 0.05, 0.25, 1.0, 5.0, 30.0, 120.0, 600.0)
SYNC_KINDS = ("files", "ahead", "groups", "agents")
MOST_SERIES = 4096
"""Most label values of one counter. Names of workers come from the cluster; any beyond this number are not counted."""


class EventCounts:
    """`take` each event once. `counts` and `sync_seconds` are for metrics."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, tuple[str, ...]], float] = {}
        self._sizes: dict[str, int] = {}
        self._sync_buckets: dict[str, list[int]] = {}
        self._sync_s: dict[str, float] = {}

    def take(self, event: AnyEvent) -> None:
        match event:
            case SyncEvent():
                self._sync(event)
            case ChangeEvent():
                for what in ("added", "changed", "deleted", "withheld"):
                    self._add("clusterd_changed_files_total", getattr(event, what), what)
            case WorkerEvent() | MasterEvent() | RegistrationEvent() | LoginEvent() | ProcessEvent():
                self._add(_COUNTED[event.kind], 1, _word(event.outcome, OUTCOMES[event.kind]))

    def _sync(self, event: SyncEvent) -> None:
        self._add("clusterd_syncs_total", 1, event.worker, _word(event.result, OUTCOMES["sync"]))
        self._add("clusterd_sync_bytes_total", event.bytes, event.worker)
        what = _word(event.what, SYNC_KINDS)
        buckets = self._sync_buckets.setdefault(what, [0] * (len(SYNC_BOUNDS_S) + 1))
        buckets[bisect_left(SYNC_BOUNDS_S, event.seconds)] += 1
        self._sync_s[what] = self._sync_s.get(what, 0.0) + event.seconds

    def _add(self, name: str, count: float, *labels: str) -> None:
        key = name, labels
        if key not in self._counts:
            if self._sizes.get(name, 0) >= MOST_SERIES:
                return
            self._sizes[name] = self._sizes.get(name, 0) + 1
        self._counts[key] = self._counts.get(key, 0) + count

    def counts(self) -> Iterator[tuple[str, tuple[str, ...], float]]:
        """Yields name of the metric, labels, value."""
        for (name, labels), count in self._counts.items():
            yield name, labels, count

    def sync_seconds(self) -> Iterator[tuple[str, list[int], float]]:
        """Yields kind of sync, counts by the buckets of SYNC_BOUNDS_S, and seconds in all."""
        for what, buckets in self._sync_buckets.items():
            yield what, buckets, self._sync_s[what]


_COUNTED = {
    "worker": "clusterd_worker_events_total",
    "master": "clusterd_master_events_total",
    "registration": "clusterd_registrations_total",
    "login": "clusterd_logins_total",
    "process": "clusterd_process_events_total",
}


def _word(value: str, allowed: tuple[str, ...]) -> str:
    return value if value in allowed else "other"
