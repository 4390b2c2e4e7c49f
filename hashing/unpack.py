"""Unpacks a received package into verified files beside their targets (wire.md 5.4, 5.9). Nothing that a peer wrote is
trusted: paths are checked against the rules, content against its digest, sizes against bounds. apply.py puts the files
in place.
"""

import errno
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from hashlib import blake2b
from itertools import chain

import msgspec

from hashing.atomic import FileOps, create_temporary
from hashing.directories import Directories
from hashing.errors import (
    DigestMismatch,
    FileVanished,
    HashingError,
    MalformedPackage,
    Note,
    PackageTooLarge,
    UnsafePath,
)
from hashing.manifest import PathCheck, Rules, WireDifference, WireMeta, parse_wire_difference
from hashing.merged import parse_merged
from hashing.notes import Notes, explain
from hashing.package import FILE_SEP, METADATA_LIMIT_BYTES, METADATA_NAME, PackageReader, read_metadata
from hashing.plan import Budget, PlanFile, PlanSection, Target, Written, save_plan

OnStep = Callable[[], object]

SPARE_SEPARATORS = 1000
"""Separators in a package beyond two for each file that its metadata names."""

RANGE_BYTES = 4 * 1024 * 1024
RANGE_FILES = 1000
"""Size of the ranges that are unpacked side by side: packed bytes, files."""

MERGED_DIRECTORY = "queue/TYPE"
"""Where the parts of merged files go. The type is always this placeholder (wire.md 5.10); no other directory is
accepted."""

_MERGED_PATH = re.compile(r"queue/cluster/[^/]+/[^/]+\.merged")
_MERGED_BYTES = 64 * 1024 * 1024
_CHECK_DISK_BYTES = 16 * 1024 * 1024
_FLUSH_BYTES = 64 * 1024 * 1024
_RESERVE_BYTES = 32 * 1024 * 1024
_ATTEMPTS = 3


class OpenedPackage(msgspec.Struct, frozen=True):
    """Counts of the metadata, and the number of ranges to unpack. `extra_digest` identifies the set of paths to delete.
    `refused`: what may not be touched, with reasons."""

    missing: int
    shared: int
    extra: int
    ranges: int
    extra_digest: str
    refused: list[Note]


class UnpackedRange(msgspec.Struct, frozen=True):
    """`written`: verified files that wait beside their targets, also the parts of merged files."""

    written: list[Written]
    notes: list[Note]


# ---- opening ---------------------------------------------------------------------------------------------------------


def open_package(
    package: str,
    root: str,
    rules: Rules,
    plan: str,
    max_file: int,
    max_total: int,
    on_step: OnStep,
    *,
    range_bytes: int = RANGE_BYTES,
) -> OpenedPackage:
    """Read the metadata of the package file, check all its paths, find its entries, write the plan to `plan`.

    Raises MalformedPackage (no package, no valid metadata), PackageTooLarge (metadata above `max_file` or 256 MiB),
    OSError.
    """
    fd = os.open(package, os.O_RDONLY | os.O_CLOEXEC)
    try:
        reader = PackageReader(fd, os.fstat(fd).st_size)
        metadata = read_metadata(reader, min(max_file, max_total, METADATA_LIMIT_BYTES))
        wire = parse_wire_difference(metadata)
        del metadata
        on_step()
        checked = _Checked(root, rules, wire)
        most = SPARE_SEPARATORS + 2 * (len(wire.missing) + len(wire.shared))
        found, ambiguous = _find_entries(reader, reader.find_metadata(), checked.targets, most, on_step)
        for path in checked.targets.keys() - found.keys():
            checked.refuse(path, checked.targets[path].group, "is not in the package")
        sections = _sections(found, ambiguous, checked.targets, reader.find_metadata(), range_bytes)
    finally:
        os.close(fd)
    save_plan(plan, sections, checked.extra, checked.refused_counts)
    digest = blake2b("\0".join(path for path, _ in checked.extra).encode(), digest_size=16).hexdigest()
    return OpenedPackage(
        len(wire.missing), len(wire.shared), len(wire.extra), len(sections), digest, checked.notes.all()
    )


class _Checked:
    """The metadata divided into what may be done (`targets` by path, `extra` sorted) and what is refused."""

    def __init__(self, root: str, rules: Rules, wire: WireDifference) -> None:
        self._check = PathCheck(rules)
        self._modes = {item.key: item.permissions for item in rules.items}
        self._refused = {"missing": 0, "shared": 0, "extra": 0}
        self.notes = Notes()
        self.targets: dict[str, Target] = {}
        self._add_targets("missing", wire.missing)
        self._add_targets("shared", wire.shared)
        self._refuse_colliding(root, rules)
        self.extra: list[tuple[str, str]] = []
        for path, meta in sorted(wire.extra.items()):
            reason = self._check.allowed(meta.cluster_item_key, path)
            if reason is None and path in self.targets:
                reason = "is to be written too"
            if reason is None:
                self.extra.append((path, meta.cluster_item_key))
            else:
                self.refuse(path, "extra", reason)

    @property
    def refused_counts(self) -> tuple[int, int, int]:
        return self._refused["missing"], self._refused["shared"], self._refused["extra"]

    def refuse(self, path: str, group: str, reason: str) -> None:
        self._refused[group] += 1
        self.notes.add("ERROR", path, failure_text(group, path, reason), reason)

    def _add_targets(self, group: str, metas: Mapping[str, WireMeta]) -> None:
        for path, meta in metas.items():
            item = meta.cluster_item_key
            reason = self._check.allowed(item, path)
            only_parts = False
            if reason is not None and meta.merged and item in self._modes and _MERGED_PATH.fullmatch(path):
                reason, only_parts = None, True
            if reason is None and path in self.targets:
                reason = "is in two groups"
            if reason is not None:
                self.refuse(path, group, reason)
                continue
            digest = bytes.fromhex(meta.hash)
            self.targets[path] = Target(path, digest, self._modes[item], group == "missing", meta.merged, only_parts)

    def _refuse_colliding(self, root: str, rules: Rules) -> None:
        """Refuse what lies below another file, or below a link or a file on the disk."""
        reasons: dict[str, str | None] = {}
        with Directories(root, rules=rules) as directories:
            for path in list(self.targets):
                directory = path.rpartition("/")[0]
                if directory not in reasons:
                    reasons[directory] = self._directory_problem(directories, directory)
                reason = reasons[directory]
                if reason is not None:
                    self.refuse(path, self.targets.pop(path).group, reason)

    def _directory_problem(self, directories: Directories, directory: str) -> str | None:
        above = directory
        while above:
            if above in self.targets:
                return f"is below {above}, which is a file"
            above = above.rpartition("/")[0]
        try:
            directories.get(directory)
        except FileVanished:
            return None
        except (UnsafePath, OSError) as error:
            return explain(error)
        return None


