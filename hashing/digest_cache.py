"""Digests kept by file identity, per directory and shard, so that an unchanged tree is neither read nor listed again.

What is reused rests on two rules.

Identity: a file keeps its digest while (device, inode, size, mtime_ns, ctime_ns) are what they were when it was read; a
directory keeps its list of names while its (device, inode, mtime_ns, ctime_ns) are. mtime can be set by anybody, ctime
cannot.

Settled (git's racy timestamp rule): a change within the same tick of the file system's clock as the read before it
leaves all of these equal. So they count only if mtime and ctime were clearly older than the scan when it began: a
change after that gets a later time. Clearly is SETTLE_NS, 2 s: a tick is at most 10 ms on Linux's own file systems, 1 s
on old ones and over NFS, 2 s on FAT. A younger file is read again in the next scan, 8 s later, and settles then. A time
in the future never settles: that costs reading, and is never wrong.
"""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b

import msgspec
import xxhash

from hashing.atomic import FileOps
from hashing.digest import Buffer, read_digest
from hashing.errors import MalformedPackage
from hashing.manifest import FileMeta
from hashing.rules import Rules
from hashing.state_file import load_state, save_state

SETTLE_NS = 2_000_000_000
TICK_NS = 20_000_000
"""Twice the coarsest tick (10 ms) of the clock that stamps files on Linux. A file whose ctime, after it was read,
lies further before the read than this did not change during it."""

_MAGIC = b"cdshard1"
_NUMBER_BYTES = 8
_TYPE_MASK = 0o170000
_REGULAR = 0o100000


