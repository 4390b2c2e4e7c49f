"""Waits between two heartbeats that measure how late the loop is: for that time everything else in it waited, too."""

import asyncio
import contextlib
import time

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
