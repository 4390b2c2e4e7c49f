"""Whatever dies, in whatever order: every job ends once, as done, cancelled or failed, and runs at most twice."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from clusterd.messages.manifest import SweepTemporary
from ipc.errors import NoCredit
from ipc.job_queue import TRIES, JobQueue, Lane
from tests.sizes import examples

MOST, SLOTS = 6, 3
SLOT = st.integers(1, SLOTS)


class Jobs(RuleBasedStateMachine):
    """Sync with its pool: `running` is the job of each slot, `free` the slots that wait for work."""

    numbers = Bundle("numbers")

    def __init__(self) -> None:
        super().__init__()
        self.queue = JobQueue(MOST)
        self.waiting: dict[int, str] = {}
        self.running: dict[int, int] = {}
        self.free: set[int] = set()
        self.unwanted: set[int] = set()
        self.begun: dict[int, int] = {}
        self.roots: dict[int, str] = {}
        self.finished = 0
        self.submitted = 0

    @rule(target=numbers, lane=st.sampled_from(["chunk", "long", "bulk"]))
    def submit(self, lane: Lane) -> object:
        root = f"/{self.submitted}"
        if len(self.waiting) + len(self.running) == MOST:
            with pytest.raises(NoCredit):
                self.queue.submit(SweepTemporary(root), lane)
            return multiple()
        number = self.queue.submit(SweepTemporary(root), lane)
        assert number not in self.roots
        self.submitted += 1
        self.roots[number] = root
        self.waiting[number] = lane
        self.begun[number] = 0
        return number

    @rule(slot=SLOT)
    def ready(self, slot: int) -> None:
        self.queue.ready(slot)
        if slot not in self.running:
            self.free.add(slot)

    @rule(keeps_one=st.booleans(), overdue=st.sets(SLOT))
    def assign(self, keeps_one: bool, overdue: set[int]) -> None:
        given = self.queue.next_assignments(keeps_one=keeps_one, overdue=overdue)
        if not keeps_one:
            assert len(given) == min(len(self.free), len(self.waiting))
        for slot, number, job in given:
            self.free.remove(slot)
            assert slot not in self.running
            del self.waiting[number]
            assert job == SweepTemporary(self.roots[number])
            self.running[slot] = number
            self.begun[number] += 1
            assert self.begun[number] <= TRIES

    @rule(slot=SLOT)
    def done(self, slot: int) -> None:
        if slot in self.running:
            assert self.queue.done(slot, self.running.pop(slot))
            self.free.add(slot)
            self.finished += 1

    @rule(slot=SLOT, number=st.one_of(numbers, st.integers(0, 10)))
    def an_earlier_life_says_done(self, slot: int, number: int) -> None:
        """A result of a job that this slot does not run now, or of a dead sync."""
        if self.running.get(slot) != number:
            assert not self.queue.done(slot, number)
            if slot not in self.running:
                self.free.add(slot)

    @rule(slot=SLOT)
    def lost(self, slot: int) -> None:
        failed = self.queue.lost(slot)
        self.free.discard(slot)
        number = self.running.pop(slot, None)
        if number is None:
            assert failed == []
        elif number not in self.unwanted and self.begun[number] < TRIES:
            assert failed == []
            self.waiting[number] = "retry"
        else:
            often = "and nobody wants it any more" if number in self.unwanted else "twice"
            assert failed == [(number, f"SweepTemporary: the process that ran it died, {often}")]

    @rule(number=consumes(numbers))
    def cancel(self, number: int) -> None:
        assert self.queue.cancel(number) == (number in self.waiting)
        self.waiting.pop(number, None)
        self.unwanted.add(number)

    @invariant()
    def the_counts_agree(self) -> None:
        assert self.queue.waiting == len(self.waiting)
        assert self.queue.running == len(self.running)
        assert self.queue.finished == self.finished
        for slot in range(1, SLOTS + 1):
            assert self.queue.is_running(slot) == (slot in self.running)


TestJobs = pytest.mark.slow(Jobs.TestCase)
TestJobs.settings = settings(max_examples=examples(80), stateful_step_count=40, deadline=None)
