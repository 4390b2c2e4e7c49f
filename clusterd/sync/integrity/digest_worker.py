"""The worker's side of a check by digest (capability `digest`): one message when nothing differs, two when something
does."""

from clusterd.errors import ClusterError
from clusterd.messages.packages import PickBuckets
from clusterd.sync.integrity.worker import IntegrityWorker
from clusterd.sync.links.context import Context
from clusterd.sync.links.outgoing import Progress
from clusterd.sync.links.peer import Peer
from clusterd.sync.manifest.scan import Scan, ScanFailed
from clusterd.sync.ports.pool_port import JobError, lane_for
from clusterd.sync.ports.tag_log import CHECK, GUARD
from clusterd.wire import commands
from clusterd.wire.frame import REQUEST_CHUNK
from clusterd.wire.payloads import (
    Differs,
    Listed,
    build_digest_check,
    build_listed,
    parse_differs,
    parse_listed,
    parse_sync_count,
)
from hashing.exchange import rows_in_differing_buckets
from hashing.segment import Segment


class Remains:
    """Whether syncs make progress: remembers the master's digest and the number of different files of the last
    check."""

    def __init__(self) -> None:
        self._last: tuple[str, int] | None = None

    def gets_less(self, digest: str, count: int) -> bool:
        """Records that a check found `count` files different from the manifest `digest`. Returns True for fewer files
        than before, or for another manifest."""
        before, self._last = self._last, (digest, count)
        return before is None or before[0] != digest or count < before[1]

    def nothing(self) -> None:
        self._last = None


class DigestWorker:
    """Checks of this node by digest. Scans, log lines and results are those of its IntegrityWorker."""

    def __init__(self, context: Context, worker: IntegrityWorker) -> None:
        self._context = context
        self._worker = worker
        self._remains = Remains()
        self.told = ""
        """Content digest of the master's manifest in its last answer."""
        self.asked = ""
        """Content digest of this node's manifest at the last check."""
        self.must_wait = False
        """Whether the master was not able to answer the last check yet."""
        self.is_getting_anywhere = True
        """False when the last check found the same files different as the one before. Asking again at once may change
        nothing."""

    @property
    def _tag(self) -> str:
        return self._context.tag

    async def check(self, peer: Peer) -> bool:
        """Does one round. Returns False when the master must be asked the stock way, because too much differs for one
        message.

        Raises ClusterError when the master refuses, gives an invalid answer, or is disconnected."""
        log = self._context.tag_log(self._tag, CHECK)
        started = self._context.clock.monotonic()
        progress = Progress(peer.name, "integrity check", "scanning", self._context.clock.wall())
        self._context.progress.append(progress)
        self.must_wait = False
        current = self._context.manifests.current
        self.asked = "" if current is None else current.content_digest
        try:
            scan = await self._worker.scan(log)
            self.asked = scan.content_digest
            answer = await self._ask(peer, scan, dry=False)
            if answer == commands.DIGEST_WAIT:
                self._wait()
                return True
            if isinstance(answer, Differs):
                return await self._tell(peer, scan, answer)
            self.told = scan.content_digest
            self._worker.begin_without_package(started)
            self._equal()
        except (ScanFailed, JobError, OSError) as failure:
            await self._worker.could_not_check(peer, failure)
        finally:
            self._context.progress.remove(progress)
        return True

    async def _ask(self, peer: Peer, scan: Scan, *, dry: bool) -> Differs | bytes:
        answer = await peer.request(commands.SYN_DIGEST, build_digest_check(scan.content_digest, dry=dry))
        if answer in (commands.DIGEST_EQUAL, commands.DIGEST_WAIT):
            return answer
        return parse_differs(answer)

    async def _tell(self, peer: Peer, scan: Scan, theirs: Differs) -> bool:
        self.told = theirs.digest
        answer = await self._told(peer, scan, theirs, dry=False)
        if answer is None:
            return False
        if answer == commands.DIGEST_EQUAL:
            self._equal()
        elif answer == commands.DIGEST_WAIT:
            self._wait()
        else:
            self.is_getting_anywhere = self._remains.gets_less(theirs.digest, parse_sync_count(answer))
        return True

    def _wait(self) -> None:
        self.must_wait = True
        self._context.tag_log(self._tag, GUARD).debug(
            "The master cannot check this node now: it scans, or deals with an earlier check."
        )

    async def _told(self, peer: Peer, scan: Scan, theirs: Differs, *, dry: bool) -> bytes | None:
        """Returns the master's answer to our rows of the buckets that differ; None if the rows do not fit into one
        frame."""
        context = self._context
        started = self._context.clock.monotonic()
        out = context.spool.new_path("buckets")
        try:
            job = PickBuckets(
                context.spool.state_dir, scan.root_digest, scan.buckets, theirs.buckets, theirs.digest, dry, out
            )
            rows = rows_in_differing_buckets(scan.files, scan.buckets, theirs.buckets)
            picked = await context.jobs.run(job, lane=lane_for(rows=rows))
            if picked.size > REQUEST_CHUNK:
                return None
            if not dry:
                self._worker.begin_without_package(started)
            timeout_s = context.settings.communication.timeout_receiving_file_s
            if picked.payload:
                return await peer.request(commands.SYN_BUCKETS, picked.payload, timeout_s=timeout_s)
            body = await context.sender.seal(b"", [Segment(out, 0, picked.size)])
            return await peer.request(commands.SYN_BUCKETS, body=body, timeout_s=timeout_s)
        finally:
            context.spool.remove(out)

    def _equal(self) -> None:
        self._remains.nothing()
        self.is_getting_anywhere = True
        self._worker.checked_equal()

    async def difference(self, peer: Peer) -> bytes:
        """Returns what this node would have to change, as JSON; nothing is changed.

        Raises ClusterError, ScanFailed, JobError, OSError."""
        scan = await self._context.manifests.scan()
        answer = await self._ask(peer, scan, dry=True)
        listed: bytes | None = answer if isinstance(answer, bytes) else await self._told(peer, scan, answer, dry=True)
        if listed is None:
            raise ClusterError(1000, "too many files differ to list them: let the node sync first")
        if listed == commands.DIGEST_WAIT:
            raise ClusterError(1000, "the master scans for the first time, or compares already: ask again in a moment")
        return build_listed(
            Listed() if listed == commands.DIGEST_EQUAL else parse_listed(listed), self._context.node_name
        )
