"""The worker's side of integrity: checks the stock way, and the packages that the master sends after any check (wire.md
4.6, 4.7, 5.9)."""

import asyncio
import uuid
from collections.abc import Callable

import msgspec

from clusterd.errors import ClusterError
from clusterd.messages.bodies import DigestSegments
from clusterd.messages.packages import PackMetadata
from clusterd.sync.integrity.applier import AppliedPackage, PackageApplier
from clusterd.sync.integrity.events import applied_event
from clusterd.sync.integrity.waiting import LATE, NOT_WHOLE, wait_for_file
from clusterd.sync.links.caps import method_for
from clusterd.sync.links.context import Context
from clusterd.sync.links.incoming import Awaited
from clusterd.sync.links.outgoing import Package, Progress
from clusterd.sync.links.peer import Peer, tell
from clusterd.sync.links.permitted import is_permitted
from clusterd.sync.manifest.scan import Scan, ScanFailed
from clusterd.sync.ports.pool_port import JobError
from clusterd.sync.ports.tag_log import CHECK, GUARD, SYNC, TagLog
from clusterd.sync.ports.tasks import Tasks
from clusterd.wire import commands
from clusterd.wire.payloads import build_task_failure
from clusterd.wire.transfer import IncomingFile
from hashing.segment import Segment

MAX_SYNCS = 2
"""Most packages that are awaited or applied at a time: one of this link, and one that outlived the link before."""


class LastSync(msgspec.Struct):
    """What `status` shows of this worker's last check and last package. Times are wall-clock seconds. `problems`: path
    to reason of files that differ from the master's (not all of them); `left_out`: their whole number."""

    checked_at: float | None = None
    result: str = ""
    detail: str = ""
    synced_at: float | None = None
    created: int = 0
    updated: int = 0
    deleted: int = 0
    problems: dict[str, str] = msgspec.field(default_factory=dict)
    left_out: int = 0


