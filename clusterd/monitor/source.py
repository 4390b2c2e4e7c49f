"""The node's status for the monitoring port: read in a thread, at most once a second whatever the number of viewers,
and waited for only for a bounded time."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec

from clusterd.rounds import Rounds
from clusterd.status.status import ASKED
from clusterd.status.verdict import verdict

LEAST_S = 1.0
"""The pause from one reading to the next."""
FRESH_S = 5.0
"""An older answer of sync is out of date."""
WAIT_S = 0.8
"""How long a caller waits for a reading."""


class NodeSeen(msgspec.Struct, frozen=True):
    """The node at one moment. `status`: as `clusterd status --json` prints it, including `verdict`; when sync does not
    answer, sync's members are those of its last answer. `is_fresh`: sync has answered lately; `asked_at`: wall-clock
    seconds of the reading; `age_s`: age of sync's answer, None if it has never answered."""

    status: dict[str, Any]
    is_fresh: bool
    asked_at: float
    age_s: float | None


class StatusSource:
    """Owner of the thread that reads. `read`: StatusReader.read, which may take a second or hang with the disk."""

    def __init__(
        self, read: Callable[[], dict[str, Any]], rounds: Rounds, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`clock`: monotonic seconds."""
        self._read = read
        self._rounds = rounds
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, "status")
        self._reading: asyncio.Task[None] | None = None
        self._begun_at = float("-inf")
        self._status: dict[str, Any] | None = None
        self._asked_at = 0.0
        self._answer: dict[str, Any] = {}
        self._answered_at: float | None = None

    async def current(self, wait_s: float = WAIT_S) -> NodeSeen | None:
        """Returns the node now, or its last reading; None if there was none."""
        if self._reading is None and self._clock() - self._begun_at >= LEAST_S:
            self._begun_at = self._clock()
            self._reading = asyncio.create_task(self._look())
        if self._reading is not None:
            await asyncio.wait({self._reading}, timeout=wait_s)
        return self.latest()

    def latest(self) -> NodeSeen | None:
        """Works like `current`, without a new reading."""
        if self._status is None:
            return None
        age_s = None if self._answered_at is None else self._clock() - self._answered_at
        is_fresh = age_s is not None and age_s <= FRESH_S
        known = self._status | self._answer
        said = verdict(known if is_fresh else self._status)
        return NodeSeen({"verdict": said._asdict(), **known}, is_fresh, self._asked_at, age_s)

    async def _look(self) -> None:
        try:
            with self._rounds.survive("reading the state of the node"):
                asked_at = time.time()
                status = await asyncio.get_running_loop().run_in_executor(self._thread, self._read)
                if status["peers"] is not None:
                    self._answer = {key: status[key] for key in (*ASKED, "problem")}
                    self._answered_at = self._clock()
                self._status, self._asked_at = status, asked_at
        finally:
            self._reading = None

    def close(self) -> None:
        """Abandons a reading that hangs."""
        self._thread.shutdown(wait=False, cancel_futures=True)
