"""A credit never goes below zero or above its limit, and a refused call changes nothing."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ipc.credit import Credit
from ipc.errors import NoCredit
from tests.sizes import examples

COUNTS = st.integers(-2, 12)


class Credits(RuleBasedStateMachine):
    @initialize(limit=st.integers(0, 20))
    def begin(self, limit: int) -> None:
        self.credit, self.limit, self.used = Credit(limit), limit, 0

    @rule(count=COUNTS)
    def take(self, count: int) -> None:
        if count < 0:
            with pytest.raises(ValueError):
                self.credit.take(count)
        elif self.used + count > self.limit:
            with pytest.raises(NoCredit):
                self.credit.take(count)
        else:
            self.credit.take(count)
            self.used += count

    @rule(count=COUNTS)
    def give(self, count: int) -> None:
        if 0 <= count <= self.used:
            self.credit.give(count)
            self.used -= count
        else:
            with pytest.raises(ValueError):
                self.credit.give(count)

    @invariant()
    def books_agree(self) -> None:
        assert (self.credit.used, self.credit.free) == (self.used, self.limit - self.used)


TestCredits = Credits.TestCase
TestCredits.settings = settings(max_examples=examples(60), stateful_step_count=30, deadline=None)


def test_a_limit_below_zero_is_refused() -> None:
    with pytest.raises(ValueError):
        Credit(-1)
