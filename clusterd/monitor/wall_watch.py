"""Whether the wall clock is to be believed when it makes events old: a clock that is wrong must not empty the
journal."""

import msgspec

LEAP_S = 86400.0
"""A clock that is set forward by more than this makes all events old at once, and may be wrong: it is believed when it
has gone on for as long."""


class ClockState(msgspec.Struct, frozen=True):
    """`wall`: what the clock should say, wall-clock seconds. `doubted_s`: for how long it has said something else."""

    wall: float
    doubted_s: float = 0.0


class WallWatch:
    """Compares the wall clock with the time that passes. `state` outlives the process: a doubt does not end with it."""

    def __init__(self) -> None:
        self.state: ClockState | None = None
        self._here = 0.0

    def begin(self, state: ClockState | None, here: float) -> None:
        """`state`: of the life before; the time since then is not known. `here`: monotonic seconds."""
        self.state, self._here = state, here

    def is_believed(self, now: float, here: float) -> bool:
        """`now`: what the wall clock says; `here`: monotonic seconds."""
        passed = here - self._here
        self._here = here
        known = self.state or ClockState(now - passed)
        expected = known.wall + passed
        if now - expected <= LEAP_S or known.doubted_s + passed >= LEAP_S:
            # Also one that was set back: nothing gets old by that.
            self.state = ClockState(now)
            return True
        self.state = ClockState(expected, known.doubted_s + passed)
        return False