def failure_text(group: str, path: str, reason: str) -> str:
    """The stock text of a file that could not be dealt with (wire.md 5.9)."""
    if group == "extra":
        return f"Error removing file '{path}': {reason}"
    return f"Error processing {group} file '{path}': {reason}"


def _find_entries(
    reader: PackageReader, stop: int, targets: Mapping[str, Target], most: int, on_step: OnStep
) -> tuple[dict[str, int], bool]:
    """Where the entry of each target begins. True if one seems to begin in two places: a separator is inside data then,
    and only reading the entries in order shows which place is real.

    Raises MalformedPackage for more than `most` separators: chance does not put that many into data."""
    found: dict[str, int] = {}
    ambiguous = False
    for number, position in enumerate(_candidates(reader, 0, stop)):
        if number % 1024 == 0:
            on_step()
        if number >= most:
            raise MalformedPackage(
                METADATA_NAME, f"names {len(targets)} files, the package has more than {most} entries"
            )
        path = reader.path_at(position)
        if path is not None and path in targets:
            ambiguous |= path in found
            found.setdefault(path, position)
    return found, ambiguous


def _candidates(reader: PackageReader, start: int, stop: int) -> Iterator[int]:
    """Positions from `start` on and before `stop` where an entry could begin."""
    if start == 0 and stop > 0:
        yield 0
    for separator in reader.separators(max(0, start - len(FILE_SEP)), stop):
        position = separator + len(FILE_SEP)
        if start <= position < stop:
            yield position


def _sections(
    found: Mapping[str, int], ambiguous: bool, targets: Mapping[str, Target], stop: int, range_bytes: int
) -> list[PlanSection]:
    ordered = sorted(found.items(), key=lambda pair: pair[1])
    starts: list[int] = []
    members: list[list[Target]] = []
    for path, position in ordered:
        is_full = bool(starts) and (position - starts[-1] >= range_bytes or len(members[-1]) >= RANGE_FILES)
        if not starts or (is_full and not ambiguous):
            starts.append(position)
            members.append([])
        members[-1].append(targets[path])
    stops = [*starts[1:], stop]
    return [PlanSection(*section) for section in zip(starts, stops, members, strict=False)]


# ---- unpacking -------------------------------------------------------------------------------------------------------


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
            writer = _Writer(directories, ops, owner, name_owner, min(max_file, max_total), budget, on_step)
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
    return next((at for at in _candidates(reader, start, stop) if reader.path_at(at) in pending), stop)


def _verify(target: Target, digest: bytes) -> None:
    if digest != target.digest:
        raise DigestMismatch(target.path, "its content is not what the metadata says")


class _Writer:
    """Writes the content of entries beside their targets. `written`: those that wait there, by path. `name_owner`:
    whose the temporary names are."""

    def __init__(
        self,
        directories: Directories,
        ops: FileOps,
        owner: tuple[int, int] | None,
        name_owner: str,
        max_file: int,
        budget: Budget,
        on_step: OnStep,
    ) -> None:
        self._directories = directories
        self._ops = ops
        self._owner = owner
        self._name_owner = name_owner
        self._max_file = max_file
        self._budget = budget
        self._on_step = on_step
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
        directory, _, name = path.rpartition("/")
        dir_fd = self._directories.make(directory)
        fd, temporary = create_temporary(self._ops, name, 0o600, dir_fd=dir_fd, owner=self._name_owner)
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
        self.written[path] = Written(path, status.st_ino, status.st_size)

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
        merged = parse_merged(b"".join(kept))
        if merged.malformed and (merged.parts or target.only_parts):
            self.notes.add("WARNING", target.path, merged.malformed, "is a malformed merged file")
        for name, reason in merged.refused:
            self.notes.add("ERROR", target.path, failure_text(target.group, name, reason), f"part {name!r} {reason}")
        for part in merged.parts:
            self._write_beside(f"{MERGED_DIRECTORY}/{part.name}", target.mode, iter((part.data,)))
        if target.only_parts:
            self.written[target.path] = Written(target.path)

    def _check_disk(self, fd: int) -> None:
        """Raises OSError when only the reserve is left: the node must go on writing logs and its database."""
        disk = os.fstatvfs(fd)
        if disk.f_bavail * disk.f_frsize < _RESERVE_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
