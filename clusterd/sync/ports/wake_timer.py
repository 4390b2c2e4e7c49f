"""When a worker checks next: after the interval, or earlier because something happened."""

import asyncio
import contextlib


class WakeTimer:
    """One task rests, any other may wake it. Times are those of the running loop, seconds."""

    def __init__(self) -> None:
        self._due: float | None = None
        self._woken = asyncio.Event()

    def wake(self, delay_s: float = 0.0) -> None:
        """Ends the rest in `delay_s` at the latest; an earlier wake stays valid. A wake outside of a rest counts for
        the next one."""
        due = asyncio.get_running_loop().time() + delay_s
        if self._due is None or due < self._due:
            self._due = due
            self._woken.set()

    async def rest(self, interval_s: float) -> bool:
        """Rests until `interval_s` have passed or a wake is due. Returns True if a wake was requested, even for a later
        moment, which this rest's end then serves as well."""
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
