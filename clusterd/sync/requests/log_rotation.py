"""Moves the log away at midnight (wire.md 9.1). Sync decides when, a pool process does it."""

import asyncio
from datetime import datetime, timedelta

from clusterd.errors import in_passing
from clusterd.messages.manifest import RotateLog
from clusterd.sync.links.context import Context
from clusterd.sync.ports.pool_port import JobError
from clusterd.sync.ports.troubles import round_survives


def next_midnight(now: datetime) -> datetime:
    """Returns the next local midnight."""
    return (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)


def _now(context: Context) -> datetime:
    """Local time."""
    return datetime.fromtimestamp(context.clock.wall())


async def rotate_nightly(context: Context) -> None:
    """Runs for ever. Looks at the clock at least every minute: clocks jump, machines sleep."""
    midnight = next_midnight(_now(context))
    while True:
        now = _now(context)
        midnight = min(midnight, next_midnight(now))  # the clock may have been days ahead, and was set since
        if now < midnight:
            await asyncio.sleep(min(60.0, (midnight - now).total_seconds() + 0.01))
            continue
        day = (midnight - timedelta(days=1)).strftime("%Y-%m-%d")
        log = context.tag_log("Cluster", "Log")
        with round_survives(log, context.troubles, "moving the log away"):
            try:
                await context.jobs.run(RotateLog(context.settings.root, day), lane="background")
            except JobError as failure:
                log.warning(f"The log of {day} stays where it is: {in_passing(failure)}")
        midnight = next_midnight(_now(context))
