"""Turns a Difference into a package within limits (wire.md 5.6, C12). Jobs pack parts side by side; then the parts
are cut to the limit and the metadata entry is appended. A part is a plain concatenation, so leaving an entry out
copies nothing."""

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b, sha256
from typing import BinaryIO

import msgspec

from hashing.compare import Difference, difference_to_wire, load_difference
from hashing.digest import open_regular
from hashing.directories import Directories
from hashing.errors import FileVanished, LinkToNothing, MalformedPackage, Note, UnsafePath
from hashing.manifest import FileMeta
from hashing.metadata_json import WireMeta
from hashing.notes import Notes, explain
from hashing.package import CHUNK_BYTES, FILE_SEP, METADATA_NAME, PATH_SEP, ZLIB, compress_entry
from hashing.rules import Rules
from hashing.segment import Segment

OnStep = Callable[[], object]
Load = Callable[[str], Difference]

FULL = "Maximum zip size exceeded. Not all files will be compressed during this sync."
_FAILED = "Exception raised: Error 3001 - Error creating zip file: "
_SMALLEST_ENTRY = len(PATH_SEP) + len(FILE_SEP) + 8
_WRITE_BUFFER = 1024 * 1024


class PackedEntry(msgspec.Struct, frozen=True, array_like=True):
    """Entry number `number` of the difference (see `numbered`) lies, with the FILE_SEP behind it, at `offset` of the
    part, `length` bytes. `digest` and `mtime_ns` are those of what was packed where it is no longer what the difference
    says, else empty and 0."""

    number: int
    offset: int
    length: int
    digest: bytes = b""
    mtime_ns: int = 0


class PackedPart(msgspec.Struct, frozen=True):
    """Some entries of a package, in the file `path`. `vanished`: numbers of files that are gone. `dropped`: of those
    that wait for another round, those in `oversize` because they are larger than the limit by themselves. Numbers of
    the range that are nowhere did not fit into the limit."""

    path: str
    entries: list[PackedEntry]
    vanished: list[int]
    dropped: list[int]
    oversize: list[int]
    notes: list[Note]


class FinishedPackage(msgspec.Struct, frozen=True):
    """The package is the concatenation of `segments`: `size` bytes with that SHA-256, of which the last `metadata_size`
    are the metadata entry. `sent`: files in it; `dropped`: how many wait for another round."""

    segments: list[Segment]
    size: int
    metadata_size: int
    sha256: bytes
    sent: int
    dropped: int
    notes: list[Note]


class _Full(Exception):
    """The entry does not fit into what is left of the limit."""


class _TooLarge(Exception):
    """The file alone is larger than the limit."""


class _Unreadable(Exception):
    """The file is there, but no single state of it could be read. The argument says why."""


def numbered(difference: Difference) -> list[FileMeta]:
    """The files to be sent, sorted by path. Two workers that lack the same files get the same numbers, whether a
    file is missing or differs."""
    return sorted((*difference.missing, *difference.shared), key=lambda row: row.path)


def content_keys(difference: Difference) -> tuple[bytes, bytes]:
    """Two digests of 16 bytes: of paths and digests of the files to be sent (differences where it is equal have equal
    entries), and of the whole difference (where it is equal the metadata are, too)."""
    content = blake2b(digest_size=16)
    content.update(b"".join(b"%b\0%b" % (row.path.encode(), row.digest) for row in numbered(difference)))
    whole = blake2b(msgspec.msgpack.encode(difference), digest_size=16)
    return content.digest(), whole.digest()


def pack_part(
    root: str,
    difference: str,
    start: int,
    stop: int,
    limit: int,
    level: int,
    out: str,
    oversize: bool,
    on_step: OnStep,
    load: Load = load_difference,
    method: str = ZLIB,
    rules: Rules | None = None,
) -> PackedPart:
    """Compress files number `start` to `stop` (excluded) of the difference file to `out`, replacing it: files of at
    most `limit` raw bytes, together at most `limit` packed bytes; with `oversize` no limit holds. The same files give
    the same bytes. `load` may know the difference of that file already; `rules` say which links are followed.

    What is wrong with a file is in the notes. A file is packed in one state of it or not at all. Raises OSError when
    `out` cannot be written (disk full), MalformedPackage and FileNotFoundError for the difference file.
    """
    rows = numbered(load(difference))
    with Directories(root, rules=rules) as directories, open(out, "wb", buffering=_WRITE_BUFFER) as file:
        packer = _PartPacker(root, directories, None if oversize else limit, (level, method), file, on_step)
        for number in range(start, min(stop, len(rows))):
            on_step()
            packer.pack(number, rows[number])
    return PackedPart(out, packer.entries, packer.vanished, packer.dropped, packer.oversize, packer.notes.all())


