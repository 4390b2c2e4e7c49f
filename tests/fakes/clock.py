"""A clock that moves only when told."""

from clusterd.clock import Clock


class FakeClock(Clock):
    def __init__(self, monotonic: float = 1000.0, wall: float = 1_795_400_000.0) -> None:
        self._monotonic = monotonic
        self._wall = wall

    def monotonic(self) -> float:
        return self._monotonic

    def awake(self) -> float:
        """It has been stopped for a while once: the two clocks must not be mixed."""
        return self._monotonic - 500.0

    def wall(self) -> float:
        return self._wall

    def jump(self, seconds: float) -> None:
        """The wall clock is set; no time passes."""
        self._wall += seconds

    def move(self, seconds: float) -> None:
        self._monotonic += seconds
        self._wall += seconds
