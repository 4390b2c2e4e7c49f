"""What a master of an election may do inside net: nothing without the lease (docs/ha.md). It is looked at where a
request is taken and where anything is sent, so that a process that was stopped and wakes serves nothing."""

from collections.abc import Callable

from clusterd.leadership import Leadership


class Fence:
    """One per net process of such a master."""

    def __init__(self, leadership: Leadership) -> None:
        self._leadership = leadership
        self._was_open = False
        self.lapsed: Callable[[], None] = lambda: None
        """Called once when the lease has ended, by whoever notices it first."""

    def is_open(self) -> bool:
        """Whether this node leads at this moment."""
        if self._leadership.holds():
            self._was_open = True
            return True
        if self._was_open:
            self._was_open = False
            self.lapsed()
        return False