def finish_package(
    difference: str,
    parts: Sequence[PackedPart],
    limit: int,
    level: int,
    out: str,
    on_step: OnStep,
    load: Load = load_difference,
    method: str = ZLIB,
    *,
    delete_vanished: bool = True,
    believes: Callable[[str, bytes], bool] = lambda path, digest: True,
) -> FinishedPackage:
    """Choose entries up to `limit` packed bytes, in order, smaller ones behind one that does not fit (C12); write the
    metadata entry, which is not counted, to `out`; digest the whole.

    Files that vanished leave `missing`, and move from `shared` to `extra` (wire.md 5.6) unless `delete_vanished` is
    false: then the next manifest decides about them, together with whatever else has vanished. `believes`: whether a
    file may go in a later state than the difference names, by path and digest (empty: deleted); else it waits for a
    manifest that has it. What else is not sent leaves its group and is found again by the next check. Raises OSError,
    MalformedPackage (the difference's file is damaged, a part is shorter than it was).
    """
    found = load(difference)
    rows = numbered(found)
    sent: dict[int, FileMeta] = {}
    segments: list[Segment] = []
    size = 0
    named: set[int] = set()
    for part in parts:
        for entry in part.entries:
            row = rows[entry.number]
            if entry.digest and not believes(row.path, entry.digest):
                named.add(entry.number)
                continue
            if size + entry.length > limit:
                continue
            size += entry.length
            if entry.digest:
                row = msgspec.structs.replace(row, digest=entry.digest, mtime_ns=entry.mtime_ns)
            sent[entry.number] = row
            _extend(segments, part.path, entry.offset, entry.length)
    vanished = {number for part in parts for number in part.vanished}
    named |= vanished.union(sent, *(part.dropped for part in parts))
    notes = Notes()
    did_not_fit = next((number for number in range(len(rows)) if number not in named), None)
    if did_not_fit is not None:
        notes.add("WARNING", rows[did_not_fit].path, FULL)
    deleted = {number for number in vanished if delete_vanished and believes(rows[number].path, b"")}
    metadata = _metadata_of(found, rows, sent, deleted)
    metadata_size = write_metadata(out, metadata, level, method)
    segments.append(Segment(out, 0, metadata_size))
    size += metadata_size
    digest = _digest_segments(segments, on_step)
    left = len(rows) - len(sent) - len(vanished)
    return FinishedPackage(segments, size, metadata_size, digest, len(sent), left, notes.all())


def write_metadata(out: str, metadata: bytes, level: int, method: str = ZLIB) -> int:
    """Write a package's last entry (a worker's whole package, wire.md 5.4) to `out`, replacing it. Returns its size."""
    pieces = (metadata[at : at + CHUNK_BYTES] for at in range(0, len(metadata), CHUNK_BYTES))
    with open(out, "wb", buffering=_WRITE_BUFFER) as file:
        return compress_entry(METADATA_NAME, pieces, level, file.write, method)[1]


