"""The master's side of checks by digest, which two clusterd nodes use instead of sending metadata, and of telling
workers about changes.

One message settles an idle check, whatever the number of files. Otherwise the worker sends its rows of the buckets that
differ, and the master sends a package in the stock way.
"""

import uuid

from clusterd.errors import ClusterError
from clusterd.messages.packages import CompareBuckets, Compared, ListDifference
from clusterd.sync.integrity.master import IntegrityMaster
from clusterd.sync.integrity.push import ManifestStep, PushSender
from clusterd.sync.links.caps import DIGEST, PUSH
from clusterd.sync.links.context import Context
from clusterd.sync.links.incoming_strings import SealViolation
from clusterd.sync.links.peer import Peer
from clusterd.sync.manifest.scan import Scan
from clusterd.sync.ports.net_port import LinkClosed
from clusterd.sync.ports.pool_port import JobError
from clusterd.sync.ports.tag_log import GUARD
from clusterd.wire import commands
from clusterd.wire.payloads import (
    Counts,
    Listed,
    build_changed,
    build_differs,
    build_listed,
    parse_digest_check,
    parse_listed,
)
from ipc.descriptor import Descriptor

SPREAD_MS = 2
MOST_SPREAD_MS = 500
"""Workers that are told of a change wait a random time of up to this many milliseconds for each connected worker, so
that they do not all ask at once."""
DIFFERENCE_S = 50.0
"""How long a worker may take to say what differs: it scans its files first."""


