"""The order of jobs, and what a death costs."""

import pytest

from ipc.errors import NoCredit
from ipc.job_queue import CHUNKS_IN_A_ROW, JobQueue
from ipc.messages import SweepTemporary


def job(name: str) -> SweepTemporary:
    return SweepTemporary(f"/{name}")


def served(queue: JobQueue, slot: int = 1) -> list[str]:
    """Let one process do all that waits; the jobs' names in the order in which it got them."""
    names = []
    queue.ready(slot)
    while given := queue.next_assignments():
        [(_, number, what)] = given
        assert isinstance(what, SweepTemporary)
        names.append(what.root[1:])
        assert queue.done(slot, number)
    return names


def test_chunks_go_before_bulk_and_each_kind_in_the_order_it_came() -> None:
    queue = JobQueue(10)
    for name in ("b1", "c1", "b2", "c2"):
        queue.submit(job(name), "chunk" if name[0] == "c" else "bulk")
    assert served(queue) == ["c1", "c2", "b1", "b2"]


def test_chunks_without_end_do_not_starve_a_scan() -> None:
    queue = JobQueue(1000)
    for number in range(3 * CHUNKS_IN_A_ROW):
        queue.submit(job(f"c{number}"), "chunk")
    for number in range(2):
        queue.submit(job(f"b{number}"), "bulk")
    order = served(queue)
    assert [order.index("b0"), order.index("b1")] == [CHUNKS_IN_A_ROW, 2 * CHUNKS_IN_A_ROW + 1]


def test_a_job_goes_only_to_a_process_that_is_free() -> None:
    queue = JobQueue(10)
    for name in "abc":
        queue.submit(job(name), "bulk")
    assert queue.next_assignments() == []
    queue.ready(1)
    queue.ready(1)
    [(slot, first, _)] = queue.next_assignments()
    assert slot == 1
    queue.ready(1)
    assert queue.next_assignments() == [], "it is at work, whatever it says"
    queue.ready(2)
    [(slot, _, _)] = queue.next_assignments()
    assert slot == 2
    assert queue.done(1, first)
    assert [slot for slot, _, _ in queue.next_assignments()] == [1]


def test_a_job_is_tried_again_before_all_others_when_its_process_died_and_fails_when_it_did_twice() -> None:
    queue = JobQueue(10)
    doomed = queue.submit(job("doomed"), "bulk")
    queue.submit(job("next"), "bulk")
    queue.ready(1)
    queue.next_assignments()
    assert queue.lost(1) == []
    queue.ready(2)
    assert [number for _, number, _ in queue.next_assignments()] == [doomed]
    [(number, failure)] = queue.lost(2)
    assert number == doomed
    assert failure.kind == "bug"
    assert "died, twice" in failure.text
    assert "SweepTemporary" in failure.text
    assert queue.retried == 1
    assert served(queue, 3) == ["next"]


def test_a_dead_process_gets_no_job() -> None:
    queue = JobQueue(10)
    queue.ready(1)
    assert queue.lost(1) == []
    queue.submit(job("a"), "chunk")
    assert queue.next_assignments() == []


def test_a_late_result_of_a_job_that_went_elsewhere_is_not_believed() -> None:
    queue = JobQueue(10)
    number = queue.submit(job("a"), "bulk")
    queue.ready(1)
    queue.next_assignments()
    queue.lost(1)
    queue.ready(2)
    queue.next_assignments()
    assert not queue.done(1, number)
    assert queue.done(2, number)
    assert not queue.done(2, number)
    assert queue.finished == 1


def test_the_numbers_of_two_lives_of_sync_differ() -> None:
    """They once both began at 1: a result of the dead sync's job 1 ended the living one's job 1."""
    queues = [JobQueue(1000) for _ in range(5)]
    numbers = [queue.submit(job("a"), "bulk") for queue in queues for _ in range(200)]
    assert len(set(numbers)) == len(numbers)
    assert max(numbers) < 2**63


def test_a_cancelled_job_is_not_begun_nor_tried_again() -> None:
    queue = JobQueue(1)
    waiting = queue.submit(job("a"), "bulk")
    assert queue.cancel(waiting)
    assert not queue.cancel(waiting)
    begun = queue.submit(job("b"), "bulk")
    queue.ready(1)
    assert len(queue.next_assignments()) == 1
    assert not queue.cancel(begun)
    assert queue.running == 1, "it runs to its end, which nobody can stop"
    assert [number for number, _ in queue.lost(1)] == [begun]
    assert (queue.waiting, queue.running) == (0, 0)
    queue.submit(job("c"), "bulk")


def test_the_queue_is_bounded_and_every_end_of_a_job_makes_room() -> None:
    queue = JobQueue(2)
    first, _ = queue.submit(job("a"), "chunk"), queue.submit(job("b"), "bulk")
    with pytest.raises(NoCredit):
        queue.submit(job("c"), "chunk")
    queue.ready(1)
    queue.next_assignments()
    queue.done(1, first)
    queue.submit(job("c"), "chunk")
    with pytest.raises(NoCredit):
        queue.submit(job("d"), "chunk")
