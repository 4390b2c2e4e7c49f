"""Limits the number of connections: in all, per caller and per network. Pure bookkeeping: it knows keys and names, no
sockets.

A connection counts from when it is accepted, before anything is read or a handshake is done. An honest caller speaks
within milliseconds. When connections that have not spoken fill a limit, the oldest of them is closed for a new one, so
idle connections keep nobody out. The same for one that has been answered and asks nothing more, or does not read.
"""

import msgspec

from clusterd.listening.addresses import wide_network_of


class Bounds(msgspec.Struct, frozen=True):
    """`waiting`: those that wait for their callers."""

    connections: int
    per_address: int
    per_network: int
    waiting: int


class Admission(msgspec.Struct, frozen=True):
    """`refused`: why there is no room, or empty. `evicted`: the key of a connection that must be closed instead."""

    refused: str = ""
    evicted: int | None = None


class _Group:
    """The connections of one address or network."""

    __slots__ = ("spoken", "waiting")

    def __init__(self) -> None:
        self.spoken = 0
        self.waiting: dict[int, None] = {}

    @property
    def count(self) -> int:
        return self.spoken + len(self.waiting)


class Gatekeeper:
    """Counts the connections of one listener. Each is first waiting, then it has spoken (`name`), perhaps waiting again
    (`rest`), then it is gone."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self._addresses: dict[str, _Group] = {}
        self._networks: dict[str, _Group] = {}
        self._keys: dict[int, tuple[str, bool]] = {}
        self._waiting = 0

    def admit(self, key: int, address: str) -> Admission:
        """A connection was accepted. Unless refused it is waiting from here on, until `name` or `release`."""
        bounds = self.bounds
        evicted: int | None = None
        for groups, name, most, what in (
            (self._addresses, address, bounds.per_address, "address"),
            (self._networks, wide_network_of(address), bounds.per_network, "network"),
        ):
            group = groups.get(name)
            if group is not None and group.count >= most:
                evicted = next(iter(group.waiting), None)
                if evicted is None:
                    return Admission(f"{group.count} connections from this {what}, no more are allowed")
                break
        else:
            if len(self._keys) >= bounds.connections or self._waiting >= bounds.waiting:
                evicted = self._oldest_of_the_crowd()
                if evicted is None:
                    return Admission(f"{len(self._keys)} connections in all, no more are allowed")
        if evicted is not None:
            self.release(evicted)
        for group in self._groups(address):
            group.waiting[key] = None
        self._keys[key] = (address, False)
        self._waiting += 1
        return Admission("", evicted)

    def name(self, key: int) -> None:
        """The connection has spoken (a good hello, a request): it is not evicted from now on."""
        found = self._keys.get(key)
        if found is None or found[1]:
            return
        for group in self._groups(found[0]):
            del group.waiting[key]
            group.spoken += 1
        self._keys[key] = (found[0], True)
        self._waiting -= 1

    def rest(self, key: int) -> None:
        """The connection waits for its caller again: it is the newest of those that may be evicted."""
        found = self._keys.get(key)
        if found is None or not found[1]:
            return
        for group in self._groups(found[0]):
            group.spoken -= 1
            group.waiting[key] = None
        self._keys[key] = (found[0], False)
        self._waiting += 1

    def release(self, key: int) -> None:
        """The connection is gone. A key that is not known (evicted before) is fine."""
        found = self._keys.pop(key, None)
        if found is None:
            return
        address, has_spoken = found
        for group in self._groups(address):
            if has_spoken:
                group.spoken -= 1
            else:
                del group.waiting[key]
        if not has_spoken:
            self._waiting -= 1
        for groups, name in ((self._addresses, address), (self._networks, wide_network_of(address))):
            if not groups[name].count:
                del groups[name]

    @property
    def connections(self) -> int:
        return len(self._keys)

    @property
    def waiting(self) -> int:
        """How many wait for their callers."""
        return self._waiting

    def _groups(self, address: str) -> tuple[_Group, _Group]:
        return (
            self._addresses.setdefault(address, _Group()),
            self._networks.setdefault(wide_network_of(address), _Group()),
        )

    def _oldest_of_the_crowd(self) -> int | None:
        """The oldest waiting connection of the network that has most of them."""
        if not self._waiting:
            return None
        crowd = max(self._networks.values(), key=lambda group: len(group.waiting))
        return next(iter(crowd.waiting))