class _PartPacker:
    """Appends entries to a part, one file after the other, and keeps the lists of its result."""

    def __init__(
        self,
        root: str,
        directories: Directories,
        limit: int | None,
        how: tuple[int, str],
        file: BinaryIO,
        on_step: OnStep,
    ) -> None:
        self._root = root
        self._directories = directories
        self._limit = limit
        self._level, self._method = how
        self._file = file
        self._on_step = on_step
        self._size = 0  # of the entries that are whole
        self._written = 0  # with the one being written
        self.entries: list[PackedEntry] = []
        self.vanished: list[int] = []
        self.dropped: list[int] = []
        self.oversize: list[int] = []
        self.notes = Notes()

    def pack(self, number: int, row: FileMeta) -> None:
        """Append the file, or say in the lists and notes why not."""
        full_path = f"{self._root}/{row.path}"
        if self._limit is not None and self._size + _SMALLEST_ENTRY > self._limit:
            return
        try:
            fd = self._open(row)
            try:
                digest, mtime_ns = self._append(row, fd)
            finally:
                os.close(fd)
        except FileVanished:
            self.vanished.append(number)
            reason = f"[Errno {errno.ENOENT}] {os.strerror(errno.ENOENT)}: {full_path!r}"
            self.notes.add("DEBUG", row.path, _FAILED + reason)
        except _Unreadable as error:
            # ERROR where stock has DEBUG: the file exists and stays different, and no other line says so.
            self.dropped.append(number)
            self.notes.add("ERROR", row.path, f"{_FAILED}{error}: {full_path!r}", str(error))
        except _TooLarge:
            self._note_too_large(number, row.path)
        except _Full:
            if (
                not self._size
            ):  # It had the whole limit to itself: packed it does not fit, although its raw bytes would.
                self._note_too_large(number, row.path)
            # Otherwise finish_package says so once, for all of them.
        else:
            is_as_listed = digest == row.digest
            length = self._written - self._size
            entry = PackedEntry(number, self._size, length, *(() if is_as_listed else (digest, mtime_ns)))
            self.entries.append(entry)
            self._size = self._written
        self._cut_back()

    def _note_too_large(self, number: int, path: str) -> None:
        self.dropped.append(number)
        self.oversize.append(number)
        why = "larger than the limit of a package; goes in one of its own"
        self.notes.add("WARNING", path, f"File too large to be synced: {self._root}/{path}", why)

    def _open(self, row: FileMeta) -> int:
        directory, _, name = row.path.rpartition("/")
        try:
            try:
                return open_regular(self._directories.get(directory), name)
            except UnsafePath:
                # It may be a link to a file, which counts as a file where it is followed.
                return self._directories.links.file(self._directories.root_fd, row.item, row.path)
        except (LinkToNothing, UnsafePath, OSError) as error:
            raise _Unreadable(explain(error)) from error

    def _append(self, row: FileMeta, fd: int) -> tuple[bytes, int]:
        """Write the entry. Returns digest and modification time of what was packed. A file that changes meanwhile is
        read once more. If it changes again it is left out: late is better than half of two states."""
        for _ in range(2):
            before = os.fstat(fd)
            if self._limit is not None and before.st_size > self._limit:
                raise _TooLarge
            hasher = blake2b()
            chunks = self._chunks(fd, before.st_size, hasher.update)
            raw, _ = compress_entry(row.path, chunks, self._level, self._put, self._method)
            after = os.fstat(fd)
            if raw == before.st_size and _state(before) == _state(after):
                self._put(FILE_SEP)
                return hasher.digest(), before.st_mtime_ns
            self._cut_back()
            os.lseek(fd, 0, os.SEEK_SET)
        raise _Unreadable("it is being written to")

    def _chunks(self, fd: int, size: int, update: Callable[[bytes], object]) -> Iterator[bytes]:
        left = size
        while left > 0:
            try:
                data = os.read(fd, min(left, CHUNK_BYTES))
            except OSError as error:
                raise _Unreadable(explain(error)) from error
            if not data:
                return
            left -= len(data)
            update(data)
            self._on_step()
            yield data

    def _put(self, data: bytes) -> None:
        self._written += len(data)
        if self._limit is not None and self._written > self._limit:
            raise _Full
        self._file.write(data)

    def _cut_back(self) -> None:
        """Cut the part back to before an entry that could not be completed."""
        if self._written != self._size:
            self._file.seek(self._size)
            self._file.truncate()
            self._written = self._size


def _state(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _extend(segments: list[Segment], path: str, offset: int, length: int) -> None:
    if segments:
        last = segments[-1]
        if last.path == path and last.offset + last.length == offset:
            segments[-1] = Segment(path, last.offset, last.length + length)
            return
    segments.append(Segment(path, offset, length))


def _metadata_of(found: Difference, rows: Sequence[FileMeta], sent: dict[int, FileMeta], vanished: set[int]) -> bytes:
    held = {row.path for row in found.shared}
    missing: list[FileMeta] = []
    shared: list[FileMeta] = []
    for _, row in sorted(sent.items()):
        (shared if row.path in held else missing).append(row)
    extra = list(found.extra)
    for row in (rows[number] for number in sorted(vanished)):
        if row.path in held:
            extra.append((row.path, WireMeta(row.item, row.digest.hex(), row.mtime_ns / 1e9)))
    return difference_to_wire(missing, extra, shared)


def _digest_segments(segments: Sequence[Segment], on_step: OnStep) -> bytes:
    """SHA-256 over the segments, in order. Raises MalformedPackage when a file is shorter than its segment."""
    hasher = sha256()
    for segment in segments:
        offset, end = segment.offset, segment.offset + segment.length
        with open(segment.path, "rb", buffering=0) as file:
            while offset < end:
                data = os.pread(file.fileno(), min(CHUNK_BYTES, end - offset), offset)
                if not data:
                    raise MalformedPackage(segment.path, "is shorter than it was when it was packed")
                hasher.update(data)
                offset += len(data)
                on_step()
    return hasher.digest()
