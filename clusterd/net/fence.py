"""What a master of an election may do inside net: nothing without the lease (docs/ha.md). It is looked at where a
request is taken and where anything is sent, so that a process that was stopped and wakes serves nothing."""

import time
from collections.abc import Callable

from clusterd.leadership import CHANGE_S, Leadership


class Fence:
    """One per net process of such a master."""

    def __init__(self, leadership: Leadership) -> None:
        self._leadership = leadership
        self._was_open = False
        self._waits_until = time.monotonic() + CHANGE_S
        self.lapsed: Callable[[], None] = lambda: None
        """Called once when the lease has ended, by whoever notices it first."""

    def is_open(self) -> bool:
        """Whether this node leads at this moment."""
        if self._leadership.holds():
            self._was_open = True
            return True
        if self._was_open:
            self._was_open = False
            self._waits_until = time.monotonic() + CHANGE_S
            self.lapsed()
        return False

    @property
    def is_changing(self) -> bool:
        """Whether this node has begun to wait for the lease a moment ago: it has it soon, or has other processes."""
        return time.monotonic() < self._waits_until

    def wait(self, seconds: float) -> None:
        """It is known that another node takes over: that may take so long."""
        self._waits_until = time.monotonic() + seconds