class CachedFile(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One file of a CachedDirectory and its identity. Times in ns. Unless `settled` it must be read again."""

    name: str
    digest: bytes
    size: int
    mtime_ns: int
    ctime_ns: int
    device: int
    inode: int
    settled: bool


class CachedDirectory(msgspec.Struct, frozen=True, array_like=True):
    """One directory as item `item` sees it: the files of this shard in it and all directories below that are walked,
    both sorted. `path` relative to the root, without trailing slash. `checksum`: xxh3 of what rows the files make.
    Unless `settled` its names must be listed again."""

    path: str
    item: str
    device: int
    inode: int
    mtime_ns: int
    ctime_ns: int
    settled: bool
    directories: list[str]
    files: list[CachedFile]
    checksum: int


class ShardRows(msgspec.Struct, frozen=True, array_like=True):
    """Everything known of one shard. `unread` as in Manifest. `rules` is a fingerprint of the rules it was made
    with: with others the lists of names do not count, the digests do. `digest` (16 hex digits) changes when a row or
    `unread` does."""

    rules: int
    digest: str
    directories: list[CachedDirectory]
    unread: list[str]


NO_ROWS = ShardRows(0, "", [], [])
"""The rows before the first scan."""


def shard_of(path: str, shards: int) -> int:
    """The shard that the file at `path` belongs to, of `shards` many."""
    return int(xxhash.xxh3_64_intdigest(path.encode())) % shards


def fingerprint(rules: Rules) -> int:
    """A fingerprint of the rules."""
    return int(xxhash.xxh3_64_intdigest(msgspec.msgpack.encode(rules)))


def is_same(file: CachedFile, status: os.stat_result) -> bool:
    """True if this is the identity with which the file was read."""
    return (
        status.st_mtime_ns == file.mtime_ns
        and status.st_ctime_ns == file.ctime_ns
        and status.st_size == file.size
        and status.st_ino == file.inode
        and status.st_dev == file.device
    )


def read_file(
    name: str, fd: int, buffer: Buffer, settled_before: int, on_step: Callable[[], None]
) -> CachedFile | None:
    """Digest an open file. None if it is not a regular file. OSError as it comes.

    A file that changes while it is read is read once more; if it changes again its row has what was read last, not
    settled. `settled_before`: when the scan began, less SETTLE_NS. The common case costs one read and one fstat.
    """
    began_ns = time.time_ns()
    size = os.readv(fd, buffer.lists)
    if size < buffer.size:  # read_digest, written out: this runs for every file of a first scan
        digest = blake2b(buffer.view[:size]).digest()
    else:
        os.lseek(fd, 0, os.SEEK_SET)
        digest, size = read_digest(fd, buffer, on_step)
    status = os.fstat(fd)
    if status.st_mode & _TYPE_MASK != _REGULAR:
        return None
    device, inode, mtime_ns, ctime_ns = status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns
    settled = ctime_ns < settled_before and mtime_ns < settled_before
    file = CachedFile(name, digest, size, mtime_ns, ctime_ns, device, inode, settled)
    if ctime_ns < began_ns - TICK_NS and size == status.st_size:
        return file
    # Written just before, or while, it was read; or its clock is ahead of ours.
    os.lseek(fd, 0, os.SEEK_SET)
    digest, size = read_digest(fd, buffer, on_step)
    file = CachedFile(name, digest, size, mtime_ns, ctime_ns, device, inode, settled)
    return file if is_same(file, os.fstat(fd)) else msgspec.structs.replace(file, settled=False)


def files_checksum(files: Iterable[CachedFile]) -> int:
    """xxh3 of what of these files is in manifest rows: names, digests, sizes, times. 0 for none."""
    parts: list[bytes] = []
    for file in files:
        parts += (
            file.name.encode(),
            file.digest,
            file.size.to_bytes(_NUMBER_BYTES, "big"),
            file.mtime_ns.to_bytes(_NUMBER_BYTES, "big", signed=True),
        )
    return int(xxhash.xxh3_64_intdigest(b"\0".join(parts))) if parts else 0


def make_shard_rows(rules: Rules, directories: list[CachedDirectory], unread: list[str]) -> ShardRows:
    """Sort and number what a scan found."""
    directories.sort(key=lambda directory: (directory.path, directory.item))
    hasher = xxhash.xxh3_64()
    for directory in directories:
        if directory.files:
            hasher.update(f"{directory.path}\0{directory.item}\0{directory.checksum}\0".encode())
    for path in sorted(unread):
        hasher.update(f"{path}\0\0".encode())
    return ShardRows(fingerprint(rules), hasher.hexdigest(), directories, sorted(unread))


def file_rows(shard: ShardRows) -> Iterable[FileMeta]:
    """The manifest rows of a shard."""
    for directory in shard.directories:
        prefix, item = directory.path + "/", directory.item
        for file in directory.files:
            yield FileMeta(prefix + file.name, item, file.digest, file.size, file.mtime_ns)


def shard_path(state_dir: str, shard: int, shards: int) -> str:
    """Where the cache of a shard is kept. Its name holds the number of shards: with another number it is another
    cache."""
    return os.path.join(state_dir, f"shard-{shard}-of-{shards}")


def save_shard(ops: FileOps, state_dir: str, shard: int, shards: int, rows: ShardRows) -> None:
    """Write the cache of a shard. OSError as it comes."""
    save_state(ops, shard_path(state_dir, shard, shards), _MAGIC, rows)


def load_shard(state_dir: str, shard: int, shards: int) -> ShardRows:
    """The cache of a shard; NO_ROWS when there is none, or none that is whole: everything is read again then, which
    needs no person. Other OSError (no permission, bad disk) as it comes."""
    try:
        return _load(state_dir, shard, shards)
    except (FileNotFoundError, MalformedPackage):
        return NO_ROWS


def load_rows(state_dir: str, digests: Sequence[str]) -> tuple[list[FileMeta], list[str]]:
    """Rows and unread paths of all shards, for build_manifest. Unlike load_shard this raises (FileNotFoundError,
    MalformedPackage) when a shard is not there: a manifest without it would tell peers to delete its files. The same
    for one whose digest is another one than in `digests`, of each shard: it was written by another scan."""
    rows: list[FileMeta] = []
    unread: list[str] = []
    for shard, digest in enumerate(digests):
        loaded = _load(state_dir, shard, len(digests))
        if loaded.digest != digest:
            raise MalformedPackage(shard_path(state_dir, shard, len(digests)), "was written by another scan meanwhile")
        rows += file_rows(loaded)
        unread += loaded.unread
    return rows, unread


def _load(state_dir: str, shard: int, shards: int) -> ShardRows:
    rows: ShardRows = load_state(shard_path(state_dir, shard, shards), _MAGIC, msgspec.msgpack.Decoder(ShardRows))
    return rows
