"""Net's share of the arena: room for large bodies on their way in, and who holds it (architecture.md, section 2).

A slab is taken by the link that receives into it, handed over to sync with the message that names it, and comes back with
Release, or when its link or sync is gone. A link that finds no room stops reading and is served in turn.
"""

from collections.abc import Callable, Iterable, Sequence

from clusterd.wire.events import Sink
from clusterd.wire.frame import PIECE_BYTES
from ipc.arena import Arena
from ipc.descriptor import Descriptor
from ipc.errors import ArenaFull, StaleLease
from ipc.lease import LeaseBook

IDLE_S = 5.0
"""A slab that nobody used for so long gives its memory back to the system."""


class NetSlabs:
    """The slabs net allocates. `busy` ones have one holder: `link N` (receiving into it, or sending it back) or
    `sync N` (sync works on what link N received)."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._ours = arena.net_slabs
        self._book = LeaseBook(arena.net_slabs)
        self._receiver: dict[int, int] = {}
        self._owned: dict[int, int] = {}
        self._waiting: dict[int, Callable[[], None]] = {}
        self._used_at: dict[int, float] = {}
        self.on_room: Callable[[], object] | None = None
        """Called when a slab came back and links wait: to call `wake` later, not from within whoever gave it back."""
        self.per_link = (len(arena.net_slabs) + 1) // 2
        """Slabs that a link which is alone may have at a time."""

    @property
    def divided_bytes(self) -> int:
        """The largest divided message that fits into a link's share."""
        return self.per_link * PIECE_BYTES

    # ---- receiving -----------------------------------------------------------------------------------------------------

    def sink(self, link: int, length: int) -> Sink | None:
        """Room for a body of `length` bytes, or None when there is none for this link now."""
        if not self._may_take(link):
            return None
        try:
            slab = self._book.take(f"link {link}")
        except ArenaFull:
            return None
        self._receiver[slab] = link
        self._owned[link] = self._owned.get(link, 0) + 1
        return Sink(self._arena.view(slab)[:length], (slab, link, length))

    def wait(self, link: int, call: Callable[[], None]) -> None:
        """Call once when there may be room for this link. First come, first served."""
        self._waiting.setdefault(link, call)

    def forget(self, link: int) -> None:
        """The link is gone and waits for nothing."""
        self._waiting.pop(link, None)

    def wake(self) -> None:
        """Serve those that wait while there is room. Called by the loop, never from within a link."""
        for link in list(self._waiting):
            if not self._book.free:
                return
            if self._may_take(link):
                self._waiting.pop(link)()

    def _may_take(self, link: int) -> bool:
        """A link leaves at least as much room to the others as it has itself, so that no few peers can take it all."""
        return self._book.free > self._owned.get(link, 0)

    @property
    def is_short(self) -> bool:
        """Whether a link that has no room at all waits for some."""
        return any(link not in self._owned for link in self._waiting)

    # ---- passing on ----------------------------------------------------------------------------------------------------

    def to_sync(self, bodies: Sequence[Sink]) -> list[Descriptor]:
        """What to tell sync of these bodies, which are its from here on."""
        descriptors = []
        for sink in bodies:
            slab, link, length = _token(sink)
            self._book.hand_over(slab, f"sync {link}")
            descriptors.append(Descriptor(slab, 0, length))
        return descriptors

    def from_sync(self, body: Iterable[Descriptor], link: int) -> None:
        """Sync hands bodies back to be sent on a link. Raises StaleLease."""
        for part in body:
            self._book.hand_over(part.slab, f"link {link}")

    def view(self, part: Descriptor) -> memoryview:
        """The bytes, of our slabs or of sync's. Raises ValueError for a descriptor that leaves its slab."""
        return self._arena.slice(part)

    def is_ours(self, slab: int) -> bool:
        return slab in self._ours

    def numbers(self, bodies: Iterable[Sink]) -> list[int]:
        """The slabs of these bodies, which stay with the link that received them."""
        return [_token(sink)[0] for sink in bodies]

    def drop(self, bodies: Iterable[Sink], now: float) -> None:
        """Bodies that nobody wants: their room is free."""
        self.give_back(self.numbers(bodies), now)

    def give_back(self, slabs: Iterable[int], now: float) -> list[int]:
        """These are free again. Returns those that were free already: a mistake of whoever gave them back."""
        stale = []
        for slab in slabs:
            try:
                self._book.give_back(slab)
            except StaleLease:
                stale.append(slab)
            else:
                self._freed(slab, now)
        if self._waiting and self.on_room is not None:
            self.on_room()
        return stale

    def sync_lost(self, now: float) -> int:
        """Sync is dead: everything it held is free. Returns how much that was."""
        slabs = [slab for slab in self._ours if (self._book.holder(slab) or "").startswith("sync ")]
        self.give_back(slabs, now)
        return len(slabs)

    def free_idle(self, now: float) -> None:
        """Give the memory of one slab that has long been free back to the system."""
        for slab, used_at in self._used_at.items():
            if now - used_at >= IDLE_S and self._book.holder(slab) is None:
                del self._used_at[slab]
                self._arena.free_pages(slab)
                return

    @property
    def free(self) -> int:
        return self._book.free

    @property
    def total(self) -> int:
        return self._book.total

    def _freed(self, slab: int, now: float) -> None:
        self._used_at[slab] = now
        link = self._receiver.pop(slab)
        left = self._owned.get(link, 0) - 1
        if left > 0:
            self._owned[link] = left
        else:
            self._owned.pop(link, None)


def _token(sink: Sink) -> tuple[int, int, int]:
    """(slab, link, length) of a sink made here."""
    token = sink.token
    assert isinstance(token, tuple)
    return token
