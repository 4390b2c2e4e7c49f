"""Unpacks a received package into verified files beside their targets (wire.md 5.4, 5.9). Nothing that a peer wrote is
trusted: paths are checked against the rules (opening.py), content against its digest, sizes against bounds. apply.py
puts the files in place.
"""

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from hashlib import blake2b
from itertools import chain

import msgspec

from hashing.atomic import FileOps, create_temporary
from hashing.directories import Directories
from hashing.errors import DigestMismatch, HashingError, Note, PackageTooLarge, UnsafePath
from hashing.merged import MOST_PARTS, parse_merged
from hashing.notes import Notes, explain
from hashing.opening import OnStep, candidates, failure_text
from hashing.package import PackageReader
from hashing.plan import Budget, PlanFile, PlanSection, Target, Written
from hashing.rules import Rules

MERGED_DIRECTORY = "queue/TYPE"
"""Where the parts of merged files go. The type is always this placeholder (wire.md 5.10); no other directory is
accepted."""

_MERGED_BYTES = 64 * 1024 * 1024
_CHECK_DISK_BYTES = 16 * 1024 * 1024
_FLUSH_BYTES = 64 * 1024 * 1024
_RESERVE_BYTES = 32 * 1024 * 1024
_ATTEMPTS = 3


class UnpackedRange(msgspec.Struct, frozen=True):
    """`written`: verified files that wait beside their targets, also the parts of merged files."""

    written: list[Written]
    notes: list[Note]


