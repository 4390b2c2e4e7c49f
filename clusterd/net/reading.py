"""Whether a link is read, and the reasons why it is not."""

import asyncio

from clusterd.clock import Clock

HELD_REQUESTS = 1
HELD_SLABS = 2
HELD_OUTBOX = 4
HELD_SYNC = 8
"""Reasons not to read a link: too many unanswered requests, no slab, a peer that does not read, a full channel to
sync."""


class Reading:
    """Owner of the reasons. `paused_s`: how long the link was not read so far, without a pause that goes on."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._reasons = 0
        self._since = 0.0
        self.paused_s = 0.0

    @property
    def is_held(self) -> bool:
        """Whether the link is not being read."""
        return bool(self._reasons)

    @property
    def is_held_by_us(self) -> bool:
        """The same for reasons that are not the peer's doing (a peer that does not read, or has many open requests,
        could change that)."""
        return bool(self._reasons & (HELD_SLABS | HELD_SYNC))

    def hold(self, why: int, transport: asyncio.Transport | None) -> None:
        """Adds a reason."""
        if not self._reasons and transport is not None:
            transport.pause_reading()
            self._since = self._clock.awake()
        self._reasons |= why

    def let_go(self, why: int, transport: asyncio.Transport | None) -> float:
        """Removes a reason; reads again if it was the last. `transport`: None if it has ended. Returns how long the
        pause was that has ended, in seconds; 0 if none has."""
        if not self._reasons & why:
            return 0.0
        self._reasons &= ~why
        if self._reasons or transport is None:
            return 0.0
        pause_s = self._clock.awake() - self._since
        self.paused_s += pause_s
        transport.resume_reading()
        return pause_s
