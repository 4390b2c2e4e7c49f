"""Removes temporary files of writers that died: after a start, after a pool process has died, and now and then."""

from clusterd.messages.manifest import SweepTemporary
from clusterd.rundir import STATE
from clusterd.sync.links.context import Context
from clusterd.sync.ports.tag_log import GUARD
from clusterd.sync.ports.troubles import round_survives

AGAIN_S = 600.0
MORE = ["etc", STATE]
"""Directories that no synchronised item covers, in which files are written: settings, users and secrets of the API, our
own state."""


class Leftovers:
    """`suspected`: whether the tree may hold temporary files of dead writers. Set when a pool process dies."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.suspected = True
        self._looked_at = 0.0
        self._losses = 0

    async def remove(self, tag: str) -> None:
        """Removes them where there may be some. The caller makes sure that no package is being applied."""
        context = self._context
        now, losses = context.clock.monotonic(), context.jobs.losses
        is_due = self.suspected or losses != self._losses or now > self._looked_at + AGAIN_S
        if not is_due or not context.slabs.is_admitted:
            return
        log = context.tag_log(tag, GUARD)
        with round_survives(log, context.troubles, "temporary files"):
            swept = await context.jobs.run(SweepTemporary(context.settings.root, MORE))
            self.suspected = False
            self._looked_at, self._losses = now, losses
            if swept.count:
                log.info(f"Removed {swept.count} temporary files of an unfinished sync.")
