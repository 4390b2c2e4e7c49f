"""How many bytes of other nodes this node accepts: one ledger for the spool, in all and by peer, and a reserve of the
disk.

The reserve is for this node's logs, database and manifest. It is never more than a quarter of a disk, so that small
disks can be used. Small things (a rule, an answer) are accepted until little of the reserve is left.
"""

import os
from typing import NamedTuple

from clusterd.settings import Limits

SMALL_BYTES = 1024 * 1024
SMALL_SHARE = 1 / 16
"""Share of the reserve that small things may not use either."""
LARGEST_SHARE = 1 / 4
"""Largest share of a disk that is reserved."""
RATIO_FROM_BYTES = 256 * 1024 * 1024
"""A package may unpack to this size, however small it is, without being taken for a zip bomb."""
DISK = "disk"
ALL = "spool of all nodes"
EASED = 0.9
"""A limit that was reached counts as over when usage has fallen to this share of it."""


class Disk(NamedTuple):
    """Sizes in bytes. `reserve`: how much of it must stay free."""

    total: int
    free: int
    reserve: int

    def takes(self, size: int, whole: int) -> bool:
        """Returns whether `size` more bytes may be written of something that will then have `whole` bytes."""
        left = self.free - size
        return left >= self.reserve or (whole <= SMALL_BYTES and left >= self.reserve * SMALL_SHARE)


class OverLimit(NamedTuple):
    """`subject`: which limit, for `Ledger.is_over`; `text`: for people."""

    subject: str
    text: str


def disk_of(path: str, limits: Limits) -> Disk:
    """Returns the disk that holds this path; one whose size cannot be read counts as unlimited."""
    try:
        found = os.statvfs(path)
    except OSError:
        return Disk(0, 1 << 62, 0)
    total = found.f_blocks * found.f_frsize
    wanted = max(limits.disk_reserve_bytes, int(total * limits.disk_reserve_share))
    return Disk(total, found.f_bavail * found.f_frsize, min(wanted, int(total * LARGEST_SHARE)))


def unpack_bounds(limits: Limits, packed: int, disk: Disk) -> tuple[int, int]:
    """Returns how many bytes a single file, and all of a package of `packed` bytes, may unpack to. Limited by the
    settings, by a ratio that no real package of that size reaches, and by what the disk has above its reserve."""
    by_ratio = max(RATIO_FROM_BYTES, packed * limits.unpacked_ratio)
    room = disk.free - disk.reserve
    if room < SMALL_BYTES:
        room = SMALL_BYTES if disk.takes(SMALL_BYTES, SMALL_BYTES) else 0
    total = min(limits.unpacked_total_bytes, by_ratio, room)
    return min(limits.unpacked_file_bytes, total), total


class Ledger:
    """Owns the charges: path of a spool file to its peer and its size so far. `limits` is replaced by a reload. `own`:
    bytes of this node's own files, measured from time to time."""

    def __init__(self, directory: str, limits: Limits, *, is_master: bool) -> None:
        self._directory = directory
        self._is_master = is_master
        self._charges: dict[str, tuple[str, int]] = {}
        self._peers: dict[str, int] = {}
        self.limits = limits
        self.own = 0

    @property
    def used(self) -> int:
        return self.own + sum(self._peers.values())

    @property
    def peer_limit(self) -> int:
        """A worker has one peer, its master, which may use the whole spool."""
        return self.limits.spool_peer_bytes if self._is_master else self.limits.spool_bytes

    def why_not(self, peer: str, size: int, whole: int) -> OverLimit | None:
        """Returns why `size` more bytes of this peer are refused, of something that would then have `whole` bytes; None
        if they are accepted."""
        has = self._peers.get(peer, 0)
        if has + size > self.peer_limit:
            text = (
                f"{peer} has {_mib(has)} in the spool of this node, and at most {_mib(self.peer_limit)} are taken of it"
            )
            return OverLimit(_of(peer), text)
        if self.used + size > self.limits.spool_bytes:
            text = (
                f"the spool of this node holds {_mib(self.used)}, and at most {_mib(self.limits.spool_bytes)} are taken"
            )
            return OverLimit(ALL, text)
        disk = disk_of(self._directory, self.limits)
        return None if disk.takes(size, whole) else OverLimit(DISK, low(disk))

    def why_low(self) -> OverLimit | None:
        """Returns what is wrong with the disk already, before a peer sends anything."""
        disk = disk_of(self._directory, self.limits)
        return OverLimit(DISK, low(disk)) if disk.free < disk.reserve else None

    def is_over(self, subject: str) -> bool:
        """Returns whether there is room again under this limit, which was reached."""
        if subject == DISK:
            disk = disk_of(self._directory, self.limits)
            return disk.free * EASED > disk.reserve
        if subject == ALL:
            return self.used <= self.limits.spool_bytes * EASED
        return all(_of(peer) != subject or held <= self.peer_limit * EASED for peer, held in self._peers.items())

    def charge(self, path: str, peer: str, size: int) -> None:
        """Charges the file to the peer with this size, until `release`."""
        self.release(path)
        self._charges[path] = (peer, size)
        self._peers[peer] = self._peers.get(peer, 0) + size

    def release(self, path: str) -> None:
        """Called when the file is removed; a file that was never charged is this node's own."""
        peer, size = self._charges.pop(path, ("", 0))
        left = self._peers.pop(peer, 0) - size
        if left:
            self._peers[peer] = left

    def measure(self) -> None:
        """Measures how much of the spool belongs to this node itself."""
        own = 0
        try:
            with os.scandir(self._directory) as entries:
                for entry in entries:
                    if entry.path not in self._charges:
                        own += _size(entry)
        except OSError:
            return
        self.own = own

    def shown(self) -> dict[str, object]:
        disk = disk_of(self._directory, self.limits)
        return {
            "used": self.used,
            "limit": self.limits.spool_bytes,
            "peers": dict(self._peers),
            "peer_limit": self.peer_limit,
            "disk_bytes": disk.total or None,
            "disk_free": disk.free if disk.total else None,
            "disk_reserve": disk.reserve,
        }


def low(disk: Disk) -> str:
    """Returns the text about a disk that has only its reserve left."""
    return (
        f"{_mib(disk.free)} of the disk are free, and {_mib(disk.reserve)} are reserved "
        "(clusterd.limits.disk_reserve_bytes, disk_reserve_share)"
    )


def _of(peer: str) -> str:
    return f"spool of {peer}"


def _size(entry: "os.DirEntry[str]") -> int:
    try:
        return entry.stat(follow_symlinks=False).st_size
    except OSError:
        return 0  # gone meanwhile


def _mib(size: int) -> str:
    return f"{size / 1048576:.0f} MiB"