class IntegrityWorker:
    """Does one check at a time, waits for packages, and records what became of both. rounds.py decides when to check,
    applier.py puts the files in place."""

    def __init__(self, context: Context, round_ended: Callable[[], None]) -> None:
        """`round_ended`: called after the last exchange of each round (wire.md 9.4)."""
        self._context = context
        self._round_ended = round_ended
        self._running = Tasks(context.tag_log(self._tag, GUARD).error)
        self._round_started: float | None = None
        self._is_asking = False
        """Whether the master has, or is getting, a package of this link's check and has not said what differs."""
        self._held: list[str] | None = None
        self._applier = PackageApplier(context)
        self._packed: tuple[tuple[str, str], Package] | None = None
        self.sync_ended: Callable[[int], None] = lambda changed: None
        """Called after a package was applied or failed, with the number of changed files."""
        self.tried: Callable[[], None] = lambda: None
        """Called when another check or package has replaced `last.problems`."""
        self.noted: Callable[[str], None] = lambda result: None
        """Called with each result."""
        self.last = LastSync()

    @property
    def _tag(self) -> str:
        return self._context.tag

    @property
    def is_syncing(self) -> bool:
        """Whether a package is awaited or applied."""
        return bool(self._running)

    # ---- a check -----------------------------------------------------------------------------------------------------

    async def check(self, peer: Peer) -> None:
        """Does one round: permission, scan, package with the metadata."""
        log = self._context.tag_log(self._tag, CHECK)
        started = self._context.clock.monotonic()
        if not await is_permitted(peer, commands.SYN_I_W_M_P, log):
            return
        self.begin_round(started)
        progress = Progress(peer.name, "integrity check", "scanning", self._context.clock.wall())
        self._context.progress.append(progress)
        try:
            scan = await self.scan(log)
            log.debug(f"Compressing 'files_metadata.json' of {scan.files} files.")
            package = await self._metadata_package(scan, method_for(peer))
        except (ScanFailed, JobError, OSError) as failure:
            await self.could_not_check(peer, failure)
            return
        finally:
            self._context.progress.remove(progress)
        self._context.progress.append(progress)
        self._held = []
        self._is_asking = True  # the answer may come before the last response to our package
        try:
            await self._context.sender.send(peer, self._context.node_name, commands.SYN_I_W_M, package, log, progress)
        except ClusterError as failure:
            self.abandon_round()
            self.note_result("failed", str(failure))
            if isinstance(failure.__cause__, JobError | OSError):  # its file may be gone, or damaged
                self._drop_packed()
        finally:
            held, self._held = self._held, None
            for line in held:
                log.info(line)
            self._context.progress.remove(progress)

    def begin_round(self, started: float) -> None:
        """Records that a check begins at `started` (monotonic)."""
        self._round_started = started
        self._context.tag_log(self._tag, CHECK).info("Starting.")

    def begin_without_package(self, started: float) -> None:
        """Writes the log lines of a check by package for one that needs none. Readers of the log, and tests of its
        order, know the stages of a check. A check that has begun already goes on."""
        if self._round_started is not None:
            return
        log, current = self._context.tag_log(self._tag, CHECK), self._context.manifests.current
        log.debug("Permission to synchronize granted.")
        self.begin_round(started)
        log.debug(f"Compressing 'files_metadata.json' of {0 if current is None else current.files} files.")
        log.debug("Sending zip file.")
        log.debug("Zip file sent.")

    def _finish(self, outcome: str) -> None:
        """Records the master's verdict on the check. It may arrive before the last answer to our package, and is logged
        after that."""
        line = f"Finished in {self._end_round():.3f}s. {outcome}"
        if self._held is None:
            self._context.tag_log(self._tag, CHECK).info(line)
        else:
            self._held.append(line)

    def abandon_round(self) -> None:
        """Drops the check that has begun, if there is one."""
        self._round_started, self._is_asking = None, False

    async def scan(self, log: TagLog) -> Scan:
        """Returns the current manifest of this node. Raises ScanFailed, JobError."""
        if not self._applier.is_busy:
            await self._applier.sweep()
        scan = await self._context.manifests.scan()
        log.collected(scan.notes)
        return scan

    async def could_not_check(self, peer: Peer, failure: Exception) -> None:
        """This node's files could not be reported: says so in the log, in status, and to the master."""
        self._context.tag_log(self._tag, CHECK).error(f"Error synchronizing integrity: {failure}")
        self._end_round()
        self.note_result("failed", str(failure))
        await self._report(peer, failure)

    async def _metadata_package(self, scan: Scan, method: str) -> Package:
        """Returns the metadata package of this manifest; made once while nothing changes."""
        key = scan.root_digest, method
        if self._packed is not None and self._packed[0] == key:
            return self._packed[1]
        self._drop_packed()
        context = self._context
        out = context.spool.new_path("check")
        try:
            packed = await context.jobs.run(PackMetadata(context.spool.state_dir, scan.root_digest, out, method))
            segments = [Segment(out, 0, packed.size)]
            digested = await context.jobs.run(DigestSegments(segments))
        except BaseException:
            context.spool.remove(out)  # what a full disk has taken of it
            raise
        package = Package(segments, packed.size, digested.sha256)
        self._packed = (key, package)
        return package

    def _drop_packed(self) -> None:
        """The next check makes its package anew."""
        packed, self._packed = self._packed, None
        if packed is not None:
            self._context.spool.remove(*(segment.path for segment in packed[1].segments))

    def told_equal(self) -> None:
        """`syn_m_c_ok`: the master has compared our check and found no difference. Without a check of ours it is
        ignored: it would hide files that are left out, and reload a ruleset that has not arrived."""
        if self._is_asking:
            self.checked_equal()
        else:
            log = self._context.tag_log(self._tag, GUARD)
            log.debug("The master says that nothing differs, and no check of this node waits for that.")

    def checked_equal(self) -> None:
        """Nothing differs."""
        self.begin_without_package(self._context.clock.monotonic())
        self._finish("Sync not required.")
        self._applier.confirmed_equal()
        had, self.last.problems, self.last.left_out = self.last.problems, {}, 0
        self.note_result("equal", "")
        if had:
            self.tried()
        self._round_ended()

    # ---- a package from the master ---------------------------------------------------------------------------------

    def begin_sync(self, peer: Peer) -> str:
        """`syn_m_c`: answers a task id, and starts a task that waits for the package and applies it."""
        if len(self._running) >= MAX_SYNCS:
            raise ClusterError(1000, f"{MAX_SYNCS} integrity syncs are under way already")
        task_id = str(uuid.uuid4())
        self.begin_without_package(self._context.clock.monotonic())  # unless a check has begun: the master sends ahead
        self._finish("Sync required.")
        progress = Progress(peer.name, "integrity", "receiving", self._context.clock.wall())
        # It is not a task of the link: a task that is cancelled before its first step could not do its own cleaning up.
        self._running.spawn(self._receive(peer, task_id, peer.incoming.expect(task_id), progress))
        return task_id

    async def master_failed(self, peer: Peer, task_id: str | None, error: ClusterError) -> None:
        """`syn_m_c_r`: the master gave up sending."""
        awaited = None if task_id is None else peer.incoming.awaited(task_id)
        if awaited is not None and not awaited.file.done():
            awaited.file.set_exception(error)
            return
        await self._context.net.main_line("ERROR", self._tag, f"Error in synchronization process: {error}")

    async def _receive(self, peer: Peer, task_id: str, awaited: Awaited, progress: Progress) -> None:
        """Waits for the package and unpacks it, which ends with the link; then puts its files in place, which does
        not."""
        context = self._context
        context.progress.append(progress)
        changed, packed = 0, 0
        started, synced_at = context.clock.monotonic(), self.last.synced_at
        try:
            try:
                await wait_for_file(context, peer, awaited, None)
            finally:
                peer.incoming.forget(task_id)
            packed = awaited.file.result().received
            changed = await self._apply_package(peer, awaited.file.result(), progress)
            self._tell_sync(changed, packed, started, synced_at)
        except ClusterError as failure:
            await context.net.main_line("ERROR", self._tag, str(failure))
            self.note_result("failed", str(failure))
            self._tell_sync(changed, packed, started, synced_at)
            if failure.code not in (LATE, NOT_WHOLE):  # it was told to cancel
                await self._report(peer, ClusterError(1000, str(failure)))
        finally:
            context.progress.remove(progress)
            # Not in this step: the next check must find that this task has ended.
            asyncio.get_running_loop().call_soon(self.sync_ended, changed)

    def _tell_sync(self, changed: int, packed: int, started: float, synced_at: float | None) -> None:
        """Tells the journal. `started`: when this sync began; `synced_at`: when the previous one ended."""
        context, last = self._context, self.last
        problems = last.problems if last.synced_at != synced_at else {}
        seconds = context.clock.monotonic() - started
        context.events.tell(
            applied_event(context.node_name, last.result, last.detail, changed, packed, seconds, problems)
        )

    async def _apply_package(self, peer: Peer, file: IncomingFile, progress: Progress) -> int:
        """Returns how many files were changed."""
        log = self._context.tag_log(self._tag, SYNC)
        try:
            applied = await self._applier.apply(peer, file, log, progress)
        except (ClusterError, JobError, OSError) as failure:
            log.error(f"Error synchronizing files: {failure}")
            self.note_result("failed", str(failure))
            await self._report(peer, failure)
            # What was unpacked and waits for nobody may be large, and the next link may be long in coming.
            await self._applier.sweep()
            return 0
        finally:
            self._context.spool.remove(file.place)
        return self._applied(applied)

    def _applied(self, applied: AppliedPackage) -> int:
        last = self.last
        last.synced_at = self._context.clock.wall()
        last.created, last.updated, last.deleted = applied.created, applied.updated, applied.deleted
        had, last.problems, last.left_out = last.problems, applied.problems, applied.left_out
        unconfirmed = applied.unconfirmed
        waits = f"{unconfirmed} deletions wait for the next check to say the same" if unconfirmed else ""
        self.note_result("partly" if last.problems or waits else "synced", waits)
        if had or last.problems:
            self.tried()
        self._round_ended()
        return applied.created + applied.updated + applied.deleted

    # ---- helpers -----------------------------------------------------------------------------------------------------

    @staticmethod
    async def _report(peer: Peer, failure: Exception) -> None:
        """`syn_i_w_m_r` `None {JSON}` (wire.md 5.11)."""
        error = failure if isinstance(failure, ClusterError) else ClusterError(1000, str(failure))
        await tell(peer, commands.SYN_I_W_M_R, build_task_failure(None, error))

    def _end_round(self) -> float:
        """Returns how long the check took, in seconds; 0 if it did not begin on this link."""
        started = self._round_started
        self.abandon_round()
        return 0.0 if started is None else self._context.clock.monotonic() - started

    def note_result(self, result: str, detail: str) -> None:
        self.last.result, self.last.detail = result, detail
        self.noted(result)
        self.last.checked_at = self._context.clock.wall()
