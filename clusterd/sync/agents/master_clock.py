"""The master's boot clock as seen from a worker: measured again for each report; the best measurements are kept."""

from typing import NamedTuple

from clusterd.clock import boot_us, clock_name
from clusterd.sync.links.peer import Peer
from clusterd.wire import commands
from clusterd.wire.payloads import parse_clock

ATTEMPTS = 5
CLOSE_US = 5_000
"""A measurement with this precision is good enough: an agent needs more time to move from one worker to another."""
DRIFT = 1000
"""Two clocks drift apart by at most one part in this number while one of them is slewed."""


class Measurement(NamedTuple):
    """`off_by_us`: the largest error of `offset_us` at the moment `at_us` of our clock."""

    off_by_us: int
    offset_us: int
    at_us: int

    def aged(self, now_us: int) -> "Measurement":
        """Returns the same measurement with the error that it may have by now."""
        return Measurement(self.off_by_us + (now_us - self.at_us) // DRIFT, self.offset_us, now_us)


class MasterClock:
    """Owns the measurements of one link."""

    def __init__(self) -> None:
        self._best: Measurement | None = None

    async def offset_us(self, peer: Peer) -> int:
        """Returns the master's boot clock minus ours. Exactly 0 where both are the same clock. Otherwise the error is
        at most half the time of the quickest answer among a few attempts now and those of earlier reports. Raises
        ClusterError."""
        best = self._best
        for _ in range(ATTEMPTS):
            asked = boot_us()
            theirs = parse_clock(await peer.request(commands.CLOCK, clock_name().encode()))
            answered = boot_us()
            if theirs is None:
                return 0
            new = Measurement((answered - asked) // 2, theirs - (asked + answered) // 2, answered)
            if best is not None:
                kept = best.aged(answered)
                # One of the machines was suspended (a virtual machine that was moved): earlier measurements are wrong.
                is_wrong = abs(kept.offset_us - new.offset_us) > kept.off_by_us + new.off_by_us
                best = new if is_wrong else min(kept, new)
            else:
                best = new
            if best.off_by_us <= CLOSE_US:
                break
        self._best = best
        assert best is not None
        return best.offset_us
