"""The clocks, passed in as an object: core code never reads a system clock itself."""

import functools
import os
import random
import time
import uuid


def boot_us() -> int:
    """Microseconds since the machine's boot: a clock that nobody can set. Each machine has its own."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000


@functools.cache
def clock_name() -> str:
    """Identifies our boot clock: two nodes have the same name only if they read the same clock. Where the system hides
    it (a service may see little of /proc) the name is unique, and the offset is measured instead."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot = file.read().strip()
        # A container may have a clock of its own.
        return f"{boot}.{os.stat('/proc/self/ns/time').st_ino}"
    except OSError:
        return f"unknown.{uuid.uuid4()}"


PAUSE_S = 2.0
"""A loop that does nothing for so long did not run; each has a heartbeat twice a second."""


class Clock:
    """The system's clocks. Tests pass a clock that moves only when told (tests/fakes/clock.py)."""

    def __init__(self) -> None:
        self._read_at = time.monotonic()
        self._away_s = 0.0

    def monotonic(self) -> float:
        """Seconds that never jump."""
        return time.monotonic()

    def awake(self) -> float:
        """Seconds in which this process ran: stands still while it is stopped, or its machine is suspended. By this
        clock others are judged that may have spoken meanwhile: what they have said lies unread. For the thread of a
        loop that asks at least once a second: a longer time without a question counts as a pause."""
        now = time.monotonic()
        if now - self._read_at > PAUSE_S:
            self._away_s += now - self._read_at
        self._read_at = now
        return now - self._away_s

    def wall(self) -> float:
        """Seconds since 1970, for people and peers."""
        return time.time()


class Backoff:
    """Growing pauses between retries, with jitter so that many nodes do not return at the same moment (C19).

    The n-th pause is `initial_s * factor**n`, at most `maximum_s`, times a random number in [1 - jitter, 1 +
    jitter]."""

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
        """The attempt succeeded: begins with the shortest pause again."""
        self._attempts = 0
