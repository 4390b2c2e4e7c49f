"""When the log is moved away: at midnight, whatever the clock does."""

import asyncio
from datetime import datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest

from clusterd.messages.manifest import RotateLog
from clusterd.sync.ports.pool_port import JobError
from clusterd.sync.ports.troubles import Troubles
from clusterd.sync.requests import log_rotation
from tests.fakes.clock import FakeClock


class Night:
    """A node whose clock says what comes next in `times` each time that it has slept; then the night is over."""

    def __init__(self, *times: str) -> None:
        self.times = [datetime.fromisoformat(time) for time in times]
        self.moved: list[str] = []
        self.fails = False

    def wall(self) -> float:
        return self.times[0].timestamp()

    async def sleep(self, seconds: float) -> None:
        assert 0 < seconds <= 60
        self.times.pop(0)
        if not self.times:
            raise asyncio.CancelledError

    async def run(self, job: RotateLog, *, lane: str) -> None:
        assert lane == "background"
        self.moved.append(job.day)
        if self.fails:
            raise JobError("disk", "it is full")

    def over(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """Returns the days whose log was moved."""
        monkeypatch.setattr(log_rotation, "asyncio", SimpleNamespace(sleep=self.sleep))
        log = SimpleNamespace(warning=lambda text: None, error=lambda text: None, info=lambda text: None)
        context: Any = SimpleNamespace(
            clock=cast(FakeClock, self),
            jobs=self,
            settings=SimpleNamespace(root="/"),
            troubles=Troubles(),
            tag_log=lambda tag, subtag: log,
        )
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(log_rotation.rotate_nightly(context))
        return self.moved


@pytest.mark.parametrize("fails", [False, True])
def test_log_of_the_day_that_is_over_is_moved_once(monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    night = Night("2026-11-30T23:59:30", "2026-12-01T00:00:00.5", "2026-12-01T00:01:00", "2026-12-02T07:00:00")
    night.fails = fails
    assert night.over(monkeypatch) == ["2026-11-30", "2026-12-01"]


def test_clock_that_was_years_ahead_at_the_start_keeps_no_log_from_being_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    night = Night("2036-01-01T12:00:00", "2026-11-30T12:00:00", "2026-12-01T00:00:10")
    assert night.over(monkeypatch) == ["2026-11-30"]
