"""Sends changes at once to workers that have the files of the previous manifest (capability `ahead`). These workers
need not be told of the change, ask, and say what they have. A regular check by the worker follows each package and
finds whatever else differs."""

import asyncio
import functools
import os
import uuid

from clusterd.errors import ClusterError, in_passing
from clusterd.messages.packages import Compared, CompareManifests
from clusterd.sync.integrity.master import IntegrityMaster
from clusterd.sync.links.caps import AHEAD
from clusterd.sync.links.context import Context
from clusterd.sync.links.peer import Peer
from clusterd.sync.manifest.scan import Scan
from clusterd.sync.ports.pool_port import JobError, lane_for
from clusterd.sync.ports.tag_log import GUARD
from clusterd.wire import commands
from hashing.exchange import rows_in_differing_buckets


class ManifestStep:
    """The step from one manifest to the next. It is compared once, when the first worker needs it."""

    def __init__(self, before: Scan, now: Scan, difference: str) -> None:
        """`difference`: the spool file that the comparison makes."""
        self.before = before
        self.now = now
        self.difference = difference
        self.comparing: asyncio.Task[Compared] | None = None


class PushSender:
    """Owns the latest step. Sends with the permissions and records of the IntegrityMaster."""

    def __init__(self, context: Context, integrity: IntegrityMaster) -> None:
        self._context = context
        self._integrity = integrity
        self._scan: Scan | None = None
        self._step: ManifestStep | None = None

    def manifest_changed(self, scan: Scan) -> None:
        """Called when another manifest has become current."""
        if self._step is not None:
            self._context.spool.remove(self._step.difference)
        before, self._scan = self._scan, scan
        self._step = None if before is None else ManifestStep(before, scan, self._context.spool.new_path("step"))

    def is_last(self, step: ManifestStep) -> bool:
        """Returns whether this step leads to the current manifest."""
        return step is self._step

    def begin(self, peer: Peer) -> tuple[ManifestStep, str] | None:
        """Returns the step that this worker can make now, and the holder of its permission, for `send`. None if the
        worker must check by itself, because its files are not known here, or because a check or sync of it runs."""
        step, permissions = self._step, self._integrity.permissions
        if (
            step is None
            or AHEAD not in peer.capabilities
            or self._integrity.record(peer.name).digest != step.before.content_digest
            or not self._integrity.is_free(peer.name)
        ):
            return None
        holder = str(uuid.uuid4())
        permissions.begin(peer.name, holder, self._context.clock.awake())
        return step, holder

    async def send(self, peer: Peer, step: ManifestStep, holder: str) -> bool:
        """Returns False if the worker has to be told of the change instead: there is nothing to send, or sending
        failed."""
        context, record = self._context, self._integrity.record(peer.name)
        own = context.spool.new_path("difference")
        started, started_at = self._context.clock.monotonic(), context.clock.wall()
        try:
            compared = await self._compared(step)
            if not compared.missing + compared.shared + compared.extra:
                return False
            os.link(step.difference, own)
            self._integrity.begin_without_package(peer, commands.SYN_DIGEST)
            self._integrity.checked(peer, step.now, compared, self._context.clock.monotonic() - started, started_at)
            await self._integrity.sync(peer, compared, own, step.now, ahead=True)
            return record.result != "failed"
        except (ClusterError, JobError, OSError) as failure:
            # Most likely the next manifest was published meanwhile, and the worker is told of that one. Otherwise this
            # node cannot make the package.
            if isinstance(failure, OSError) or (isinstance(failure, JobError) and failure.kind == "disk"):
                self._integrity.failed(peer, failure)
            log = context.tag_log(peer.tag, GUARD)
            log.debug(f"What has changed was not sent ahead, the worker is told of it: {in_passing(failure)}")
            return False
        finally:
            self._integrity.permissions.end(peer.name, holder)
            context.spool.remove(own)

    async def _compared(self, step: ManifestStep) -> Compared:
        if step.comparing is None:
            before, now = step.before, step.now
            job = CompareManifests(
                self._context.spool.state_dir,
                before.root_digest,
                before.buckets,
                now.root_digest,
                now.buckets,
                step.difference,
            )
            rows = rows_in_differing_buckets(max(before.files, now.files), before.buckets, now.buckets)
            step.comparing = asyncio.create_task(self._context.jobs.run(job, lane=lane_for(rows=rows)))
            step.comparing.add_done_callback(functools.partial(self._ended, step))
        compared = await asyncio.shield(step.comparing)
        if not self.is_last(step):
            raise ClusterError(1000, "the manifest has changed again")
        return compared

    def _ended(self, step: ManifestStep, comparing: asyncio.Task[Compared]) -> None:
        """All askers may have gone."""
        if not comparing.cancelled():
            comparing.exception()
        if not self.is_last(step):
            # The difference file is removed together with its step; this one was made later.
            self._context.spool.remove(step.difference)
