"""What the C library keeps of memory that was freed. Without effect where it is not glibc."""

import ctypes

_libc = ctypes.CDLL(None)
_ARENA_MAX = -8
"""M_ARENA_MAX of mallopt(3)."""
MOST_ARENAS = 2
TRIM_EVERY_S = 60.0


def few_arenas() -> None:
    """Threads share two heaps. By default a process may have eight for each core, and what is freed in one of them is not used by
    the others: with threads that come and go it grows for hours. To be called before there are threads."""
    mallopt = getattr(_libc, "mallopt", None)
    if mallopt is not None:
        mallopt(_ARENA_MAX, MOST_ARENAS)


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
