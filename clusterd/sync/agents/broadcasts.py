"""Broadcasts of agent groups under way: which workers have not got them yet, and what our store is told once all have
(wire.md 6.3).

With our own store a change counts as handed out only when every connected worker has acknowledged it. With a wazuh-db
it is marked as soon as it is read, and the workers' comparison of checksums repairs losses.
"""

from clusterd.errors import in_passing
from clusterd.sync.links.context import Context
from clusterd.sync.links.tags import MASTER
from clusterd.sync.ports.tasks import Tasks
from clusterd.wdb.batches import GroupsRow
from clusterd.wdb.client import DatabaseError

GUARD = "Agent-groups guard"


class Broadcast:
    """A string of chunks on its way to the workers that were connected when it was made. `has_groups`: whether there is
    more in it than the checksum. `rows`: agent to a hash of its groups, only where our store must be told of the
    arrival, by `confirmations`; `waiting`: links without a result."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.size = 0
        self.chunks = 0
        self.has_groups = False
        self.rows: dict[int, int] = {}
        self.confirmations: list[bytes] = []
        self.waiting: set[int] = set()
        self.is_lost = False


class Broadcasts:
    """Owns the broadcasts under way."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._open: list[Broadcast] = []
        self._guard = context.tag_log(MASTER, GUARD)
        self._tasks = Tasks(self._guard.error)

    def add(self, broadcast: Broadcast) -> None:
        self._open.append(broadcast)

    def left(self, link: int) -> None:
        """Called when a worker's link has ended. Changes that it has not acknowledged stay marked, and are sent to all
        workers again."""
        for broadcast in list(self._open):
            if link in broadcast.waiting:
                broadcast.is_lost = True
                self.has_result(broadcast, link)

    def has_result(self, broadcast: Broadcast, link: int) -> None:
        """Called when this worker is done with the broadcast."""
        broadcast.waiting.discard(link)
        self.settle(broadcast)

    def settle(self, broadcast: Broadcast) -> None:
        """Ends the broadcast if no worker waits for it any more, and tells our store, unless a worker's link ended
        before."""
        if broadcast.waiting or broadcast not in self._open:
            return
        self._open.remove(broadcast)
        self._context.spool.remove(broadcast.path)
        if broadcast.confirmations and not broadcast.is_lost:
            self._tasks.spawn(self._confirm(broadcast))

    def say_the_same(self, row: GroupsRow) -> bool:
        """Returns whether the latest open broadcast about this agent has the same groups."""
        for broadcast in reversed(self._open):
            found = broadcast.rows.get(row.id)
            if found is not None:
                return found == content(row) and not broadcast.is_lost
        return False

    async def _confirm(self, broadcast: Broadcast) -> None:
        try:
            async with self._context.database.conversation() as conversation:
                for request in broadcast.confirmations:
                    await conversation.ask(request)
        except DatabaseError as failure:
            # The rows stay marked and are sent again, which is harmless.
            self._guard.warning(f"The workers have groups that stay marked for now: {in_passing(failure)}")


def content(row: GroupsRow) -> int:
    """Equal for rows with the same groups."""
    return hash(tuple(row.groups))
