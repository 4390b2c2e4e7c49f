"""Memory for large incoming bodies and who holds it: net's share of the arena, and a bounded heap.

A body of up to SMALL_BYTES arrives on the heap and is copied into a slab when it is complete, so a slow sender of small
bodies occupies no slab. A larger body arrives in a slab, or on the heap while no slab is free. The slab goes to sync
with the message that names it and returns with Release, or when its link or sync ends.

A link that finds no room stops reading and waits. Callers (an address; for IPv6 its network) are served by how much
they hold, the least first. Some slabs are never used for receiving, so that complete bodies can always be passed on.
"""

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import msgspec

from clusterd.wire.events import Sink
from clusterd.wire.frame import PIECE_BYTES
from ipc.arena import Arena
from ipc.descriptor import Descriptor
from ipc.errors import StaleLease
from ipc.lease import LeaseBook

IDLE_S = 5.0
"""A slab unused for this long returns its memory to the system."""
SMALL_BYTES = 1 << 20
HEAP_BYTES = 64 << 20
"""Memory outside the arena for all links; each caller leaves as much free as it uses."""
HOLD_S = 10.0
"""While others wait, a link that has received into the same room for this long may be ended: one link per check."""
OWN_HOLD_S = 30.0
"""The same while only links of one caller wait: many workers behind one address share one slow line, and none would
finish if they ended each other."""


class _Line(msgspec.Struct):
    """A waiting link: for room for `length` bytes, or (0) for a slab for a complete body."""

    length: int
    call: Callable[[], None]


class _Account(msgspec.Struct):
    """What a link holds. `slabs` includes those that sync works on; `heap`: bodies."""

    caller: str
    slabs: int = 0
    heap: int = 0
    is_gone: bool = False


class _Begun(msgspec.Struct):
    """Room for `length` bytes that a link has been receiving into since `at` (monotonic)."""

    link: int
    at: float
    length: int


