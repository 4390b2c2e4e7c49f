"""Whether a master begins to change its own files for a request of the API: not while it hands over (docs/ha.md). What
was begun ends first; everything else waits, and is executed by this node only if the handover is given up."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator

from clusterd.clock import Clock


class ChangeGate:
    """Of a master in an election. `changed_at`: when the last change ended (monotonic); None: there was none."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._running: Counter[str] = Counter()
        self._is_idle, self._is_open = asyncio.Event(), asyncio.Event()
        self._is_idle.set()
        self._is_open.set()
        self._reopening: asyncio.TimerHandle | None = None
        self.changed_at: float | None = None

    @contextlib.asynccontextmanager
    async def change(self, what: str) -> AsyncIterator[None]:
        """Surrounds the execution of one request. `what`: its name, for people."""
        while not self._is_open.is_set():
            await self._is_open.wait()
        self._running[what] += 1
        self._is_idle.clear()
        try:
            yield
        finally:
            self._running -= Counter([what])
            self.changed_at = self._clock.monotonic()
            if not self._running:
                self._is_idle.set()

    async def close(self, for_s: float, wait_s: float) -> str:
        """Begins no change until `open`, or for so many seconds. Returns what has not ended within `wait_s`; empty:
        everything has."""
        self._is_open.clear()
        if self._reopening is not None:
            self._reopening.cancel()
        self._reopening = asyncio.get_running_loop().call_later(for_s, self.open)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._is_idle.wait()
        return next(iter(self._running), "")

    def open(self) -> None:
        if self._reopening is not None:
            self._reopening.cancel()
            self._reopening = None
        self._is_open.set()
