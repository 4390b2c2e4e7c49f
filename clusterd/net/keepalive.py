"""Finds links that have been silent too long: keepalive arithmetic of both sides (wire.md 1.6). Times are passed in, of
a clock that stands still while this process does: what a peer has said meanwhile lies unread."""

from collections.abc import Iterable
from typing import Protocol, TypeVar


class KeepaliveSender:
    """A worker's side. Each round begins `interval_s` after the previous one ended; the first begins that long after
    connecting.

    The dialler owns it, sends when `next_at` is reached, and reports the result."""

    def __init__(self, interval_s: float, max_failed: int, now: float) -> None:
        self._interval_s = interval_s
        self._max_failed = max_failed
        self.failed_in_a_row = 0
        self.next_at = now + interval_s

    def set_intervals(self, interval_s: float, max_failed: int) -> None:
        """What a reload has changed; the next round is begun when it was to begin."""
        self._interval_s = interval_s
        self._max_failed = max_failed

    def succeeded(self, now: float) -> None:
        self.failed_in_a_row = 0
        self.next_at = now + self._interval_s

    def failed(self, now: float) -> bool:
        """Returns whether the link must be closed: the allowed number of consecutive failures is reached."""
        self.failed_in_a_row += 1
        self.next_at = now + self._interval_s
        return self.failed_in_a_row >= self._max_failed


class Watched(Protocol):
    """What the check reads: the time (`Clock.awake`) of the last `echo-c`, or of the accept."""

    @property
    def heard_at(self) -> float: ...


_W = TypeVar("_W", bound=Watched)


def silent_too_long(links: Iterable[_W], now: float, allowed_s: float) -> list[_W]:
    """The links whose last keepalive is older than `allowed_s`. Only keepalives count (wire.md 1.6)."""
    return [link for link in links if now - link.heard_at > allowed_s]
