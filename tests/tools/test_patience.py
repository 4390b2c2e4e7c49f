"""Deadlines of tests: as long as they say on an idle machine, longer on a busy one, and they do end."""

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


def test_the_load_is_that_of_this_machine() -> None:
    assert patience._runnable() >= 1
