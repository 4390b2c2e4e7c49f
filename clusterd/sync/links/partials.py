"""Keeps packages that were cut off for a while, so that the next transfer continues where the last one stopped."""

import asyncio
from collections.abc import Callable

import msgspec

from clusterd.sync.ports.spool import Spool

KEPT = 2
KEPT_S = 600.0
SETTLE_S = 5.0
"""How long a transfer that goes on waits for chunks of the last link that are still being stored."""


class Claim(msgspec.Struct, frozen=True):
    """Identifies the package: SHA-256 and size in bytes, as the sender says."""

    sha256: bytes
    size: int


class Partial(msgspec.Struct, frozen=True):
    """The first `received` bytes, in the spool file `path`."""

    path: str
    received: int


class Partials:
    """At most KEPT files, each for KEPT_S. They are not trusted: the digest at the end of a transfer covers the whole
    package."""

    def __init__(self, spool: Spool, now: Callable[[], float]) -> None:
        """`now`: monotonic seconds."""
        self._spool = spool
        self._now = now
        self._kept: dict[Claim, tuple[Partial, float]] = {}
        self._expected: set[asyncio.Task[None]] = set()

    def expect(self, keeping: asyncio.Task[None]) -> None:
        """This task will keep files: jobs still write to them."""
        self._expected.add(keeping)
        keeping.add_done_callback(self._expected.discard)

    async def settled(self) -> None:
        """Waits until all that is expected is kept, but no longer than SETTLE_S: the transfer then begins anew."""
        if self._expected:
            await asyncio.wait(self._expected, timeout=SETTLE_S)

    def keep(self, claim: Claim, partial: Partial) -> None:
        """Takes over the file."""
        self._drop(claim)
        if not 0 < partial.received <= claim.size:
            self._spool.remove(partial.path)
            return
        while len(self._kept) >= KEPT:
            self._drop(next(iter(self._kept)))
        self._kept[claim] = (partial, self._now())
        asyncio.get_running_loop().call_later(KEPT_S + 0.1, self._expire)

    def take(self, claim: Claim) -> Partial | None:
        """Returns the file, which the caller owns from here on."""
        self._expire()
        kept = self._kept.pop(claim, None)
        return None if kept is None else kept[0]

    def clear(self) -> None:
        """The node stops."""
        for claim in list(self._kept):
            self._drop(claim)

    def _expire(self) -> None:
        now = self._now()
        for claim, (_, kept_at) in list(self._kept.items()):
            if now - kept_at >= KEPT_S:
                self._drop(claim)

    def _drop(self, claim: Claim) -> None:
        kept = self._kept.pop(claim, None)
        if kept is not None:
            self._spool.remove(kept[0].path)
