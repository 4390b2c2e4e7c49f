"""Whatever happens to a lease book: each slab is free or has one holder, and none is lost or given out twice."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ipc.errors import ArenaFull, StaleLease
from ipc.lease import LeaseBook
from tests.sizes import examples

FIRST, SLABS = 4, 5
HOLDERS = st.sampled_from(["pool-1", "pool-2", "net", "link 1"])
ANY_SLAB = st.integers(FIRST - 1, FIRST + SLABS)


class Leases(RuleBasedStateMachine):
    """Holds, beside the book, which task has which slab, as the book must say."""

    def __init__(self) -> None:
        super().__init__()
        self.book = LeaseBook(range(FIRST, FIRST + SLABS))
        self.held: dict[int, str] = {}

    @rule(holder=HOLDERS)
    def take(self, holder: str) -> None:
        if len(self.held) == SLABS:
            with pytest.raises(ArenaFull):
                self.book.take(holder)
            return
        slab = self.book.take(holder)
        assert slab in range(FIRST, FIRST + SLABS)
        assert slab not in self.held
        self.held[slab] = holder

    @rule(slab=ANY_SLAB, holder=HOLDERS)
    def hand_over(self, slab: int, holder: str) -> None:
        if slab in self.held:
            self.book.hand_over(slab, holder)
            self.held[slab] = holder
        else:
            with pytest.raises(StaleLease):
                self.book.hand_over(slab, holder)

    @rule(slab=ANY_SLAB)
    def give_back(self, slab: int) -> None:
        if slab in self.held:
            self.book.give_back(slab)
            del self.held[slab]
        else:
            with pytest.raises(StaleLease):
                self.book.give_back(slab)

    @precondition(lambda self: self.held)
    @rule()
    def the_slab_used_last_is_used_next(self) -> None:
        slab, holder = self.held.popitem()
        self.book.give_back(slab)
        assert self.book.take(holder) == slab
        self.held[slab] = holder

    @invariant()
    def every_slab_is_accounted_for(self) -> None:
        assert self.book.total == SLABS
        assert self.book.free == SLABS - len(self.held)
        for slab in range(FIRST - 1, FIRST + SLABS + 1):
            assert self.book.holder(slab) == self.held.get(slab)


TestLeases = Leases.TestCase
TestLeases.settings = settings(max_examples=examples(60), stateful_step_count=30, deadline=None)
