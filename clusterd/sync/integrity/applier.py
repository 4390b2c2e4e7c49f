"""Applies packages of the master, one at a time: unpacks each file beside its target, then renames and deletes
(wire.md 5.3, 5.9)."""

import asyncio

import msgspec

from clusterd.errors import ClusterError
from clusterd.messages.packages import Applied, ApplyPlan, OpenPackage, PackageOpened, UnpackRange
from clusterd.sync.integrity.leftovers import Leftovers
from clusterd.sync.integrity.while_linked import WhileLinked
from clusterd.sync.links.context import Context
from clusterd.sync.links.outgoing import Progress
from clusterd.sync.links.peer import Peer
from clusterd.sync.ports.ledger import disk_of, low, unpack_bounds
from clusterd.sync.ports.pool_port import JobError, all_of
from clusterd.sync.ports.tag_log import GUARD, TagLog
from clusterd.wire.transfer import IncomingFile
from hashing.errors import Note

NO_ROOM = "room for files"
MOUNTED = "mounted files"
SHOWN_MOUNTED = 5


class AppliedPackage(msgspec.Struct, frozen=True):
    """What became of a package. `problems`: path to reason of files that could not be put in place (not all of them);
    `left_out`: their whole number; `unconfirmed`: deletions that wait for the next check to ask for the same."""

    created: int
    updated: int
    deleted: int
    problems: dict[str, str]
    left_out: int
    unconfirmed: int


class PackageApplier:
    """Remembers the digest of a doubtful deletion across links. Packages are applied in the order in which they are
    complete."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._own_log = context.tag_log(context.tag, GUARD)
        self._turn = asyncio.Lock()
        self._doubtful = ""
        self._leftovers = Leftovers(context)
        self._mounted: set[str] = set()

    @property
    def is_busy(self) -> bool:
        """Whether a package is being applied, or temporary files are being removed."""
        return self._turn.locked()

    async def sweep(self) -> None:
        """Removes temporary files of dead writers, if there may be some, while no package is being applied."""
        async with self._turn:
            await self._leftovers.remove(self._context.tag)

    def confirmed_equal(self) -> None:
        """A check has found nothing to delete: the next doubtful deletion has to be asked for twice again."""
        self._doubtful = ""

    async def apply(self, peer: Peer, file: IncomingFile, log: TagLog, progress: Progress) -> AppliedPackage:
        """Applies the package when it is its turn. Raises ClusterError, JobError, OSError."""
        progress.step = "waiting"
        try:
            async with self._turn:  # in the order in which they came, and so that lines of two do not mix
                # A job of an earlier sync process may still be applying another package.
                await self._context.slabs.admitted()
                return await self._apply(peer, file, log, progress)
        except (ClusterError, JobError, OSError):
            self._leftovers.suspected = True
            raise

    async def _apply(self, peer: Peer, file: IncomingFile, log: TagLog, progress: Progress) -> AppliedPackage:
        context = self._context
        started = context.clock.monotonic()
        root, package = context.settings.root, file.place
        bounds = self._bounds(file.received)
        linked = WhileLinked(peer, file, context.spool)
        plan = context.spool.new_path("plan")
        log.info("Starting.")
        progress.step = "unpacking"
        try:
            opened = await context.jobs.run(OpenPackage(package, root, plan, *bounds))
            log.info(
                f"Files to create: {opened.missing} | Files to update: {opened.shared} | Files to delete: "
                f"{opened.extra}"
            )
            log.debug("Worker does not meet integrity checks. Actions required.")
            log.debug("Updating local files: Start.")
            async with context.manifests.own_changes(opened.missing + opened.shared + opened.extra):
                unpacked = await all_of(
                    context.jobs.run(UnpackRange(package, root, plan, index, *bounds)) for index in range(opened.ranges)
                )
                linked.done()
                progress.step = "applying"
                delete = self._may_delete(opened)
                written = [part.written for part in unpacked]
                applied = await context.jobs.run(ApplyPlan(root, plan, written, delete))
                context.manifests.touch([*(file.path for part in written for file in part), *applied.removed])
        except JobError as failure:
            raise linked.explain(failure) from failure
        finally:
            linked.done()
            context.spool.remove(plan)
        self._note_mounted({file.path for part in written for file in part}, applied.in_place)
        notes = [*opened.refused, *(note for part in unpacked for note in part.notes), *applied.notes]
        self._log_applied(log, applied, notes, len(opened.refused) + sum(len(part.notes) for part in unpacked))
        log.debug("Updating local files: End.")
        log.info(f"Finished in {context.clock.monotonic() - started:.3f}s.")
        problems = {note.path: note.why for note in notes if note.why}
        self._leftovers.suspected |= bool(problems)
        left_out = applied.overwrite_errors + applied.create_errors + applied.remove_errors
        unconfirmed = 0 if delete else opened.extra
        return AppliedPackage(applied.created, applied.updated, applied.deleted, problems, left_out, unconfirmed)

    def _bounds(self, packed: int) -> tuple[int, int]:
        """Returns how much a package of this many bytes may unpack to. A disk that has only its reserve left is logged
        once."""
        context = self._context
        limits = context.settings.clusterd.limits
        disk = disk_of(context.settings.root, limits)
        if disk.free < disk.reserve:
            text = f"Only small files of the master can be unpacked: {low(disk)}."
            context.troubles.begin(NO_ROOM, text, self._own_log, "ERROR")
        else:
            context.troubles.end(NO_ROOM, "There is room for files again.", self._own_log)
        return unpack_bounds(limits, packed, disk)

    def _log_applied(self, log: TagLog, applied: Applied, notes: list[Note], failed_before: int) -> None:
        log.collected(notes, levels=("DEBUG2", "DEBUG", "WARNING", "ERROR"))
        failures = applied.overwrite_errors, applied.create_errors, applied.remove_errors
        if any(failures) or failed_before:
            overwriting, creating, removing = failures
            log.error(f"Found errors: {overwriting} overwriting, {creating} creating and {removing} removing")

    def _note_mounted(self, written: set[str], in_place: list[str]) -> None:
        """Logs once, and shows in status, that such files cannot be renamed, until one was renamed again."""
        self._mounted = (self._mounted - written) | set(in_place)
        troubles = self._context.troubles
        if not self._mounted:
            troubles.end(MOUNTED, "No file is written in place any more.", self._own_log)
            return
        shown = ", ".join(sorted(self._mounted)[:SHOWN_MOUNTED])
        more = len(self._mounted) - SHOWN_MOUNTED
        text = (
            f"Files that are mount points are written in place, and may be read half written: {shown}"
            f"{f' and {more} more' if more > 0 else ''}. Mount their directory instead."
        )
        troubles.begin(MOUNTED, text, self._own_log)

    def _may_delete(self, opened: PackageOpened) -> bool:
        """Returns whether this deletion may happen. Deleting more than the configured share of our files needs two
        checks in a row with the same result, because a stock master can make this mistake (C7)."""
        scan = self._context.manifests.current
        files = scan.files if scan is not None else 0
        share = self._context.settings.clusterd.delete_confirm_share
        if opened.extra <= files * share or opened.extra_digest == self._doubtful:
            self._doubtful = ""
            return True
        self._doubtful = opened.extra_digest
        self._own_log.warning(
            f"The master asks to delete {opened.extra} of {files} files. They stay until the next check asks for the "
            "same."
        )
        return False
