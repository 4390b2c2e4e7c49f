"""Put verified files in place and remove extras (wire.md 5.9, D1, D2). Every step leaves each file old or new, whole; a
second run after a crash does what is left.

Order: sync the written files to the disk, rename them over their targets, delete extras, delete emptied directories,
sync the directories.
"""

import contextlib
import errno
import os
import stat
import threading
from collections.abc import Callable, Iterable

import msgspec

from hashing.atomic import FileOps, is_temporary, temporary_name
from hashing.digest import Buffer, digest_fd, open_regular
from hashing.directories import Directories
from hashing.errors import DigestMismatch, FileVanished, HashingError, Note
from hashing.in_place import replace, sweep
from hashing.notes import Notes, explain
from hashing.opening import failure_text
from hashing.plan import PlanFile, Target, Written
from hashing.rules import Rules, allowed
from hashing.unpack import MERGED_DIRECTORY

OnStep = Callable[[], object]

FEW = 16
"""Up to this many files get an fsync each. More files get one sync of their whole file system: for 20,000 files that
takes fractions of a second instead of minutes."""

_PATIENCE_S = 600.0
_TICK_S = 0.25


class _WaitingFile(msgspec.Struct, frozen=True):
    """A verified file, `written`, that waits under the name `temporary` in `written.directory` for its place `path`.
    `target` is None for a part of a merged file."""

    path: str
    temporary: str
    written: Written
    target: Target | None


class AppliedPlan(msgspec.Struct, frozen=True):
    """`created`, `updated`: files renamed into place, by group; `deleted`: files removed, the paths of `removed`.
    `in_place`: paths that are mount points and were written by copy. The error counts cover every file of the group
    that is not as it should be, also files that were refused or not unpacked. `notes` name the files that failed in
    this step."""

    created: int
    updated: int
    deleted: int
    overwrite_errors: int
    create_errors: int
    remove_errors: int
    notes: list[Note]
    removed: list[str] = msgspec.field(default_factory=list)
    in_place: list[str] = msgspec.field(default_factory=list)


def apply_plan(
    root: str,
    rules: Rules,
    plan: str,
    unpacked: Iterable[Iterable[Written]],
    ops: FileOps,
    on_step: OnStep,
    *,
    delete: bool = True,
) -> AppliedPlan:
    """Put what each range of the plan has `unpacked` in place, then remove the plan's extras unless `delete` is false.

    Raises OSError when the disk did not take the written files (nothing was renamed then), MalformedPackage when the
    plan is damaged. A failure of one file goes to the notes.
    """
    with PlanFile(plan) as opened:
        index = opened.index
        targets = {target.path: target for number in range(opened.count) for target in opened.section(number).targets}
        owners = [opened.owner_of(number) for number in range(opened.count)]
    ready: list[_WaitingFile] = []
    split: list[Target] = []
    parts_allowed = any(target.merged for target in targets.values())
    for owner, of_range in zip(owners, unpacked, strict=True):
        for written in of_range:
            path = written.path
            target = targets.get(path)
            if target is not None and target.only_parts:
                split.append(target)
            elif target is not None or (parts_allowed and path.rpartition("/")[0] == MERGED_DIRECTORY):
                ready.append(_WaitingFile(path, temporary_name(written.named_for, owner), written, target))
    with Directories(root, ops, rules=rules) as directories:
        applier = _Applier(directories, rules, ops, on_step)
        applier.sync_files(ready)
        blocked = [waiting for waiting in ready if not applier.put_in_place(waiting)]
        if delete:
            applier.delete(index.extra)
        for waiting in blocked:
            applier.take_place(waiting)
        if delete:
            applier.remove_emptied(index.extra)
        applier.sync_directories()
    for target in split:
        applier.count(target)
    missing = sum(target.is_new for target in targets.values())
    shared = len(targets) - missing
    return AppliedPlan(
        applier.created,
        applier.updated,
        len(applier.removed),
        shared - applier.updated + index.refused_shared,
        missing - applier.created + index.refused_missing,
        applier.remove_errors + index.refused_extra,
        applier.notes.all(),
        applier.removed,
        applier.in_place,
    )


