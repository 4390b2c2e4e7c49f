"""Bounds the log lines that anybody who can connect may cause, so that the log stays readable."""

from collections.abc import Callable, Hashable

from clusterd.logs import RateLimiter

Write = Callable[[str, str], None]
"""Level and text of a line of our own."""


class StrangerLines:
    """One line per key and period, `most` in all, then a single one that says how many were left out."""

    def __init__(self, period_s: float, most: int, write: Write) -> None:
        self._write = write
        self._since = float("-inf")
        self._written = 0
        self._left_out = 0
        self.set_bounds(period_s, most)

    def set_bounds(self, period_s: float, most: int) -> None:
        self._period_s = period_s
        self._most = most
        self._by_key = RateLimiter(period_s)

    def admit(self, key: Hashable, now: float) -> int | None:
        """None: leave this line out. Else how many with this key were left out since the last one."""
        more = self._by_key.admit(key, now)
        if more is None:
            return None
        if now - self._since >= self._period_s:
            self._begin(now)
        if self._written >= self._most:
            self._left_out += 1
            return None
        self._written += 1
        return more

    def tick(self, now: float) -> None:
        """Call now and then: writes the line about omitted lines once the period is over."""
        if self._left_out and now - self._since >= self._period_s:
            self._begin(now)

    def _begin(self, now: float) -> None:
        left_out, self._left_out = self._left_out, 0
        self._since, self._written = now, 0
        if left_out:
            self._written = 1
            self._write(
                "WARNING", f"{left_out} lines like these were left out: more than {self._most} in {self._period_s:g} s."
            )
