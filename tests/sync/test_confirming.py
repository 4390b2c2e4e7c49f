"""When the node looks at everything again, and with which priority."""

from clusterd.sync.manifest.confirming import LATE_S, RETRY_S, WALK_S, Confirming


def walked(full_walk_s: float = 60.0, at: float = 1000.0) -> Confirming:
    made = Confirming(full_walk_s)
    made.walk_begins(at)
    made.walk_ended(at, full=False)
    return made


def test_it_takes_no_time_in_a_quiet_moment() -> None:
    confirming = walked()
    assert not confirming.is_due(1059.9, is_quiet=True)
    assert confirming.is_due(1060.0, is_quiet=True)
    assert confirming.is_full_due(1060.0)
    confirming.begin(1060.0, is_quiet=True)
    assert confirming.is_in_background
    confirming.walk_ended(1060.0, full=True)
    confirming.end(1061.0)
    assert not confirming.is_in_background
    assert confirming.due_at() == 1120.0


def test_without_a_quiet_moment_it_is_done_all_the_same_and_not_in_the_background() -> None:
    confirming = walked()
    assert not confirming.is_due(1060.0 + LATE_S - 1, is_quiet=False)
    assert confirming.is_due(1060.0 + LATE_S, is_quiet=False)
    confirming.begin(1060.0 + LATE_S, is_quiet=False)
    assert not confirming.is_in_background


def test_a_stopped_walk_is_soon_repeated_and_stops_only_once() -> None:
    confirming = walked()
    confirming.begin(1060.0, is_quiet=True)
    confirming.end(1060.5, gave_way=True)
    assert confirming.due_at() == 1060.0 + RETRY_S
    confirming.begin(1061.0, is_quiet=True)
    assert not confirming.is_in_background
    confirming.walk_ended(1061.0, full=True)
    confirming.end(1062.0)
    confirming.begin(1121.0, is_quiet=True)
    assert confirming.is_in_background


def test_one_that_failed_is_not_repeated_at_once() -> None:
    confirming = walked()
    confirming.begin(1060.0, is_quiet=True)
    confirming.end(1061.0, failed=True)
    assert confirming.due_at() == 1061.0 + 60.0


def test_without_full_walks_everything_is_walked_over_and_not_read() -> None:
    confirming = walked(full_walk_s=0)
    assert confirming.due_at() == 1000.0 + WALK_S
    assert not confirming.is_full_due(1e9)