class _Applier:
    """Changes the tree, one file after the other, and keeps the counts of the result."""

    def __init__(self, directories: Directories, rules: Rules, ops: FileOps, on_step: OnStep) -> None:
        self._directories = directories
        self._rules = rules
        self._items = {item.key: item for item in rules.items}
        self._ops = ops
        self._on_step = on_step
        self._changed: dict[str, None] = {}
        self._renames = 0
        self.created = 0
        self.updated = 0
        self.removed: list[str] = []
        self.in_place: list[str] = []
        self.remove_errors = 0
        self.notes = Notes()

    # ---- sync ----------------------------------------------------------------------------------------------------

    def sync_files(self, ready: list[_WaitingFile]) -> None:
        """Sync the content of these temporary files to the disk. Raises OSError when it may not have arrived there."""
        if len(ready) > FEW:
            self._sync_file_systems({waiting.written.directory for waiting in ready})
        elif ready:
            self._patiently(lambda: self._fsync_each(ready))

    def sync_directories(self) -> None:
        """Sync the renames and removals to the disk. Raises OSError."""
        if self._renames > FEW or len(self._changed) > FEW:
            self._sync_file_systems(self._changed)
        elif self._changed:
            self._patiently(lambda: self._fsync_directories(list(self._changed)))

    def _fsync_each(self, ready: list[_WaitingFile]) -> None:
        for waiting in ready:
            try:
                fd = open_regular(self._directories.get(waiting.written.directory), waiting.temporary)
            except HashingError:
                # Gone or replaced: the rename will say so, or find that an earlier run of this job has done it.
                continue
            try:
                self._ops.fsync(fd)
            finally:
                os.close(fd)

    def _fsync_directories(self, paths: list[str]) -> None:
        for path in paths:
            try:
                fd = self._directories.get(path)
            except HashingError:
                continue  # removed since
            self._ops.fsync(fd)

    def _sync_file_systems(self, paths: Iterable[str]) -> None:
        """syncfs of every file system that these directories are on."""
        by_device: dict[int, str] = {}
        for path in paths:
            try:
                by_device.setdefault(os.fstat(self._directories.get(path)).st_dev, path)
            except HashingError:
                continue
        for path in by_device.values():
            fd = self._directories.get(path)
            self._patiently(lambda fd=fd: self._ops.syncfs(fd))  # type: ignore[misc]

    def _patiently(self, wait: Callable[[], object]) -> None:
        """Run a call that waits for the disk in a thread, and keep this process's heartbeat going: a slow disk with
        gigabytes to write is no reason to kill the job. After ten minutes the heartbeat stops."""
        failures: list[BaseException] = []

        def run() -> None:
            try:
                wait()
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=run, name="sync", daemon=True)
        thread.start()
        waited = 0.0
        while thread.is_alive():
            thread.join(_TICK_S)
            waited += _TICK_S
            if waited < _PATIENCE_S:
                self._on_step()
        if failures:
            raise failures[0]

    # ---- files -----------------------------------------------------------------------------------------------------

    def put_in_place(self, waiting: _WaitingFile) -> bool:
        """Rename the waiting file over its target. False if a directory is in the target's place, which deletions may
        empty, or a file in that of its directory, which is to be deleted."""
        self._on_step()
        if waiting.written.above is not None:
            return False
        try:
            self._rename(waiting)
        except IsADirectoryError:
            return False
        except (HashingError, OSError) as error:
            self._failed(waiting, error)
        return True

    def take_place(self, waiting: _WaitingFile) -> None:
        """Remove a directory in the target's place, if there is nothing but directories in it, or make the target's
        own, then rename the waiting file."""
        self._on_step()
        try:
            if waiting.written.above is None:
                self._remove_directories(waiting.path)
            else:
                self._move_down(waiting, waiting.written.above)
            self._rename(waiting)
        except (HashingError, OSError) as error:
            self._failed(waiting, error)

    def _move_down(self, waiting: _WaitingFile, above: str) -> None:
        """Raises HashingError (the file in the way was not deleted), OSError."""
        directory = waiting.path.rpartition("/")[0]
        to_fd = self._directories.make(directory)
        with contextlib.suppress(FileNotFoundError):  # an earlier run of this job has done it
            self._ops.move(waiting.temporary, from_fd=self._directories.get(above), to_fd=to_fd)
        self._changed[above] = None
        while len(directory) > len(above):
            self._changed[directory] = None
            directory = directory.rpartition("/")[0]

    def _remove_directories(self, path: str) -> None:
        """Raises HashingError, OSError; ENOTEMPTY, before anything is removed, if there is a file in one of them."""
        found, waiting = list[str](), [path]
        while waiting:
            self._on_step()
            found.append(waiting.pop())
            fd = self._directories.get(found[-1])
            names = os.listdir(fd)
            if not all(_is_directory(fd, name) for name in names):
                raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))
            waiting += [f"{found[-1]}/{name}" for name in names]
        for directory in reversed(found):  # each is behind the one that it is in
            above, _, name = directory.rpartition("/")
            self._ops.rmdir(name, dir_fd=self._directories.get(above))
            self._directories.forget(directory)

    def _rename(self, waiting: _WaitingFile) -> None:
        directory, _, name = waiting.path.rpartition("/")
        dir_fd = self._directories.get(directory)
        target = waiting.target
        try:
            _check_same(dir_fd, waiting)
            if replace(self._ops, waiting.temporary, name, dir_fd=dir_fd, on_step=self._on_step):
                self.in_place.append(waiting.path)
        except FileNotFoundError:
            if target is None or not _has_content(dir_fd, name, target.digest):
                raise
        self._renames += 1
        self._changed[directory] = None
        self.notes.add("DEBUG2", waiting.path, f"Processing file {waiting.path}")
        if target is not None:
            self.count(target)

    def count(self, target: Target) -> None:
        """Count this target as put in place."""
        self.created += target.is_new
        self.updated += not target.is_new

    def _failed(self, waiting: _WaitingFile, error: Exception) -> None:
        reason = explain(error)
        path = waiting.path
        group = waiting.target.group if waiting.target is not None else "missing"
        self.notes.add("ERROR", path, failure_text(group, path, reason), reason)
        for directory in {waiting.written.directory, path.rpartition("/")[0]}:
            with contextlib.suppress(HashingError, OSError):  # the sweep at start removes it
                self._ops.unlink(waiting.temporary, dir_fd=self._directories.get(directory))

    def delete(self, extra: Iterable[tuple[str, str]]) -> None:
        """Remove these (path, item) where the rules allow it."""
        for path, item in extra:
            self._on_step()
            directory, _, name = path.rpartition("/")
            try:
                reason = allowed(self._rules, item, path)
                if reason is None:
                    self._ops.unlink(name, dir_fd=self._directories.get(directory))
            except (FileVanished, FileNotFoundError):
                self.notes.add("DEBUG2", path, f"File {path} doesn't exist.")
                continue
            except (HashingError, OSError) as error:
                is_mounted = isinstance(error, OSError) and error.errno == errno.EBUSY
                reason = "is a mount point: only who mounted it can remove it" if is_mounted else explain(error)
            if reason is None:
                self.removed.append(path)
                self._changed[directory] = None
                self.notes.add("DEBUG2", path, f"Remove file: '{path}'")
            else:
                self.remove_errors += 1
                self.notes.add("ERROR", path, failure_text("extra", path, reason), reason)

    # ---- emptied directories -----------------------------------------------------------------------------------------

    def remove_emptied(self, extra: Iterable[tuple[str, str]]) -> None:
        """Remove the directories of these (path, item), and the directories above them, once they are empty (wire.md
        5.9, 3), for items with `remove_subdirs_if_empty`. An item's own directory always stays (C11)."""
        pending = {
            path.rpartition("/")[0]
            for path, key in extra
            if key in self._items and self._items[key].remove_subdirs_if_empty
        }
        # Deepest first: each directory once, after everything below it.
        while pending:
            depth = max(directory.count("/") for directory in pending)
            for directory in sorted(directory for directory in pending if directory.count("/") == depth):
                pending.discard(directory)
                self._on_step()
                if f"{directory}/" not in self._items and self._remove_if_empty(directory):
                    pending.add(directory.rpartition("/")[0])

    def _remove_if_empty(self, directory: str) -> bool:
        """Remove the directory if it is empty or holds only excluded files, which are removed with it. True if it is
        gone."""
        above, _, name = directory.rpartition("/")
        try:
            fd = self._directories.get(directory)
            names = os.listdir(fd)
            if _is_link(self._directories.get(above), name):
                return False  # a link of the operator's: it stays, and so does its target
            if not all(self._may_go_along(fd, name) for name in names):
                return False
            for left in names:
                self._ops.unlink(left, dir_fd=fd)
            self._ops.rmdir(name, dir_fd=self._directories.get(above))
        except FileVanished:
            return True
        except (HashingError, OSError) as error:
            self.remove_errors += 1
            reason = explain(error)
            self.notes.add("ERROR", directory, f"Error removing directory '{directory}': {reason}", reason)
            return False
        self._directories.forget(directory)
        self._changed[above] = None
        return True

    def _may_go_along(self, dir_fd: int, name: str) -> bool:
        if name not in self._rules.excluded_files and not is_temporary(name):
            return False
        return not _is_directory(dir_fd, name)


