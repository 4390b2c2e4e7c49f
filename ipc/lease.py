"""Records which slab is held by whom. Numbers and names only; each book has one owner, the process that allocates its
slabs."""

from collections.abc import Iterable

from ipc.errors import ArenaFull, StaleLease


class LeaseBook:
    """The leases of some slabs. A slab is free or has exactly one holder.

    The slab returned last is leased first: its pages are still in memory."""

    def __init__(self, slabs: Iterable[int]) -> None:
        self._all = frozenset(slabs)
        self._free = sorted(self._all, reverse=True)
        self._holder: dict[int, str] = {}

    def take(self, holder: str) -> int:
        """Leases a free slab. Raises ArenaFull."""
        if not self._free:
            raise ArenaFull(f"all {len(self._all)} slabs are in use")
        slab = self._free.pop()
        self._holder[slab] = holder
        return slab

    def hand_over(self, slab: int, holder: str) -> None:
        """Gives the slab a new holder. Raises StaleLease for a free slab."""
        if slab not in self._holder:
            raise StaleLease(f"slab {slab} is not leased")
        self._holder[slab] = holder

    def give_back(self, slab: int) -> None:
        """Frees the slab. Raises StaleLease for a slab that is free already."""
        if self._holder.pop(slab, None) is None:
            raise StaleLease(f"slab {slab} is not leased")
        self._free.append(slab)

    def holder(self, slab: int) -> str | None:
        return self._holder.get(slab)

    @property
    def free(self) -> int:
        """How many slabs are free."""
        return len(self._free)

    @property
    def total(self) -> int:
        return len(self._all)
