"""The order of jobs, and the effect of a death."""

import pytest

from clusterd.messages.manifest import RotateLog, SweepTemporary
from ipc.errors import NoCredit
from ipc.job_queue import BACKGROUND_SLOT, SHARES, JobQueue, Lane


def job(name: str) -> SweepTemporary:
    return SweepTemporary(f"/{name}")


def served(queue: JobQueue, slot: int = 1) -> list[str]:
    """Lets one process do all waiting jobs. Returns their names in the order in which it got them."""
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


def test_no_lane_starves_another_however_many_jobs_it_has() -> None:
    queue = JobQueue(1000)
    lanes: dict[str, Lane] = {"c": "chunk", "a": "api", "l": "long", "b": "bulk"}
    for initial, lane in lanes.items():
        for number in range(3 * SHARES[lane]):
            queue.submit(job(f"{initial}{number}"), lane)
    order = "".join(name[0] for name in served(queue))
    assert order == 3 * "".join(initial * SHARES[lane] for initial, lane in lanes.items())


def test_requests_of_the_api_leave_a_process_for_syncs() -> None:
    queue = JobQueue(1000)
    for number in range(400):
        queue.submit(job(f"a{number}"), "api")
    for slot in (1, 2, 3):
        queue.ready(slot)
    given = queue.next_assignments()
    assert [slot for slot, _, _ in given] == [1, 2]
    chunk = queue.submit(job("c"), "chunk")
    assert [(slot, number) for slot, number, _ in queue.next_assignments()] == [(3, chunk)]
    assert queue.done(1, given[0][1])
    assert [slot for slot, _, _ in queue.next_assignments()] == [1], "and they go on"


def test_a_long_job_that_does_not_end_keeps_no_other_long_one_waiting() -> None:
    queue = JobQueue(1000)
    waiting = [queue.submit(job(name), "bulk") for name in ("does not end", "is next")]
    for slot in (1, 2):
        queue.ready(slot)
    assert queue.next_assignments(keeps_one=True) == [(1, waiting[0], job("does not end"))]
    assert queue.next_assignments(keeps_one=True, overdue={2}) == []
    assert queue.next_assignments(keeps_one=True, overdue={1}) == [(2, waiting[1], job("is next"))]


def test_processes_that_were_free_for_long_do_not_get_a_long_job_each() -> None:
    """What they did last was begun long ago; what they get now is not."""
    queue = JobQueue(1000)
    waiting = [queue.submit(job(name), "bulk") for name in ("one", "another")]
    for slot in (1, 2):
        queue.ready(slot)
    assert queue.next_assignments(keeps_one=True, overdue={1, 2}) == [(1, waiting[0], job("one"))]


def test_a_request_that_does_not_end_lets_no_other_take_the_last_process() -> None:
    queue = JobQueue(1000)
    for name in ("does not end", "is next"):
        queue.submit(job(name), "api")
    for slot in (1, 2):
        queue.ready(slot)
    assert len(queue.next_assignments()) == 1
    assert queue.next_assignments(overdue={1}) == []


@pytest.mark.parametrize(("processes", "at_a_time"), [(1, 1), (2, 1), (3, 2)])
def test_long_jobs_leave_a_process_for_short_ones_where_that_is_wanted(processes: int, at_a_time: int) -> None:
    queue = JobQueue(1000)
    for number in range(20):
        queue.submit(job(f"b{number}"), "bulk" if number % 2 else "long")
    for slot in range(1, processes + 1):
        queue.ready(slot)
    given = queue.next_assignments(keeps_one=True)
    assert len(given) == at_a_time
    request = queue.submit(job("a"), "api")
    begun = [number for _, number, _ in queue.next_assignments(keeps_one=True)]
    assert begun == ([request] if processes > 1 else [])
    slot, number, _ = given[0]
    assert queue.done(slot, number)
    assert len(queue.next_assignments(keeps_one=True)) == 1, "and the sync goes on"
    assert queue.running == processes
    assert queue.lost(slot) == []
    queue.ready(slot)
    assert len(queue.next_assignments()) == 1, "or on all of them"


def test_only_the_background_process_does_background_jobs_and_nothing_else() -> None:
    queue = JobQueue(10)
    scan, chunk = queue.submit(job("s"), "background"), queue.submit(job("c"), "chunk")
    queue.ready(1)
    assert [number for _, number, _ in queue.next_assignments()] == [chunk]
    queue.submit(job("c2"), "chunk")
    queue.ready(BACKGROUND_SLOT)
    assert [(slot, number) for slot, number, _ in queue.next_assignments()] == [(BACKGROUND_SLOT, scan)]


def test_a_job_that_never_arrived_was_not_tried() -> None:
    queue = JobQueue(10)
    number = queue.submit(job("a"), "bulk")
    for _ in range(5):
        queue.ready(1)
        assert [given for _, given, _ in queue.next_assignments()] == [number]
        queue.not_arrived(1)
    queue.ready(1)
    queue.next_assignments()
    assert queue.lost(1) == [], "its process died once"


def test_what_waits_in_the_background_can_be_withdrawn() -> None:
    queue = JobQueue(2)
    numbers = [queue.submit(job(name), "background") for name in "ab"]
    assert queue.withdraw(RotateLog) == []
    assert queue.withdraw(SweepTemporary) == numbers
    assert queue.waiting == 0
    queue.submit(job("c"), "bulk")


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
    assert "died, twice" in failure
    assert "SweepTemporary" in failure
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
    """Both lives once began at 1: a result for the dead sync's job 1 ended the living one's job 1."""
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