class NetSlabs:
    """The slabs that net allocates. Each busy slab has one holder: `link N` (receiving into it, or sending it back) or
    `sync N` (sync works on what link N received)."""

    def __init__(self, arena: Arena, now: Callable[[], float] = time.monotonic) -> None:
        self._arena = arena
        self._now = now
        self._ours = arena.net_slabs
        self._book = LeaseBook(arena.net_slabs)
        self._receiver: dict[int, int] = {}
        self._accounts: dict[int, _Account] = {}
        self._owned_by: Counter[str] = Counter()
        self._heap: dict[int, int] = {}
        self._heap_by: Counter[str] = Counter()
        self._heap_used = 0
        self._heap_numbers = itertools.count(-1, -1)
        self._begun: dict[int, _Begun] = {}
        self._wanted: dict[int, int] = {}
        self._waiting: dict[int, _Line] = {}
        self._used_at: dict[int, float] = {}
        self.life = 0
        """Incarnation of this net process, named in descriptors."""
        self.on_room: Callable[[], object] | None = None
        """Called when a slab was returned and links wait; must call `wake` later, not from within the caller."""
        self.per_link = (len(arena.net_slabs) + 1) // 2
        """Slabs that a single link may hold."""
        self._kept = len(arena.net_slabs) // 4
        """Free slabs that a caller which holds some does not receive into; half of them are for nobody's receiving."""

    @property
    def divided_bytes(self) -> int:
        """The largest divided message that fits into a link's share."""
        return self.per_link * PIECE_BYTES

    # ---- receiving ---------------------------------------------------------------------------------------------------

    def sink(self, link: int, length: int, caller: str) -> Sink | None:
        """Reserves room for a body of `length` bytes; None when there is none for this link now."""
        self._accounts.setdefault(link, _Account(caller))
        sink = self._on_heap(link, length) if length <= SMALL_BYTES else None
        sink = sink or self._in_slab(link, length) or self._on_heap(link, length)
        if sink is None:
            self._wanted[link] = length
        return sink

    def land(self, sink: Sink) -> Sink | None:
        """Moves a complete body into a slab; None when there is none for its link now."""
        number, link, length = _token(sink)
        if number >= 0:
            return sink
        if not self._may_land(link):
            self._wanted[link] = 0
            return None
        slab = self._take(link)
        view = self._arena.view(slab)[:length]
        view[:] = sink.view
        self._begun[slab] = self._begun[number]
        self._free_heap(number, link)
        return Sink(view, (slab, link, length))

    def _on_heap(self, link: int, length: int) -> Sink | None:
        if not self._heap_has(link, length):
            return None
        number = next(self._heap_numbers)
        self._heap[number] = length
        self._heap_used += length
        account = self._accounts[link]
        account.heap += 1
        self._heap_by[account.caller] += length
        self._begun[number] = _Begun(link, self._now(), length)
        return Sink(memoryview(bytearray(length)), (number, link, length))

    def _in_slab(self, link: int, length: int) -> Sink | None:
        if not self._may_receive(link):
            return None
        slab = self._take(link)
        self._begun[slab] = _Begun(link, self._now(), length)
        return Sink(self._arena.view(slab)[:length], (slab, link, length))

    def _take(self, link: int) -> int:
        slab = self._book.take(f"link {link}")
        self._receiver[slab] = link
        account = self._accounts[link]
        account.slabs += 1
        self._owned_by[account.caller] += 1
        return slab

    def _heap_has(self, link: int, length: int) -> bool:
        return self._heap_by[self._accounts[link].caller] + length <= HEAP_BYTES - self._heap_used

    def _may_receive(self, link: int) -> bool:
        kept = self._kept if self._share(link) else self._kept // 2
        return self._may_land(link) and self._book.free > kept

    def _may_land(self, link: int) -> bool:
        """Each link leaves as much room free as it holds, so that a few peers cannot take all of it."""
        return self._book.free > self._accounts[link].slabs

    def _share(self, link: int) -> int:
        """Slabs held by the link's caller."""
        return self._owned_by[self._accounts[link].caller]

    # ---- waiting -----------------------------------------------------------------------------------------------------

    def wait(self, link: int, call: Callable[[], None]) -> None:
        """Calls back once when there may be room for this link, which found none."""
        self._waiting.setdefault(link, _Line(self._wanted.get(link, 0), call))

    def forget(self, link: int) -> None:
        """The link has ended and waits no more. `drop` returns what it holds."""
        self._waiting.pop(link, None)
        self._wanted.pop(link, None)
        account = self._accounts.get(link)
        if account is not None:
            account.is_gone = True
            self._settle(link, account)

    def wake(self) -> None:
        """Serves waiting links while there is room, callers that hold the least first. Called by the loop, never from
        within a link."""
        for link in sorted(self._waiting, key=self._share):
            line = self._waiting.get(link)
            if line is not None and self._has_room(link, line.length):
                self._waiting.pop(link).call()

    def _has_room(self, link: int, length: int) -> bool:
        if not length:
            return self._may_land(link)
        return self._may_receive(link) or self._heap_has(link, length)

    @property
    def is_short(self) -> bool:
        """Whether a link that holds nothing waits for room."""
        return any(not self._accounts[link].slabs for link in self._waiting)

    def overdue(self, missing: Callable[[int], int]) -> list[int]:
        """Links that have received into the same room for too long while others have none: first those of the caller
        that holds the most, among them the slowest. They are ended one by one. `missing`: outstanding bytes of a link's
        current body."""
        short = {self._accounts[link].caller for link in self._waiting if not self._accounts[link].slabs}
        if not short:
            return []
        now = self._now()
        since: dict[int, float] = {}
        room: Counter[int] = Counter()
        for begun in self._begun.values():
            since[begun.link] = min(since.get(begun.link, now), begun.at)
            room[begun.link] += begun.length
        late = {
            link: (room[link] - missing(link)) / (now - at)
            for link, at in since.items()
            if link not in self._waiting
            and now - at >= (HOLD_S if short - {self._accounts[link].caller} else OWN_HOLD_S)
        }
        return sorted(late, key=lambda link: (-self._share(link), late[link]))

    # ---- passing on --------------------------------------------------------------------------------------------------

    def to_sync(self, bodies: Sequence[Sink]) -> list[Descriptor]:
        """Descriptors of these bodies for sync, which owns them from here on."""
        descriptors = []
        for sink in bodies:
            slab, link, length = _token(sink)
            self._begun.pop(slab, None)
            self._book.hand_over(slab, f"sync {link}")
            descriptors.append(Descriptor(slab, 0, length, life=self.life))
        return descriptors

    def from_sync(self, body: Iterable[Descriptor], link: int) -> None:
        """Sync returns bodies to be sent on a link. Raises StaleLease."""
        for part in body:
            self._book.hand_over(part.slab, f"link {link}")

    def view(self, part: Descriptor) -> memoryview:
        """The bytes, from our slabs or sync's. Raises ValueError for a descriptor outside its slab."""
        return self._arena.slice(part)

    def is_ours(self, slab: int) -> bool:
        return slab in self._ours

    def numbers(self, bodies: Iterable[Sink]) -> list[int]:
        """The slabs of these bodies, which stay with the receiving link."""
        return [_token(sink)[0] for sink in bodies]

    def drop(self, bodies: Iterable[Sink], now: float) -> None:
        """Frees bodies that nobody wants."""
        slabs = []
        for sink in bodies:
            number, link, _ = _token(sink)
            if number < 0:
                self._free_heap(number, link)
            else:
                slabs.append(number)
        self.take_back(slabs, now)

    def take_back(self, slabs: Iterable[int], now: float) -> list[int]:
        """Frees these slabs. Returns those that were free already, which is a mistake of the caller."""
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
        """Sync has died: frees everything it held. Returns how many slabs that were."""
        slabs = [slab for slab in self._ours if (self._book.holder(slab) or "").startswith("sync ")]
        self.take_back(slabs, now)
        return len(slabs)

    def free_idle(self, now: float) -> None:
        """Returns the memory of one slab that has long been free to the system."""
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
        self._begun.pop(slab, None)
        link = self._receiver.pop(slab)
        account = self._accounts[link]
        account.slabs -= 1
        self._owned_by[account.caller] -= 1
        self._settle(link, account)

    def _free_heap(self, number: int, link: int) -> None:
        length = self._heap.pop(number)
        del self._begun[number]
        self._heap_used -= length
        account = self._accounts[link]
        account.heap -= 1
        self._heap_by[account.caller] -= length
        self._settle(link, account)

    def _settle(self, link: int, account: _Account) -> None:
        """Forgets links that have ended and hold nothing."""
        if account.is_gone and not account.slabs and not account.heap:
            del self._accounts[link]
        for counts in (self._owned_by, self._heap_by):
            if not counts[account.caller]:
                del counts[account.caller]


def _token(sink: Sink) -> tuple[int, int, int]:
    """(slab, link, length) of a sink made here."""
    token = sink.token
    assert isinstance(token, tuple)
    return token
