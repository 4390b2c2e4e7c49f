"""The master's side of integrity: local scans, permissions, checks of workers, packages to them (wire.md 4.6, 4.7,
5)."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Sequence

from clusterd.errors import ClusterError, in_passing
from clusterd.messages.packages import Compared
from clusterd.sync.integrity.comparisons import Comparisons
from clusterd.sync.integrity.events import sent_event
from clusterd.sync.integrity.leftovers import Leftovers
from clusterd.sync.integrity.package_store import PackageStore
from clusterd.sync.integrity.permission import IntegrityPermissions
from clusterd.sync.integrity.room import Rooms
from clusterd.sync.integrity.waiting import wait_for_file
from clusterd.sync.links.caps import asks_as_stock, method_for
from clusterd.sync.links.context import Context
from clusterd.sync.links.incoming import Awaited
from clusterd.sync.links.outgoing import Progress
from clusterd.sync.links.peer import Peer
from clusterd.sync.links.records import WorkerRecord
from clusterd.sync.links.tags import MASTER, worker_tag
from clusterd.sync.manifest.scan import Scan, ScanFailed
from clusterd.sync.ports.pool_port import JobError
from clusterd.sync.ports.tag_log import CHECK, GUARD, SYNC
from clusterd.sync.ports.troubles import round_survives
from clusterd.wire import commands
from clusterd.wire.results import shorten

KEPT_RECORDS = 1000
KEPT_MANIFESTS = 256
"""How many earlier manifests are remembered with the times at which they were current: a worker with the files of one
of them is behind since then."""


def is_task_id(text: str) -> bool:
    """Matches a UUID in its usual form."""
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False


def _subject(peer: Peer) -> str:
    return f"files for {peer.name}"


def _unknown(peer: Peer) -> str:
    return f"items of {peer.name}"


class IntegrityMaster:
    """Owns permissions and records of all workers. A worker's check runs as an aio task of its peer."""

    def __init__(self, context: Context, may_begin: Callable[[], Awaitable[None]] | None = None) -> None:
        """`may_begin`: ends when this node may show its files to workers; None: it may."""
        self._context = context
        self._may_begin = may_begin
        self._packages = PackageStore(context)
        self._leftovers = Leftovers(context)
        self._rooms = Rooms(context)
        self._comparisons = Comparisons(context.jobs, context.spool)
        self.permissions = IntegrityPermissions(context.settings.master.max_locked_integrity_time_s)
        self.records: dict[str, WorkerRecord] = {}
        self._made: dict[str, float] = {}
        """When each of the last manifests was made, by content digest; the newest last. Wall-clock seconds."""

    def made_at(self, digest: str) -> float | None:
        """Returns when the manifest with this content digest was made, None if that is not known."""
        return self._made.get(digest)

    def record(self, name: str) -> WorkerRecord:
        return self.records.setdefault(name, WorkerRecord())

    async def run(self) -> None:
        """Scans the node's files for ever, with `recalculate_integrity` seconds between scans (task "Local
        integrity")."""
        context = self._context
        log = context.tag_log(MASTER, GUARD)
        while True:
            with round_survives(log, context.troubles, "scan of this node's files"):
                await self.scan_once()
            await self._leftovers.remove(MASTER)
            await asyncio.sleep(context.settings.master.recalculate_integrity_s)

    async def scan_once(self, *, everything: bool = False) -> Scan | None:
        """Does one local scan with its log lines; returns None if it failed. `everything`: walk, without relying on
        file events."""
        if self._may_begin is not None and self._context.manifests.current is None:
            await self._may_begin()
        log = self._context.tag_log(MASTER, "Local integrity")
        log.info("Starting.")
        started = self._context.clock.monotonic()
        try:
            manifests = self._context.manifests
            scan = await (manifests.walk() if everything else manifests.scan())
        except ScanFailed as failure:
            log.error(f"Error calculating local file integrity: {failure}")
            return None
        finally:
            self.permissions.scan_ended()
        log.collected(scan.notes)
        log.info(
            f"Finished in {self._context.clock.monotonic() - started:.3f}s. Calculated metadata of {scan.files} files."
        )
        return scan

    # ---- requests of a worker ----------------------------------------------------------------------------------------

    async def ask_permission(self, peer: Peer) -> bytes:
        """`syn_i_w_m_p`. No worker may check before the first scan is complete (C7)."""
        asks_as_stock(peer)
        if self._context.manifests.current is None:
            return b"False"
        self.permissions.max_locked_s = limit = self._context.settings.master.max_locked_integrity_time_s
        answer = self.permissions.ask(peer.name, self._context.clock.awake())
        if answer.released:
            await self._context.net.main_line(
                "WARNING",
                peer.tag,
                "Automatically releasing Integrity check permissions flag (b'syn_i_w_m_p') after being locked out for "
                f"more than {limit:g}s.",
            )
        return b"True" if answer.granted else b"False"

    def is_free(self, name: str) -> bool:
        """Returns whether no check or sync of this worker runs. Releases a permission that was held for too long."""
        self.permissions.max_locked_s = limit_s = self._context.settings.master.max_locked_integrity_time_s
        now = self._context.clock.awake()
        if self.permissions.release_overdue(name, now):
            text = f"The permission of a check was held for more than {limit_s:g} s and is released."
            self._context.tag_log(worker_tag(name), GUARD).warning(text)
        return self.permissions.is_free(name, now)

    def begin_check(self, peer: Peer, payload: bytes) -> str:
        """`syn_i_w_m`: answers a task id, and starts a task that waits for the worker's package."""
        asked = payload.decode(errors="replace")
        task_id = asked if is_task_id(asked) and peer.incoming.awaited(asked) is None else str(uuid.uuid4())
        if peer.incoming.awaited_count >= 2:
            raise ClusterError(1000, "two integrity checks of this worker wait for their files already")
        self.permissions.begin(peer.name, task_id, self._context.clock.awake())
        self._context.tag_log(peer.tag, CHECK).info("Starting.")
        peer.spawn(self._check(peer, task_id, peer.incoming.expect(task_id)))
        return task_id

    def worker_failed(self, peer: Peer, task_id: str | None, error: ClusterError) -> None:
        """`syn_i_w_m_r`: the worker gave up; its permission is released at once (wire.md 4.7)."""
        self.permissions.end(peer.name)
        awaited = None if task_id is None else peer.incoming.awaited(task_id)
        if awaited is not None and not awaited.file.done():
            awaited.file.set_exception(error)
            return
        self._context.tag_log(peer.tag, SYNC).error(f"Error in synchronization process: {error}")
        self.record(peer.name).failed(str(error))
        self._rooms.refused(peer.name, error)

    def manifest_changed(self, scan: Scan) -> None:
        """Called when the content of our manifest has changed. This counts as the end of a local scan: every worker
        gets one more permission."""
        self.permissions.scan_ended()
        self._made.pop(scan.content_digest, None)
        self._made[scan.content_digest] = scan.ended_at - scan.duration_s
        if len(self._made) > KEPT_MANIFESTS:
            del self._made[next(iter(self._made))]
        now = self._context.clock.wall()
        for record in self.records.values():
            if record.digest == scan.content_digest:
                record.is_equal(scan.content_digest, now)
            else:
                record.is_behind(self._context.clock.monotonic())

    def forget(self, peer: Peer) -> None:
        """Called when the worker's link has ended. Its record stays for `status`; the oldest records are dropped when
        there are very many names."""
        self.permissions.end(peer.name)
        self._context.troubles.end(_subject(peer))
        self._context.troubles.end(_unknown(peer))
        self._rooms.forget(peer.name)
        if len(self.records) > KEPT_RECORDS:
            self.records.pop(peer.name, None)

    # ---- one check ---------------------------------------------------------------------------------------------------

    async def _check(self, peer: Peer, task_id: str, awaited: Awaited) -> None:
        context = self._context
        log = context.tag_log(peer.tag, CHECK)
        started, started_at = self._context.clock.monotonic(), context.clock.wall()
        difference = ""
        try:
            package = await wait_for_file(context, peer, awaited, log)
            sha256 = awaited.file.result().digest
            scan = context.manifests.current
            if scan is None:
                raise ClusterError(1000, "no local scan is complete yet")
            difference = context.spool.new_path("difference")
            compared = await self._comparisons.compare(package, sha256, scan.root_digest, difference)
            context.spool.remove(package)
            self.note_unknown(peer, compared.unknown)
            if self.checked(peer, scan, compared, self._context.clock.monotonic() - started, started_at):
                await self.sync(peer, compared, difference, scan)
            else:
                await peer.request(commands.SYN_M_C_OK)
        except (ClusterError, JobError, OSError) as failure:
            self.failed(peer, failure)
        finally:
            self.permissions.end(peer.name, task_id)
            peer.incoming.forget(task_id)
            arrived = awaited.arrived
            context.spool.remove(*(path for path in ("" if arrived is None else arrived.place, difference) if path))

    def begin_without_package(self, peer: Peer, command: str) -> None:
        """Writes the log lines of a check by package for a check by `command`, for which the worker sent none. Readers
        of the log, and tests of its order, know the stages of a check."""
        log = self._context.tag_log(peer.tag, CHECK)
        log.info("Starting.")
        log.debug(f"Received file from worker: '{command}'")

    def checked(self, peer: Peer, scan: Scan, compared: Compared, took_s: float, started_at: float) -> int:
        """Records the end of a check against `scan` that began at `started_at` (wall clock), and how many files
        differ."""
        record, now = self.record(peer.name), self._context.clock.wall()
        record.check_started_at, record.check_ended_at = started_at, now
        count = compared.missing + compared.shared + compared.extra
        self._context.tag_log(peer.tag, CHECK).info(
            f"Finished in {took_s:.3f}s. Received metadata of {compared.received} files. "
            + ("Sync required." if count else "Sync not required.")
        )
        current = self._context.manifests.current
        if count:
            record.is_behind(self._context.clock.monotonic(), count)
            return count
        self._context.troubles.end(_subject(peer))
        self._rooms.equal(peer.name)
        if current is None or current.content_digest == scan.content_digest:
            record.is_equal(scan.content_digest, now)
        else:  # ours became another one while they were compared
            record.digest, record.whole_of = scan.content_digest, self.made_at(scan.content_digest)
            record.is_behind(self._context.clock.monotonic())
        return count

    def note_unknown(self, peer: Peer, items: Sequence[str]) -> None:
        """Logs once, and shows in `status`, which directories this worker synchronises and this master does not."""
        log = self._context.tag_log(peer.tag, GUARD)
        if items:
            text = (
                f"{peer.name} has files of {shorten(', '.join(items))}, which this node's cluster.json does not name: "
                f"they are not synchronised. Name it under `files` of this node, too, or of {peer.name} no more."
            )
            self._context.troubles.begin(_unknown(peer), text, log)
        else:
            text = f"All files of {peer.name} are of directories that this node synchronises."
            self._context.troubles.end(_unknown(peer), text, log)

    def failed(self, peer: Peer, failure: Exception) -> None:
        """Records that a check of this worker failed, or that its package could not be sent. A failure of this node
        itself is logged once and shown by `status` until it is over."""
        self.record(peer.name).failed(str(failure))
        log = self._context.tag_log(peer.tag, CHECK)
        if isinstance(failure, ClusterError):
            log.error(str(failure))
        elif not self._context.troubles.begin(_subject(peer), f"Files for {peer.name}: {failure}", log, "ERROR"):
            self._context.tag_log(peer.tag, GUARD).debug(in_passing(failure))

    async def sync(self, peer: Peer, compared: Compared, difference: str, scan: Scan, *, ahead: bool = False) -> None:
        """Sends the worker what differs from `scan`; `ahead`: without a request of the worker.

        Raises JobError, OSError, LinkClosed. A package that could not be sent is only logged and recorded."""
        started, record = self._context.clock.monotonic(), self.record(peer.name)
        record.sent_bytes = 0
        result, why = "failed", "broken off"
        try:
            await self._sync(peer, compared, difference, scan.root_digest)
            result, why = record.result, record.detail
        except (ClusterError, JobError, OSError) as failure:
            why = str(failure)
            raise
        finally:
            seconds, what = self._context.clock.monotonic() - started, "ahead" if ahead else "files"
            self._context.events.tell(sent_event(peer.name, record, what, scan.content_digest, seconds, result, why))

    async def _sync(self, peer: Peer, compared: Compared, difference: str, manifest: str) -> None:
        context, record = self._context, self.record(peer.name)
        log = context.tag_log(peer.tag, SYNC)
        started = self._context.clock.monotonic()
        record.sync_started_at = context.clock.wall()
        record.digest = ""
        log.info("Starting.")
        log.info(
            f"Files to create in worker: {compared.missing} | Files to update in worker: {compared.shared} | "
            f"Files to delete in worker: {compared.extra}"
        )
        total = compared.missing + compared.shared + compared.extra
        what = "files and 'files_metadata.json'" if compared.raw_sizes else "'files_metadata.json'"
        log.debug(f"Compressing {what} of {total} files.")
        progress = Progress(peer.name, "integrity", "packing", record.sync_started_at)
        progress.total_bytes = sum(compared.raw_sizes)
        context.progress.append(progress)
        built, fitted, waits = None, "", ""
        try:
            compared, fitted, waits = await self._rooms.fit(peer, compared, difference)
            progress.total_bytes = sum(compared.raw_sizes)
            limit = int(peer.zip_limit.current)
            built = await self._packages.package(fitted, compared, manifest, limit, method_for(peer), progress)
            own = context.tag_log(peer.tag, GUARD)
            context.troubles.end(_subject(peer), f"Files for {peer.name}: the package could be made.", own)
            log.collected(built.notes, levels=("WARNING", "ERROR", "DEBUG"))
            record.missing, record.shared, record.extra = compared.missing, compared.shared, compared.extra
            record.synced_once = True
            record.sent_bytes = built.package.size
            record.problems = {note.path: note.why for note in built.notes if note.why}
            try:
                await context.sender.send(peer, peer.name, commands.SYN_M_C, built.package, log, progress)
                record.result, record.behind = ("partly" if built.dropped or waits else "synced"), built.dropped
                record.detail = waits or (f"{built.dropped} files wait for the next round" if built.dropped else "")
            except ClusterError as failure:
                # The sender has already logged it and told the peer; the worker simply checks again.
                record.failed(str(failure))
                self._rooms.refused(peer.name, failure)
            record.sync_ended_at = context.clock.wall()
            log.info(f"Finished in {self._context.clock.monotonic() - started:.3f}s.")
        except (ClusterError, JobError, OSError):
            # Each line of a beginning gets its line of an end; the caller logs why it failed.
            log.info(f"Finished in {self._context.clock.monotonic() - started:.3f}s.")
            raise
        finally:
            context.progress.remove(progress)
            if built is not None:
                self._packages.release(built)
            if fitted not in ("", difference):
                context.spool.remove(fitted)
