"""How many connections there may be, per address and in all, and how many log lines an address is worth.

Pure bookkeeping: it knows keys and addresses, no sockets. A node says hello within milliseconds, whoever only holds a
connection open does not: so where connections without a name fill a limit, the oldest of them makes room for a new one,
and a crowd of idle connections cannot keep a node out.
"""

from collections.abc import Hashable

import msgspec

from clusterd.settings import Limits

BURST_LINES = 64
"""Log lines of a legitimate kind (`Connection from ...`) that an address has per period: many nodes behind one address."""
REMEMBERED_ADDRESSES = 1024


class Admission(msgspec.Struct, frozen=True):
    """`refused`: why there is no room, or empty. `evicted`: the key of a connection that must be closed instead."""

    refused: str = ""
    evicted: int | None = None


class _Address:
    __slots__ = ("named", "waiting")

    def __init__(self) -> None:
        self.named = 0
        self.waiting: dict[int, None] = {}

    @property
    def count(self) -> int:
        return self.named + len(self.waiting)


class Gatekeeper:
    """Counts the connections of the master's port. Each is first waiting (for its hello), then named, then gone."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._addresses: dict[str, _Address] = {}
        self._keys: dict[int, tuple[str, bool]] = {}
        self._waiting = 0

    def admit(self, key: int, address: str) -> Admission:
        """A connection was accepted. Unless refused it is waiting from here on, until `name` or `release`."""
        limits = self.limits
        row = self._addresses.get(address)
        evicted: int | None = None
        if row is not None and row.count >= limits.connections_per_address:
            evicted = next(iter(row.waiting), None)
            if evicted is None:
                return Admission(f"{row.count} connections from this address, no more are allowed")
        elif len(self._keys) >= limits.connections or self._waiting >= limits.handshakes:
            evicted = self._oldest_of_the_crowd()
            if evicted is None:
                return Admission(f"{len(self._keys)} connections in all, no more are allowed")
        if evicted is not None:
            self.release(evicted)
        self._addresses.setdefault(address, _Address()).waiting[key] = None
        self._keys[key] = (address, False)
        self._waiting += 1
        return Admission("", evicted)

    def name(self, key: int) -> None:
        """The connection has said a hello that was accepted: nothing evicts it any more."""
        found = self._keys.get(key)
        if found is None or found[1]:
            return
        address = self._addresses[found[0]]
        del address.waiting[key]
        address.named += 1
        self._keys[key] = (found[0], True)
        self._waiting -= 1

    def release(self, key: int) -> None:
        """The connection is gone. A key that is not known (evicted before) is fine."""
        found = self._keys.pop(key, None)
        if found is None:
            return
        name, is_named = found
        address = self._addresses[name]
        if is_named:
            address.named -= 1
        else:
            del address.waiting[key]
            self._waiting -= 1
        if not address.count:
            del self._addresses[name]

    @property
    def connections(self) -> int:
        return len(self._keys)

    @property
    def waiting(self) -> int:
        """How many have not said hello yet."""
        return self._waiting

    def _oldest_of_the_crowd(self) -> int | None:
        """The oldest waiting connection of the address that has most of them."""
        if not self._waiting:
            return None
        crowd = max(self._addresses.values(), key=lambda address: len(address.waiting))
        return next(iter(crowd.waiting))


class LineBudget:
    """At most `burst` lines per key and period. Remembers a bounded number of keys."""

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
