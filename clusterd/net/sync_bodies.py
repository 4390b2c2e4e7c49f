"""Large bodies that net and sync hand over to each other, and which of the two owns their slabs."""

from collections import Counter
from collections.abc import Callable

from clusterd.messages.links import NetToSync, SlabsReturned
from clusterd.net.asking import IgnoreAnswer
from clusterd.net.context import NetContext
from clusterd.net.link import Link
from clusterd.wire.events import Sink
from ipc.descriptor import Descriptor
from ipc.errors import StaleLease


class SyncBodies:
    """Owns the count of messages still to be written from each of sync's slabs. `tell`: queues a message to sync."""

    def __init__(self, context: NetContext, tell: Callable[[NetToSync], None]) -> None:
        self._context = context
        self._tell = tell
        self._sending: Counter[int] = Counter()

    def sending(self) -> list[int]:
        """Sync's slabs that net still sends from, each once for each message."""
        return sorted(self._sending.elements())

    def lend(self, bodies: list[Sink]) -> list[Descriptor] | None:
        """Descriptors of large bodies for a message to sync; sync owns the slabs from here on."""
        return self._context.slabs.to_sync(bodies) if bodies else None

    def drop(self, bodies: list[Sink]) -> None:
        """Frees large bodies that nobody reads."""
        self._context.slabs.drop(bodies, self._context.clock.awake())

    def ignore_answer(self) -> IgnoreAnswer:
        """Takes a response that nobody waits for."""
        return IgnoreAnswer(self._context)

    def take(self, body: list[Descriptor], link: Link) -> tuple[list[memoryview] | None, list[int]]:
        """Views of a body that net owns until it is written. None if it was returned meanwhile."""
        slabs = [part.slab for part in body]
        try:
            views = [self._context.slabs.view(part) for part in body]
            self._context.slabs.from_sync(
                (part for part in body if self._context.slabs.is_ours(part.slab)), link.number
            )
        except (StaleLease, ValueError) as problem:
            self._context.own_line("WARNING", f"A body of sync cannot be sent: {problem}")
            return None, []
        self._sending.update(slab for slab in slabs if not self._context.slabs.is_ours(slab))
        return views, slabs

    def written(self, slabs: list[int]) -> None:
        """Bodies were written, or dropped with their link: our slabs become free, sync's slabs return to sync."""
        ours, theirs = self._by_owner(slabs)
        self.free(ours)
        if theirs:
            self._sending.subtract(theirs)
            self._sending += Counter()  # without those that reached zero
            self._tell(SlabsReturned(theirs))

    def unsent(self, body: list[Descriptor]) -> None:
        """Returns a body of sync whose link is gone. It was not counted as being sent; other messages from the same
        slab may be."""
        ours, theirs = self._by_owner([part.slab for part in body])
        self.free(ours)
        if theirs:
            self._tell(SlabsReturned(theirs))

    def free(self, slabs: list[int]) -> None:
        """Frees slabs of our own."""
        stale = self._context.slabs.take_back(slabs, self._context.clock.awake())
        if stale:
            self._context.own_line("WARNING", f"Slabs {stale} were given back twice.")

    def _by_owner(self, slabs: list[int]) -> tuple[list[int], list[int]]:
        is_ours = self._context.slabs.is_ours
        return [slab for slab in slabs if is_ours(slab)], [slab for slab in slabs if not is_ours(slab)]
