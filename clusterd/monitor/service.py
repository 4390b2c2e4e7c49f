"""The data behind the monitoring port: the node's state, its past, the counts for metrics."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from clusterd.monitor.app import LONGEST_SEARCH_S, MOST_BYTES, MonitorApp, Shown
from clusterd.monitor.event_counts import EventCounts
from clusterd.monitor.feed import EventFeed, Heard
from clusterd.monitor.hosts import host_check
from clusterd.monitor.journal_reader import JournalReader
from clusterd.monitor.lag import STEP_S, LagHistory
from clusterd.monitor.metrics import Exposition, Own, take_samples
from clusterd.monitor.pages import PAGES
from clusterd.monitor.port import MonitorPort
from clusterd.monitor.primary import primary_problem
from clusterd.monitor.secrets_age import SecretFiles, SecretsAge
from clusterd.monitor.source import NodeSeen, StatusSource
from clusterd.rounds import Rounds
from clusterd.rundir import journal_path
from clusterd.settings import Limits, Settings
from clusterd.status.status import StatusReader
from ipc.board import SUPERVISOR, VERDICTS, Board

NAME = "monitor"
SOON_S = 2.0
"""A node that starts works a moment later."""
OLD_S = 60.0
"""A reading that is older tells nothing: the next one hangs, with the disk."""


class MonitorService:
    """Made once by the process; `forever` are its tasks, `tick` belongs to its heartbeat."""

    def __init__(
        self,
        settings: Settings,
        board: Board,
        feed: EventFeed,
        say: Callable[[str, str], None],
        problem: Callable[[str, str], None],
    ) -> None:
        self._is_master = settings.is_master
        self._board = board
        self._counts = EventCounts()
        self._exposition = Exposition()
        self._reader = StatusReader(settings.root, may_wait=False)
        self._files = SecretFiles(settings)
        self._secrets = SecretsAge({}, {})
        self._rounds = Rounds(say)
        self._source = StatusSource(self._read, self._rounds)
        self._lag = LagHistory()
        names = (settings.cluster.node_name, *settings.clusterd.monitor.names)
        self._app = MonitorApp(
            Shown(
                source=self._source,
                rows=board.rows,
                lag=self._lag,
                past=JournalReader(journal_path(settings.root), MOST_BYTES, LONGEST_SEARCH_S),
                journal=self._journal,
                metrics=self._metrics,
                pages=PAGES,
                is_our_host=host_check(names),
                primary=lambda: primary_problem(settings, board),
            ),
            self._rounds,
        )
        self._port = MonitorPort(self._app, settings, say, problem)
        feed.subscribe(self._hear)

    def forever(self) -> list[Coroutine[Any, Any, None]]:
        """The tasks that never end."""
        return [
            self._guarded("the monitoring port", self._port.run),
            self._guarded("viewers", self._app.viewers.run),
            self._guarded("the history of lags", self._record),
        ]

    def tick(self) -> None:
        self._port.strangers.tick(asyncio.get_running_loop().time())

    def set_limits(self, limits: Limits) -> None:
        """Adopts those that a reload may have changed."""
        self._port.strangers.set_bounds(limits.log_lines_per_address_s, limits.log_lines)

    def close(self) -> None:
        self._app.close()
        self._source.close()

    async def _guarded(self, subject: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        while True:
            with self._rounds.survive(subject):
                await work()
            await asyncio.sleep(1.0)

    async def _record(self) -> None:
        """The lags of a master's workers, and the verdict for the supervisor."""
        while True:
            seen = await self._source.current()
            serves = self._board.row(SUPERVISOR).snapshot().state == "ready"
            level = level_of(seen, time.time()) if serves else ""
            self._board.row(NAME).set("verdict", VERDICTS.index(level))
            if self._is_master:  # a worker has no other node to compare itself with
                status = seen.status if seen is not None and seen.is_fresh else None
                self._lag.record(time.monotonic(), time.time(), status)
            next_s = STEP_S - time.monotonic() % STEP_S + 0.1
            await asyncio.sleep(min(next_s, SOON_S) if level in ("", "DOWN") else next_s)

    def _read(self) -> dict[str, Any]:
        """Runs in the thread of the source."""
        status = self._reader.read()
        self._secrets = self._files.look()
        return status

    def _hear(self, heard: Sequence[Heard]) -> None:
        for one in heard:
            self._counts.take(one.event)
            self._app.viewers.hear(one.seq, one.text)

    def _journal(self) -> dict[str, Any]:
        counters = self._board.row(NAME).snapshot().counters
        return {
            "events_lost": counters["lost"],
            "journal": {"rows": counters["rows"], "bytes": counters["bytes"]},
        }

    def _metrics(self, seen: NodeSeen | None) -> bytes:
        own = Own(self._app.counts, self._app.viewers.count)
        journal = self._board.row(NAME).snapshot().counters
        samples = take_samples(self._board.rows(), seen, self._counts, self._secrets, own, journal=journal)
        return self._exposition.text(samples)


def level_of(seen: NodeSeen | None, now: float) -> str:
    """The first word of `clusterd status`, empty where it is not known. `now`: wall-clock seconds."""
    if seen is None or abs(now - seen.asked_at) > OLD_S:
        return ""
    return str(seen.status["verdict"]["level"])