def _check_same(dir_fd: int, waiting: _WaitingFile) -> None:
    """Raises DigestMismatch if the temporary file is no longer the one that was verified, FileNotFoundError if it is
    gone."""
    found = os.stat(waiting.temporary, dir_fd=dir_fd, follow_symlinks=False)
    written = waiting.written
    if not stat.S_ISREG(found.st_mode) or (found.st_ino, found.st_size) != (written.inode, written.size):
        raise DigestMismatch(waiting.path, "was changed by another hand after it was verified")


def _has_content(dir_fd: int, name: str, digest: bytes) -> bool:
    """True if an earlier run of the same job has put the file in place."""
    try:
        fd = open_regular(dir_fd, name)
    except HashingError:
        return False
    try:
        return digest_fd(fd, Buffer()) == digest
    finally:
        os.close(fd)


def sweep_temporary(root: str, rules: Rules, ops: FileOps, more: Iterable[str] = ()) -> int:
    """Remove the temporary files that killed processes left beside their targets, there and directly in the
    directories `more`; restore what they were writing in place. Returns how many. Call it only while no package is
    being applied. Temporary files of other living processes stay. Directories that cannot be read are skipped.
    OSError when `root` cannot be opened."""
    count = 0
    places = [(item.key.rstrip("/"), item.recursive) for item in rules.items]
    places += [(directory, False) for directory in (MERGED_DIRECTORY, *more)]
    with Directories(root, ops, rules=rules) as directories:
        while places:
            directory, recursive = places.pop()
            try:
                fd = directories.get(directory)
                names = os.listdir(fd)
                below = [name for name in names if recursive and directories.links.may_enter(fd, name)]
            except (HashingError, OSError):
                continue
            places.extend((f"{directory}/{name}", True) for name in below)
            count += sweep(ops, fd, names)
    return count


def _is_link(dir_fd: int, name: str) -> bool:
    return stat.S_ISLNK(os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_mode)


def _is_directory(dir_fd: int, name: str) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_mode)
    except OSError:
        return False
