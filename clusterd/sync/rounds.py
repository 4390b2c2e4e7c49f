"""When a worker checks: by the clock as stock does, and with a clusterd master as soon as anything has changed on either side."""

import asyncio
import random
import time
import traceback

from clusterd.errors import ClusterError
from clusterd.sync.caps import DIGEST
from clusterd.sync.context import Context
from clusterd.sync.digest_worker import DigestWorker
from clusterd.sync.integrity_worker import CHECK, OWN, IntegrityWorker
from clusterd.sync.manifests import Scan
from clusterd.sync.pace import Pace
from clusterd.sync.peer import Peer
from clusterd.wire.payloads import parse_changed

CALM_S = 5.0
AGAIN_S = 1.0
"""A change of this node's own files is healed at once; further ones within CALM_S are healed AGAIN_S later, so that a program that
writes them again and again keeps nobody busy."""


class Rounds:
    """The rounds of one worker; `run` lives with the link to the master."""

    def __init__(self, context: Context, worker: IntegrityWorker, digest: DigestWorker) -> None:
        self._context = context
        self._worker = worker
        self._digest = digest
        self._pace = Pace()
        self._by_digest = False
        self._changed_at: float | None = None
        worker.ended = self._sync_ended
        context.manifests.changed.append(self._own_changed)

    async def run(self, peer: Peer) -> None:
        """Rounds of checks, `sync_integrity` apart, counted from the end of the one before (wire.md 1.5). With a master that
        knows digests the first one is at once."""
        self._by_digest = DIGEST in await peer.agreed()
        if not self._by_digest:
            await asyncio.sleep(self._context.settings.worker.sync_integrity_s)
        while True:
            if not self._worker.is_syncing:
                try:
                    await self._check(peer)
                except Exception:
                    # The next round may well succeed; without one this node would never be equal again.
                    tag = f"Worker {self._context.node_name}"
                    self._context.journal(tag, OWN).error(f"Unexpected failure: {traceback.format_exc()}")
                    self._worker.note_result("failed", "an unexpected failure, see the log")
            await self._pace.rest(self._context.settings.worker.sync_integrity_s)

    async def _check(self, peer: Peer) -> None:
        if self._by_digest:
            try:
                if await self._digest.check(peer):
                    return
            except ClusterError as failure:
                journal = self._context.journal(f"Worker {self._context.node_name}", CHECK)
                journal.error(f"Error synchronizing integrity: {failure}")
                self._worker.note_result("failed", str(failure))
                return
        await self._worker.check(peer)

    # ---- what makes it earlier -----------------------------------------------------------------------------------------

    def master_changed(self, payload: bytes) -> None:
        """`syn_changed`. Raises ClusterError 1000."""
        changed = parse_changed(payload)
        current = self._context.manifests.current
        if current is None or current.content_digest != changed.digest or self._worker.is_syncing:
            self._pace.wake(random.uniform(0, changed.spread_ms / 1000))

    def check_now(self) -> None:
        """A person asks for it."""
        self._pace.wake()

    def _own_changed(self, scan: Scan) -> None:
        """Files of this node are not what they were, and it was not a sync: somebody tampers with them."""
        if not self._by_digest or self._worker.is_syncing or scan.content_digest == self._digest.told:
            return
        now = time.monotonic()
        is_first = self._changed_at is None or now - self._changed_at > CALM_S
        self._changed_at = now
        self._pace.wake(0.0 if is_first else AGAIN_S)

    def _sync_ended(self, changed: int) -> None:
        """The master learns at once that this node is equal, or sends what is still missing."""
        if self._by_digest and changed and self._digest.is_getting_anywhere:
            self._pace.wake()
