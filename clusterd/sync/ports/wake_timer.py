"""When a worker checks next: by the clock, or earlier because something happened."""

import asyncio
import contextlib


class WakeTimer:
    """One sleeper; anybody may wake it. Times are those of the running loop, seconds."""

    def __init__(self) -> None:
        self._due: float | None = None
        self._woken = asyncio.Event()

    def wake(self, delay_s: float = 0.0) -> None:
        """Not later than in `delay_s`; a wake that was due earlier stays so. While nobody rests it is kept for the next
        rest."""
        due = asyncio.get_running_loop().time() + delay_s
        if self._due is None or due < self._due:
            self._due = due
            self._woken.set()

    async def rest(self, interval_s: float) -> bool:
        """Until `interval_s` have passed or a wake is due. True if anybody has asked for it: also for a later moment,
        which is then served as well."""
        now = asyncio.get_running_loop().time
        end = now() + interval_s
        while True:
            due = end if self._due is None else min(end, self._due)
            left = due - now()
            if left <= 0:
                break
            self._woken.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._woken.wait()
        was_woken = self._due is not None
        self._due = None
        return was_woken
