"""Whether this node may act as a master at this moment: by the lease that the process `election` holds in etcd
(docs/ha.md).

A process that was stopped for an hour and wakes looks at a deadline that has passed: nobody has to tell it anything.
"""

import time

from clusterd.settings import Settings
from ipc.board import FOR_EVER_NS, Board

NOT_LEADING = "this node does not lead now: it holds no lease of the election"
"""For errors. Code 3023 for local clients."""
HAND_OVER_S = 10.0
"""How long a switchover may take on each side; then the old leader goes on."""
CHANGE_S = 3.0
"""While the lead changes hands, requests of which nothing was executed wait for so long instead of being refused."""


class Leadership:
    """One per process that acts as a master. `holds` is asked where a request is taken and where its effect becomes
    final."""

    def __init__(self, board: Board, settings: Settings) -> None:
        """Without `clusterd.ha.enabled` the role that the process was made for counts alone."""
        self._board = board
        self._is_bound = settings.has_election
        self._is_master = settings.is_master
        self._term = settings.role.led if settings.role is not None else 0

    def holds(self) -> bool:
        """Costs a look at two words of memory and at the clock."""
        if not self._is_bound:
            return True
        term, until_ns = self._board.lead()
        return self._is_master and 0 < term == self._term and _now_ns() < until_ns

    def left_s(self) -> float | None:
        """For how long `holds` stays true if nothing renews it, in seconds; 0.0: it is false. None: without an end."""
        if not self._is_bound:
            return None
        until_ns = self._board.lead()[1]
        if not self.holds():
            return 0.0
        return None if until_ns == FOR_EVER_NS else max(0.0, (until_ns - _now_ns()) / 1e9)


def _now_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
