"""A node that was a master before: what it had and the new one has not is told once its files are equal
(docs/ha.md)."""

import asyncio
from collections.abc import Callable

from clusterd import left_behind
from clusterd.sync.integrity.worker import LastSync
from clusterd.sync.links.context import Context
from clusterd.sync.ports.troubles import round_survives

SUBTAG = "Role"
LOOK_S = 0.5


async def sort_left_behind(context: Context, last: Callable[[], LastSync]) -> None:
    """Lives with the link to the new master; ends when there is nothing to sort."""
    root, log = context.settings.root, context.tag_log(context.tag, SUBTAG)
    before = last().checked_at
    terms = await asyncio.to_thread(left_behind.unsorted, root)
    while terms:
        await asyncio.sleep(LOOK_S)
        if last().result != "equal" or last().checked_at == before:  # that was the check of another link
            continue
        with round_survives(log, context.troubles, "what this node had as master"):
            for term in terms:
                found = await asyncio.to_thread(left_behind.sort, root, term)
                say = log.warning if found.files or found.agents else log.info
                say(f"{left_behind.told(found)}.")
            return