class DigestMaster:
    """Uses the permissions and records of the IntegrityMaster. Owns the list of workers that must be told of a
    change."""

    def __init__(self, context: Context, integrity: IntegrityMaster) -> None:
        self._context = context
        self._integrity = integrity
        self._ahead = PushSender(context, integrity)
        self._telling: dict[int, str] = {}
        self._comparing: set[int] = set()
        self._differences: dict[str, int] = {}

    def forget(self, peer: Peer) -> None:
        """Forgets a worker whose link has ended, and what ran on it. A task that was cancelled before its first step
        cannot clean up, so this does it."""
        self._telling.pop(peer.link, None)
        for difference in [path for path, link in self._differences.items() if link == peer.link]:
            self._remove(difference)

    def _remove(self, difference: str) -> None:
        self._differences.pop(difference, None)
        self._context.spool.remove(difference)

    # ---- checks ------------------------------------------------------------------------------------------------------

    def check(self, peer: Peer, payload: bytes) -> bytes:
        """`syn_digest`: answers that the digests are equal, or with ours. Refuses before the first scan is complete
        (C7) and while a check or sync of the same worker runs. Raises ClusterError 1000."""
        asked = parse_digest_check(payload)
        scan = self._context.manifests.current
        if scan is None or not (asked.dry or self._integrity.is_free(peer.name)):
            return commands.DIGEST_WAIT
        is_equal = asked.digest == scan.content_digest
        if not asked.dry:
            self._note(peer, asked.digest, scan)
        return commands.DIGEST_EQUAL if is_equal else build_differs(scan.content_digest, scan.buckets)

    def _note(self, peer: Peer, digest: str, scan: Scan) -> None:
        """Records that a check found the worker's files equal to those of `digest`."""
        now = self._context.clock.wall()
        record = self._integrity.record(peer.name)
        record.digest = digest
        self._context.tag_log(peer.tag, GUARD).debug(
            f"The worker has files of content digest {digest}; those of this node have {scan.content_digest}."
        )
        if digest == scan.content_digest:
            self._integrity.note_unknown(peer, ())
            self._integrity.begin_without_package(peer, commands.SYN_DIGEST)
            self._integrity.checked(peer, scan, Compared(scan.files, 0, 0, 0, []), 0.0, now)
            return
        made_at = self._integrity.made_at(digest)
        if made_at is not None:  # else a package is being applied, or it has files of its own
            record.whole_of = made_at
        if record.behind_since is None:
            record.is_behind(self._context.clock.monotonic())

    async def compare(self, peer: Peer, payload: bytes, body: list[Descriptor] | None) -> bytes:
        """`syn_buckets`: compares at once, answers how many files differ, and sends them afterwards. One at a time for
        each worker.

        Raises ClusterError, JobError, BadSeal."""
        scan = self._context.manifests.current
        if scan is None or peer.link in self._comparing:
            return commands.DIGEST_WAIT
        self._comparing.add(peer.link)
        try:
            return await self._compare(peer, scan, payload, body)
        finally:
            self._comparing.discard(peer.link)

    async def _compare(self, peer: Peer, scan: Scan, payload: bytes, body: list[Descriptor] | None) -> bytes:
        context, permissions = self._context, self._integrity.permissions
        holder = str(uuid.uuid4())
        is_free = self._integrity.is_free(peer.name)
        if is_free:
            permissions.begin(peer.name, holder, context.clock.awake())
        started, started_at = self._context.clock.monotonic(), context.clock.wall()
        difference = context.spool.new_path("difference")
        goes_on = False
        try:
            job = CompareBuckets(context.spool.state_dir, scan.root_digest, difference, payload, body)
            # What came in slabs has thousands of rows.
            compared = await context.jobs.run(job, lane="chunk" if body is None else "long")
            if peer.gone.is_set():  # and `forget` was called: nobody would end what begins now
                raise LinkClosed(commands.SYN_BUCKETS)
            if compared.dry:
                return await self._listed(compared, difference)
            self._integrity.note_unknown(peer, compared.unknown)
            if not is_free:
                return commands.DIGEST_WAIT
            count = compared.missing + compared.shared + compared.extra
            if not count and compared.against != scan.content_digest:
                # Our manifest has changed since the worker asked. Buckets that the worker sent no rows of may differ
                # now.
                return commands.DIGEST_WAIT
            self._integrity.begin_without_package(peer, commands.SYN_BUCKETS)
            self._integrity.checked(peer, scan, compared, self._context.clock.monotonic() - started, started_at)
            if not count:
                return commands.DIGEST_EQUAL
            goes_on = True
            self._differences[difference] = peer.link
            peer.spawn(self._send(peer, compared, difference, scan, holder))
            return f"sync {count}".encode()
        except JobError as failure:
            if failure.kind == "bad-seal":
                raise SealViolation from failure
            if not peer.gone.is_set():
                self._integrity.failed(peer, failure)
            raise
        finally:
            if not goes_on:
                permissions.end(peer.name, holder)
                context.spool.remove(difference)

    async def _send(self, peer: Peer, compared: Compared, difference: str, scan: Scan, holder: str) -> None:
        try:
            await self._integrity.sync(peer, compared, difference, scan)
        except (ClusterError, JobError, OSError) as failure:
            self._integrity.failed(peer, failure)
        finally:
            self._integrity.permissions.end(peer.name, holder)
            self._remove(difference)

    async def _listed(self, compared: Compared, difference: str) -> bytes:
        """Returns what `clusterd diff` shows: the counts, and the first paths of each group."""
        found = await self._context.jobs.run(ListDifference(difference), urgent=True)
        counts = Counts(compared.missing, compared.shared, compared.extra)
        return build_listed(Listed(counts, found.missing, found.shared, found.extra))

    # ---- changes -----------------------------------------------------------------------------------------------------

    def manifest_changed(self, scan: Scan) -> None:
        """Sends the changed files to every worker that supports this, and tells the other clusterd workers of the
        change. A worker that has not answered the previous notice gets the newest one next."""
        self._ahead.manifest_changed(scan)
        workers = [peer for peer in self._context.roster.workers() if PUSH in peer.capabilities]
        spread_ms = min(MOST_SPREAD_MS, SPREAD_MS * len(workers))
        for peer in workers:
            record = self._integrity.record(peer.name)
            if record.digest == scan.content_digest:
                continue
            ahead = self._ahead.begin(peer)
            if ahead is not None:
                peer.spawn(self._send_ahead(peer, *ahead, spread_ms))
            else:
                self._begin_telling(peer, scan.content_digest, spread_ms)

    def _begin_telling(self, peer: Peer, digest: str, spread_ms: int) -> None:
        is_telling = peer.link in self._telling
        self._telling[peer.link] = digest
        if not is_telling:
            peer.spawn(self._tell(peer, spread_ms))

    async def _send_ahead(self, peer: Peer, step: ManifestStep, holder: str, spread_ms: int) -> None:
        is_sent = await self._ahead.send(peer, step, holder)
        if not is_sent and self._ahead.is_last(step):  # else it was told of a later one already
            self._begin_telling(peer, step.now.content_digest, spread_ms)

    async def _tell(self, peer: Peer, spread_ms: int) -> None:
        told = ""
        try:
            while told != self._telling[peer.link]:
                told = self._telling[peer.link]
                await peer.request(commands.SYN_CHANGED, build_changed(told, spread_ms))
        except ClusterError:
            # The worker's next regular check finds the same.
            return
        finally:
            self._telling.pop(peer.link, None)

    async def difference(self, peer: Peer) -> bytes:
        """Returns what a connected worker would have to change, as JSON. The worker compares itself with us; nothing is
        changed.

        Raises ClusterError."""
        if DIGEST not in peer.capabilities:
            raise ClusterError(
                1000,
                f"{peer.name} cannot be asked: it is a stock node, or its capability digest is off; "
                "`clusterd status` shows its last check",
            )
        listed = parse_listed(await peer.request(commands.GET_DIFF, timeout_s=DIFFERENCE_S))
        return build_listed(listed, peer.name)