def unpack_range(
    package: str,
    root: str,
    plan: str,
    index: int,
    max_file: int,
    max_total: int,
    ops: FileOps,
    owner: tuple[int, int] | None,
    on_step: OnStep,
    rules: Rules | None = None,
) -> UnpackedRange:
    """Write the files of range `index` of the plan under their temporary names beside their targets, verified, with
    final mode and with `owner` (uid, gid; None: that of this process). `rules` say which links are followed.

    A file that cannot be unpacked is named in the notes and left out; the others are unpacked. At most `max_file` raw
    bytes a file, `max_total` for all ranges together, and never the last 32 MiB of the disk for large ones. Safe to run
    again. Raises MalformedPackage when the plan is damaged, OSError when package or root cannot be opened.
    """
    fd = os.open(package, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with PlanFile(plan) as opened, Directories(root, ops, owner=owner, rules=rules) as directories:
            section = opened.section(index)
            reader = PackageReader(fd, os.fstat(fd).st_size, section.start)
            budget = Budget(opened, index, max_total)
            name_owner = opened.owner_of(index)
            extra = opened.index.extra
            writer = _Writer(directories, ops, owner, name_owner, min(max_file, max_total), budget, on_step, extra)
            result = _unpack_section(reader, section, writer, on_step)
            budget.tell()
            return result
    finally:
        os.close(fd)


def _unpack_section(reader: PackageReader, section: PlanSection, writer: "_Writer", on_step: OnStep) -> UnpackedRange:
    pending = {target.path: target for target in section.targets}
    failures: dict[str, str] = {}
    attempts: dict[str, int] = {}
    position = section.start
    while pending and position < section.stop:
        on_step()
        target = None
        try:
            reader.position = position
            target = pending.get(reader.read_path())
            if target is not None:
                writer.write(target, reader)
                del pending[target.path]
                failures.pop(target.path, None)
                position = reader.position
                continue
        except (HashingError, OSError) as error:
            if target is not None:
                reason = error.text if isinstance(error, HashingError) else explain(error)
                failures[target.path] = reason
                attempts[target.path] = attempts.get(target.path, 0) + 1
                if attempts[target.path] >= _ATTEMPTS:
                    del pending[target.path]
        # Not an entry we want, or a broken one: on at the next place where one we want could begin.
        position = _next_wanted(reader, position + 1, section.stop, pending)
    for path in pending:
        failures.setdefault(path, "is not in the package")
    for target in section.targets:
        if target.path in failures:
            reason = failures[target.path]
            writer.notes.add("ERROR", target.path, failure_text(target.group, target.path, reason), reason)
    return UnpackedRange(list(writer.written.values()), writer.notes.all())


def _next_wanted(reader: PackageReader, start: int, stop: int, pending: Mapping[str, Target]) -> int:
    return next((at for at in candidates(reader, start, stop) if reader.path_at(at) in pending), stop)


def _verify(target: Target, digest: bytes) -> None:
    if digest != target.digest:
        raise DigestMismatch(target.path, "its content is not what the metadata says")


class _Writer:
    """Writes the content of entries beside their targets. `written`: those that wait there, by path. `name_owner`:
    whose the temporary names are. `extra`: path and item of what will be deleted."""

    def __init__(
        self,
        directories: Directories,
        ops: FileOps,
        owner: tuple[int, int] | None,
        name_owner: str,
        max_file: int,
        budget: Budget,
        on_step: OnStep,
        extra: list[tuple[str, str]],
    ) -> None:
        self._extra = extra
        self._directories = directories
        self._ops = ops
        self._owner = owner
        self._name_owner = name_owner
        self._max_file = max_file
        self._budget = budget
        self._on_step = on_step
        self._room_for_parts = MOST_PARTS
        self.written: dict[str, Written] = {}
        self.notes = Notes()

    def write(self, target: Target, reader: PackageReader) -> None:
        """Write the content of the entry that `reader` stands at. Raises HashingError, OSError; then nothing is left
        of it."""
        # Nearly all files of a large set are small: for them the way in pieces would cost as much as the system calls.
        data = None if target.merged else reader.small_content(self._max_file)
        if data is not None:
            self._write_small(target, data)
            return
        pieces = self._verified(target, reader.content(target.path, self._max_file))
        if target.merged:
            self._write_merged(target, pieces)
        else:
            self._write_beside(target.path, target.mode, pieces)

    def _write_small(self, target: Target, data: bytes) -> None:
        if data:
            self._budget.spend(target.path, len(data))
        _verify(target, blake2b(data).digest())
        self._write_beside(target.path, target.mode, iter((data,)))

    def _verified(self, target: Target, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """Pass the pieces on. The last piece, nearly always the only one, passes only after the digest was verified,
        so a small file with wrong content never touches the disk."""
        hasher = blake2b()
        held = b""
        for data in pieces:
            self._on_step()
            self._budget.spend(target.path, len(data))
            hasher.update(data)
            if held:
                yield held
            held = data
        _verify(target, hasher.digest())
        if held:
            yield held

    def _write_beside(self, path: str, mode: int, pieces: Iterator[bytes]) -> None:
        data = next(pieces, b"")
        waits = Written(path)
        try:
            dir_fd = self._directories.make(waits.directory)
        except UnsafePath as obstacle:
            if obstacle.path not in self._extra_paths:
                raise
            waits = Written(path, above=obstacle.path.rpartition("/")[0])
            dir_fd = self._directories.get(waits.directory)
        fd, temporary = create_temporary(self._ops, waits.named_for, 0o600, dir_fd=dir_fd, owner=self._name_owner)
        try:
            try:
                unchecked = unflushed = 0
                while data:
                    self._ops.write(fd, data)
                    unchecked += len(data)
                    unflushed += len(data)
                    if unchecked >= _CHECK_DISK_BYTES:
                        unchecked = 0
                        self._check_disk(fd)
                    if unflushed >= _FLUSH_BYTES:
                        # Otherwise the sync before the renames could take minutes, and says nothing meanwhile.
                        unflushed = 0
                        self._ops.fsync(fd)
                    data = next(pieces, b"")
                if self._owner is not None:
                    self._ops.chown(fd, *self._owner)
                self._ops.chmod(fd, mode)
                status = os.fstat(fd)
            finally:
                os.close(fd)
        except Exception:
            with suppress(OSError):  # report the first failure; a sweep removes the rest
                self._ops.unlink(temporary, dir_fd=dir_fd)
            raise
        self.written[path] = Written(path, status.st_ino, status.st_size, waits.above)

    @cached_property
    def _extra_paths(self) -> frozenset[str]:
        return frozenset(path for path, _ in self._extra)

    def _write_merged(self, target: Target, pieces: Iterator[bytes]) -> None:
        """Split a merged file into its parts (wire.md 5.9), and put it in its own place too: stock nodes mark every
        file whose name contains `.merged`, and one that did not appear would be reported missing for ever (C6)."""
        kept: list[bytes] = []
        size = 0
        while size <= _MERGED_BYTES and (data := next(pieces, b"")):
            kept.append(data)
            size += len(data)
        if not target.only_parts:
            self._write_beside(target.path, target.mode, chain(kept, pieces))
        if size > _MERGED_BYTES:
            if target.only_parts:
                raise PackageTooLarge(target.path, f"has more than {_MERGED_BYTES} bytes")
            return
        merged = parse_merged(b"".join(kept), self._room_for_parts)
        self._room_for_parts -= len(merged.parts) + len(merged.refused)
        if merged.malformed and (merged.parts or target.only_parts):
            self.notes.add("WARNING", target.path, merged.malformed, "is a malformed merged file")
        for name, reason in merged.refused:
            self.notes.add("ERROR", target.path, failure_text(target.group, name, reason), f"part {name!r} {reason}")
        for part in merged.parts:
            self._on_step()
            self._write_beside(f"{MERGED_DIRECTORY}/{part.name}", target.mode, iter((part.data,)))
        if target.only_parts:
            self.written[target.path] = Written(target.path)

    def _check_disk(self, fd: int) -> None:
        """Raises OSError when only the reserve is left: the node must go on writing logs and its database."""
        disk = os.fstatvfs(fd)
        if disk.f_bavail * disk.f_frsize < _RESERVE_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
