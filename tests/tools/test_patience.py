"""Deadlines of tests: as long as written on an idle machine, longer on a busy one, and always finite."""

import pytest

from tools.rig import patience
from tools.rig.patience import Patience


@pytest.mark.parametrize(("runnable", "lasts_s"), [(1, 60), (2, 60), (4, 120), (22, 660)])
def test_a_minute_lasts_as_long_as_it_takes_to_get_a_minute_of_a_core(
    monkeypatch: pytest.MonkeyPatch, runnable: int, lasts_s: int
) -> None:
    now = [1000.0]
    monkeypatch.setattr(patience.os, "sched_getaffinity", lambda pid: {0, 1})
    monkeypatch.setattr(patience.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(patience, "_runnable", lambda: runnable)
    waiting = Patience(60)
    while not waiting.is_over():
        now[0] += 0.5
    assert lasts_s <= now[0] - 1000 <= lasts_s + 1


def test_a_slow_check_is_followed_by_a_long_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    now, spent, rests = [1000.0], [0.0], list[float]()
    monkeypatch.setattr(patience.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(patience.time, "thread_time", lambda: spent[0])
    monkeypatch.setattr(patience.time, "sleep", rests.append)
    waiting = Patience(60)
    for took_s, spent_s in ((0.0, 0.0), (0.1, 0.05), (0.2, 0.0), (7.0, 0.0), (7.0, 7.0), (0.002, 0.001)):
        now[0] += took_s
        spent[0] += spent_s
        waiting.rest(0.01)
    assert rests == pytest.approx([0.01, 0.2, 0.2, 0.25, 1.0, 0.05])


def test_looks_are_quick_at_first_and_rarer_later(monkeypatch: pytest.MonkeyPatch) -> None:
    now, rests = [1000.0], list[float]()

    def sleep(seconds: float) -> None:
        rests.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(patience.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(patience.time, "thread_time", lambda: 0.0)
    monkeypatch.setattr(patience.time, "sleep", sleep)
    waiting = Patience(60)
    while now[0] < 1005:
        waiting.rest(0.01)
    assert rests[:20] == pytest.approx([0.01] * 20)
    assert max(rests) == pytest.approx(0.05)
    assert 100 < len(rests) < 160


def test_the_load_is_that_of_this_machine() -> None:
    assert patience._runnable() >= 1
