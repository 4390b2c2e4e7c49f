"""Limits legitimate log lines per address. Pure bookkeeping."""

from collections.abc import Hashable

BURST_LINES = 64
"""Legitimate lines (`Connection from ...`) per address and period: many nodes may share one address."""
REMEMBERED_ADDRESSES = 1024


class LineBudget:
    """Allows at most `burst` lines per key and period. Remembers a bounded number of keys."""

    def __init__(self, burst: int, period_s: float, keys: int = REMEMBERED_ADDRESSES) -> None:
        self._burst = burst
        self._period_s = period_s
        self._keys = keys
        self._spent: dict[Hashable, tuple[float, int]] = {}

    def allows(self, key: Hashable, now: float) -> bool:
        since, spent = self._spent.get(key, (now, 0))
        if now - since >= self._period_s:
            since, spent = now, 0
        if spent >= self._burst:
            return False
        self._spent.pop(key, None)
        if len(self._spent) >= self._keys:
            del self._spent[next(iter(self._spent))]
        self._spent[key] = (since, spent + 1)
        return True
