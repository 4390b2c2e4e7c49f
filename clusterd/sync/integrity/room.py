"""How many bytes a worker can take at once. A package that is too large for a worker's disk would be sent again for
ever, and would hold up the small changes in it.

A clusterd worker is asked for its room (capability `room`). A stock worker can only refuse a package: then half of the
refused size is its bound for a while. What exceeds the bound waits, the largest files first.
"""

import os
from collections.abc import Iterable

import msgspec

from clusterd.errors import ClusterError
from clusterd.messages.packages import Compared, FitDifference
from clusterd.settings import Limits
from clusterd.sync.links.caps import ROOM
from clusterd.sync.links.context import Context
from clusterd.sync.links.peer import Peer
from clusterd.sync.links.tags import worker_tag
from clusterd.sync.ports.ledger import SMALL_BYTES, disk_of
from clusterd.sync.ports.net_port import LinkClosed
from clusterd.sync.ports.pool_port import JobError
from clusterd.sync.ports.tag_log import GUARD
from clusterd.wire import commands
from clusterd.wire.payloads import parse_length

MIB = 1048576
ASKED_FROM_BYTES = SMALL_BYTES
"""Smaller differences are sent without asking: they fit on any worker that can take files at all."""
LEAST_BYTES = 64 * 1024
WAIT_S = 60.0
MOST_WAIT_S = 3600.0
CANCELLED = 3039
NO_ANSWER = 3020


def room(spool: str, root: str, places: Iterable[str], limits: Limits) -> int:
    """Returns how many bytes of files this node can take at once. They are on the disk twice for a moment: packed in
    the spool, and unpacked in `places`, directories below `root`. Raises OSError if the spool does not exist."""
    spool_device = os.stat(spool).st_dev
    found = [_free(spool, limits)]
    for place in ("", *places):
        path = os.path.join(root, place)
        try:
            is_same = os.stat(path).st_dev == spool_device
        except OSError:
            continue  # not made yet: it will be where its parent is
        free = _free(path, limits)
        found.append(free // 2 if is_same else free)
    return min(found)


def _free(path: str, limits: Limits) -> int:
    disk = disk_of(path, limits)
    least = SMALL_BYTES if disk.takes(SMALL_BYTES, SMALL_BYTES) else 0
    return max(disk.free - disk.reserve, least)


class _Bound(msgspec.Struct):
    """After a refusal: at most `bytes` at once until `until` (monotonic). `wait_s`: length of that time."""

    bytes: int
    until: float
    wait_s: float


class Rooms:
    """Owns what a master knows about the room of each worker."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._bounds: dict[str, _Bound] = {}
        self._sent: dict[str, int] = {}

    async def fit(self, peer: Peer, compared: Compared, difference: str) -> tuple[Compared, str, str]:
        """Returns the part of this difference to be sent now, as another difference file that belongs to the caller,
        and a text about the rest. Returns the same file and no text if everything is sent. Raises JobError, OSError."""
        raw = sum(compared.raw_sizes)
        most = await self._most(peer, raw)
        if most is None or raw <= most:
            self._sent[peer.name] = raw
            return compared, difference, ""
        out = self._context.spool.new_path("fitted")
        try:
            found = await self._context.jobs.run(FitDifference(difference, out, most))
        except BaseException:
            self._context.spool.remove(out)
            raise
        self._sent[peer.name] = sum(found.raw_sizes)
        text = (
            f"{found.left} files of {found.left_bytes / MIB:.1f} MB wait: "
            f"{peer.name} can take {most / MIB:.1f} MB at once"
        )
        log = self._context.tag_log(peer.tag, GUARD)
        self._context.troubles.begin(_subject(peer.name), f"{text}. See its free disk.", log)
        fitted = msgspec.structs.replace(
            compared,
            missing=found.missing,
            shared=found.shared,
            raw_sizes=found.raw_sizes,
            content=found.content,
            whole=found.whole,
        )
        return fitted, out, text

    async def _most(self, peer: Peer, raw: int) -> int | None:
        """Returns how many bytes of files the worker can take now; None if no limit is known."""
        bound = self._bounds.get(peer.name)
        most = None if bound is None or self._context.clock.monotonic() >= bound.until else bound.bytes
        if raw < ASKED_FROM_BYTES or ROOM not in peer.capabilities:
            return most
        try:
            said = parse_length(await peer.request(commands.GET_ROOM))
        except LinkClosed:
            raise
        except ClusterError:
            return most  # it cannot say
        return said if most is None else min(most, said)

    def refused(self, name: str, failure: Exception) -> None:
        """The worker could not take the last package. A failure for another reason says nothing about its room."""
        sent = self._sent.pop(name, 0)
        is_other = isinstance(failure, LinkClosed) or isinstance(failure.__cause__, JobError | OSError)
        if not sent or is_other or (isinstance(failure, ClusterError) and failure.code in (CANCELLED, NO_ANSWER)):
            return
        before = self._bounds.get(name)
        wait_s = WAIT_S if before is None else min(2 * before.wait_s, MOST_WAIT_S)
        half = max(LEAST_BYTES, sent // 2)
        self._bounds[name] = _Bound(half, self._context.clock.monotonic() + wait_s, wait_s)

    def equal(self, name: str) -> None:
        """Called when the worker has all files."""
        self._sent.pop(name, None)
        self._bounds.pop(name, None)
        log = self._context.tag_log(worker_tag(name), GUARD)
        self._context.troubles.end(_subject(name), f"{name} has taken everything.", log)

    def forget(self, name: str) -> None:
        """Forgets a worker whose link has ended."""
        self._sent.pop(name, None)
        bound = self._bounds.get(name)
        if bound is not None and self._context.clock.monotonic() >= bound.until:
            del self._bounds[name]
        self._context.troubles.end(_subject(name))


def _subject(name: str) -> str:
    return f"room of {name}"
