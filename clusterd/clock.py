"""Time, passed in: nothing in a core reads a clock of its own."""

import functools
import os
import random
import time
import uuid


def boot_us() -> int:
    """Microseconds since the machine was started: a clock that nobody sets. Another one on each machine."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000


@functools.cache
def clock_name() -> str:
    """Says whose boot clock ours is: equal on two nodes only where both read the same one. Where the system does not tell (a
    service may be kept from most of /proc) it is nobody else's: then the offset is measured."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot = file.read().strip()
        # A container may have been given a clock of its own.
        return f"{boot}.{os.stat('/proc/self/ns/time').st_ino}"
    except OSError:
        return f"unknown.{uuid.uuid4()}"


class Clock:
    """The system's clocks. Tests pass one that moves only when told (tests/fakes/clock.py)."""

    def monotonic(self) -> float:
        """Seconds that never jump."""
        return time.monotonic()

    def wall(self) -> float:
        """Seconds since 1970, for people and peers."""
        return time.time()


class Backoff:
    """Growing pauses between retries, spread by jitter so that many nodes do not come back in the same moment (C19).

    The n-th pause is `initial_s * factor**n`, at most `maximum_s`, times a random number in [1 - jitter, 1 + jitter]."""

    def __init__(
        self,
        initial_s: float,
        maximum_s: float,
        *,
        factor: float = 2.0,
        jitter: float = 0.2,
        rng: random.Random | None = None,
    ) -> None:
        self._initial_s = initial_s
        self._maximum_s = maximum_s
        self._factor = factor
        self._jitter = jitter
        self._rng = rng or random.Random()
        self._attempts = 0

    def next_s(self) -> float:
        """The pause before the next attempt."""
        pause = min(self._maximum_s, self._initial_s * self._factor**self._attempts)
        if pause < self._maximum_s:
            self._attempts += 1
        return pause * self._rng.uniform(1 - self._jitter, 1 + self._jitter)

    def reset(self) -> None:
        """It worked: begin with the shortest pause again."""
        self._attempts = 0
