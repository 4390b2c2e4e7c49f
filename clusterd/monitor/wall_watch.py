"""Whether the wall clock may make events old: a wrong clock must not empty the journal."""

import msgspec

LEAP_S = 86400.0
"""A clock that jumps forward by more than this makes all events old at once, and may be wrong: it is believed after it
has run on for as long."""


class ClockState(msgspec.Struct, frozen=True):
    """`wall`: what the clock should show, wall-clock seconds. `doubted_s`: for how long it has shown something else."""

    wall: float
    doubted_s: float = 0.0


class WallWatch:
    """Compares the wall clock with the time that passes. `state` is kept across restarts of the process, and a doubt
    with it."""

    def __init__(self) -> None:
        self.state: ClockState | None = None
        self._here = 0.0

    def begin(self, state: ClockState | None, here: float) -> None:
        """`state`: of the earlier life; how long ago that was is unknown. `here`: monotonic seconds."""
        self.state, self._here = state, here

    def is_believed(self, now: float, here: float) -> bool:
        """`now`: wall-clock seconds; `here`: monotonic seconds."""
        passed = here - self._here
        self._here = here
        known = self.state or ClockState(now - passed)
        expected = known.wall + passed
        if now - expected <= LEAP_S or known.doubted_s + passed >= LEAP_S:
            # Also a clock that was set back: that makes nothing old.
            self.state = ClockState(now)
            return True
        self.state = ClockState(expected, known.doubted_s + passed)
        return False
