"""What the C library keeps of memory that was freed. Without effect where it is not glibc."""

import ctypes

_libc = ctypes.CDLL(None)
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
"""Parameters of mallopt(3)."""
MOST_ARENAS = 2
MOST_KEPT_BYTES = 8 << 20
"""What is larger is the system's again once it is freed; no heap keeps more at its end. Bodies and pieces are smaller."""
TRIM_EVERY_S = 60.0


def bound_heaps() -> None:
    """What a process may keep of what it has freed. To be called before there are threads.

    By default it may have eight heaps for each core, and what is freed in one of them is not used by the others: with threads
    that come and go it grows for hours. And the first block of 16 MiB that is freed (a password's hash takes that) has the
    library keep up to 32 MiB at the end of each heap, which `give_back` does not reach but in the first."""
    mallopt = getattr(_libc, "mallopt", None)
    if mallopt is not None:
        mallopt(_ARENA_MAX, MOST_ARENAS)
        mallopt(_MMAP_THRESHOLD, MOST_KEPT_BYTES)
        mallopt(_TRIM_THRESHOLD, MOST_KEPT_BYTES)


def give_back() -> None:
    """Free pages go to the system: below a millisecond for a heap of some MB."""
    trim = getattr(_libc, "malloc_trim", None)
    if trim is not None:
        trim(0)


class Trimmer:
    """Gives back once a minute. Owned by the heartbeat of a process that lives long."""

    def __init__(self) -> None:
        self._at = 0.0

    def tick(self, now: float) -> None:
        """`now`: seconds on the monotonic clock."""
        if now - self._at >= TRIM_EVERY_S:
            self._at = now
            give_back()
