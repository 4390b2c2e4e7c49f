"""Temporary files of writers that died: removed after a start, after what may have left some, and now and then."""

from clusterd.messages.manifest import SweepTemporary
from clusterd.rundir import STATE
from clusterd.sync.links.context import Context
from clusterd.sync.ports.troubles import round_survives

OWN = "Integrity guard"
AGAIN_S = 600.0
MORE = ["etc", STATE]
"""Where files are written that no item describes: settings, users and secrets of the API, our own state."""


class Leftovers:
    """`suspected`: there may be some in the tree. The death of a pool process is noticed here."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.suspected = True
        self._looked_at = 0.0
        self._losses = 0

    async def remove(self, tag: str) -> None:
        """Remove them where there may be some. Never while a package is applied: the caller sees to that."""
        context = self._context
        now, losses = context.clock.monotonic(), context.jobs.losses
        is_due = self.suspected or losses != self._losses or now > self._looked_at + AGAIN_S
        if not is_due or not context.slabs.is_admitted:
            return
        log = context.tag_log(tag, OWN)
        with round_survives(log, context.troubles, "temporary files"):
            swept = await context.jobs.run(SweepTemporary(context.settings.root, MORE))
            self.suspected = False
            self._looked_at, self._losses = now, losses
            if swept.count:
                log.info(f"Removed {swept.count} temporary files of an unfinished sync.")
