"""Limits the freed memory that the C library keeps (no effect without glibc), and measures what a process has for
itself."""

import ctypes
from collections.abc import Callable

_libc = ctypes.CDLL(None)
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
"""Parameters of mallopt(3)."""
MOST_ARENAS = 2
MOST_KEPT_BYTES = 8 << 20
"""Larger blocks return to the system when they are freed; no heap keeps more at its end. Bodies and pieces are
smaller."""
TRIM_EVERY_S = 60.0
MEASURE_EVERY_S = 10.0
FIRST_MEASURE_S = 2.0
"""After the first tick: a process that has just been forked has nothing of its own yet."""


def bound_heaps() -> None:
    """Limits what a process keeps of freed memory. Call it before there are threads.

    By default a process may have eight heaps per core, and memory freed in one is not used by the others: with threads
    that start and end it grows for hours. And the first freed block of 16 MiB (the hash of a password needs one) makes
    the library keep up to 32 MiB at the end of each heap, which `trim_heap` can only return from the first heap."""
    mallopt = getattr(_libc, "mallopt", None)
    if mallopt is not None:
        mallopt(_ARENA_MAX, MOST_ARENAS)
        mallopt(_MMAP_THRESHOLD, MOST_KEPT_BYTES)
        mallopt(_TRIM_THRESHOLD, MOST_KEPT_BYTES)


def trim_heap() -> None:
    """Returns free pages to the system: below a millisecond for a heap of some MB."""
    trim = getattr(_libc, "malloc_trim", None)
    if trim is not None:
        trim(0)


def own_bytes() -> int:
    """Memory of this process that no other process shares (USS); 0 where the system does not say. Others may not read
    it: see clusterd/rights.py. Takes about a millisecond."""
    total = 0
    try:
        with open("/proc/self/smaps_rollup", "rb") as file:
            for line in file:
                if line.startswith(b"Private_"):
                    total += int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        return 0
    return total


class MemoryGauge:
    """Tells how much memory is only this process's, every MEASURE_EVERY_S. The heartbeat of a process owns it."""

    def __init__(self, tell: Callable[[int], None]) -> None:
        """`tell`: gets bytes."""
        self._tell = tell
        self._due: float | None = None

    def tick(self, now: float) -> None:
        """`now`: seconds on the monotonic clock."""
        if self._due is None:
            self._due = now + FIRST_MEASURE_S
        elif now >= self._due:
            self._due = now + MEASURE_EVERY_S
            self._tell(own_bytes())


class Trimmer:
    """Calls `trim_heap` once a minute, and tells how much memory is only this process's. The heartbeat of a long-lived
    process owns it."""

    def __init__(self, tell: Callable[[int], None] = lambda count: None) -> None:
        self._at: float | None = None
        self._gauge = MemoryGauge(tell)

    def tick(self, now: float) -> None:
        """`now`: seconds on the monotonic clock."""
        if self._at is None:  # just forked: its heap is its parent's, which it would only copy
            self._at = now
        elif now - self._at >= TRIM_EVERY_S:
            self._at = now
            trim_heap()
        self._gauge.tick(now)
