"""Limits the freed memory that the C library keeps. No effect without glibc."""

import ctypes

_libc = ctypes.CDLL(None)
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
"""Parameters of mallopt(3)."""
MOST_ARENAS = 2
MOST_KEPT_BYTES = 8 << 20
"""Larger blocks return to the system when they are freed; no heap keeps more at its end. Bodies and pieces are
smaller."""
TRIM_EVERY_S = 60.0


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


class Trimmer:
    """Calls `trim_heap` once a minute. The heartbeat of a long-lived process owns it."""

    def __init__(self) -> None:
        self._at = 0.0

    def tick(self, now: float) -> None:
        """`now`: seconds on the monotonic clock."""
        if now - self._at >= TRIM_EVERY_S:
            self._at = now
            trim_heap()
