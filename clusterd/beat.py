"""Waits that know of time in which the loop did not run: heartbeats measure it, a time-out leaves it out."""

import asyncio
import contextlib
import time
from typing import Any

from ipc.board import BoardRow


async def pause(row: BoardRow, seconds: float) -> None:
    """Sleeps, and counts in the row of this process how much longer it took."""
    due = time.monotonic() + seconds
    await asyncio.sleep(seconds)
    row.late(time.monotonic() - due)


async def pause_until(stop: asyncio.Event, row: BoardRow, seconds: float) -> None:
    """Like `pause`; ends at once, and counts nothing, when `stop` is set."""
    due = time.monotonic() + seconds
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)
        return
    row.late(time.monotonic() - due)


class awake_timeout:
    """`asyncio.timeout` for what others have to say: time in which this process was stopped, or its machine suspended,
    does not count. After such a pause timers come first, before what the others have said meanwhile is read.

    A step that ends much too late counts for nothing, so at least another one follows it; unless the one before it was
    late, too: that is a busy process, not a pause, and its wait ends after twice as many steps at most."""

    STEP_S = 1.0
    LATE_S = 1.0

    def __init__(self, seconds: float) -> None:
        self._left_s = seconds
        self._was_late = False
        self._timeout = asyncio.timeout(None)
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()
        self._step()

    async def __aexit__(self, kind: Any, problem: Any, trace: Any) -> None:
        if self._timer is not None:
            self._timer.cancel()
        await self._timeout.__aexit__(kind, problem, trace)

    def _step(self) -> None:
        step_s = min(self._left_s, self.STEP_S)
        due = time.monotonic() + step_s
        self._timer = asyncio.get_running_loop().call_later(step_s, self._stepped, due, step_s)

    def _stepped(self, due: float, step_s: float) -> None:
        is_late = time.monotonic() >= due + self.LATE_S
        if self._was_late or not is_late:
            self._left_s -= step_s
        self._was_late = is_late
        if self._left_s > 0:
            self._step()
        else:
            self._timeout.reschedule(asyncio.get_running_loop().time())
