"""When a worker checks: at intervals as stock does, and with a clusterd master as soon as a file changes on either
side."""

import random

from clusterd.errors import ClusterError
from clusterd.sync.integrity.digest_worker import DigestWorker
from clusterd.sync.integrity.worker import IntegrityWorker
from clusterd.sync.links.caps import DIGEST
from clusterd.sync.links.context import Context
from clusterd.sync.links.peer import Peer
from clusterd.sync.manifest.scan import Scan
from clusterd.sync.ports.net_port import LinkClosed
from clusterd.sync.ports.tag_log import CHECK, GUARD
from clusterd.sync.ports.troubles import round_survives
from clusterd.sync.ports.wake_timer import WakeTimer
from clusterd.wire.payloads import parse_changed

CALM_S = 5.0
AGAIN_S = 1.0
"""A change of this node's own files is healed at once. Further ones within CALM_S are healed after AGAIN_S, so that a
program that writes them again and again does not keep nodes busy."""
WAIT_S = 0.1
"""How long until a master that cannot check this node yet is asked again. Doubled each time, up to the interval."""
NO_ANSWER = 3020


class IntegrityRounds:
    """The rounds of one worker; `run` ends with the link to the master."""

    def __init__(self, context: Context, worker: IntegrityWorker, digest: DigestWorker) -> None:
        self._context = context
        self._worker = worker
        self._digest = digest
        self._pace = WakeTimer()
        self._by_digest = False
        self._is_checking = False
        self._changed_at: float | None = None
        self._wait_s = WAIT_S
        self._was_late = False
        worker.sync_ended = self._sync_ended
        context.manifests.changed.append(self._own_changed)

    @property
    def _interval_s(self) -> float:
        return self._context.settings.worker.sync_integrity_s

    async def run(self, peer: Peer) -> None:
        """Runs rounds of checks. The next one begins `sync_integrity` seconds after the end of the one before (wire.md
        1.5). With a master that knows digests the first round begins at once."""
        self._pace = WakeTimer()
        self._by_digest = self._was_late = False
        self._wait_s = WAIT_S
        self._worker.abandon_round()
        try:
            self._by_digest = DIGEST in await peer.agreed()
            if not self._by_digest:
                await self._pace.rest(self._interval_s)
            was_woken = False
            log = self._context.tag_log(self._context.tag, GUARD)
            while True:
                with round_survives(log, self._context.troubles, "checks of this node's files"):
                    await self._round(peer, was_woken)
                was_woken = await self._pace.rest(self._interval_s)
        finally:
            self._by_digest = self._is_checking = False

    async def _round(self, peer: Peer, was_woken: bool) -> None:
        if self._worker.is_syncing:
            # The event that woke us may have missed the package that is on its way.
            self._was_late = self._was_late or was_woken
            return
        self._was_late = False
        self._is_checking = True
        try:
            await self._check(peer)
        except Exception as failure:
            self._worker.note_result("failed", f"an unexpected failure, see the log: {failure}")
            raise
        finally:
            self._is_checking = False
        if not self._by_digest:
            return
        if self._digest.must_wait:
            self._pace.wake(self._wait_s)
            self._wait_s = min(2 * self._wait_s, self._interval_s)
        else:
            self._wait_s = WAIT_S
        current = self._context.manifests.current
        if current is not None and current.content_digest != self._digest.asked:
            self._own_changed(current)

    async def _check(self, peer: Peer) -> None:
        if self._by_digest:
            try:
                if await self._digest.check(peer):
                    return
            except ClusterError as failure:
                self._worker.note_result("failed", str(failure))
                self._worker.abandon_round()
                if isinstance(failure, LinkClosed):
                    return  # net says so
                log = self._context.tag_log(self._context.tag, CHECK)
                log.error(f"Error synchronizing integrity: {failure}")
                if failure.code == NO_ANSWER:
                    return
                # A master that gives an invalid answer is asked in the stock way, which every master knows.
        await self._worker.check(peer)

    # ---- what makes it earlier ---------------------------------------------------------------------------------------

    def master_changed(self, payload: bytes) -> None:
        """`syn_changed`. Raises ClusterError 1000."""
        changed = parse_changed(payload)
        current = self._context.manifests.current
        if current is None or current.content_digest != changed.digest or self._worker.is_syncing:
            self._pace.wake(random.uniform(0, changed.spread_ms / 1000))

    def check_now(self) -> None:
        """Checks now, because an operator asked for it."""
        self._pace.wake()

    def _own_changed(self, scan: Scan) -> None:
        """Called when files of this node have changed without a sync: something tampers with them. A change found by a
        check is dealt with by that check."""
        if not self._by_digest or self._is_checking or self._worker.is_syncing:
            return
        if scan.content_digest == self._digest.told:
            return
        now = self._context.clock.monotonic()
        is_first = self._changed_at is None or now - self._changed_at > CALM_S
        self._changed_at = now
        self._pace.wake(0.0 if is_first else AGAIN_S)

    def _sync_ended(self, changed: int) -> None:
        """The check tells the master at once that this node is equal, or makes it send what is still missing."""
        if self._was_late or (self._by_digest and changed and self._digest.is_getting_anywhere):
            self._pace.wake()
