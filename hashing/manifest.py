"""Metadata of a node's files: FileMeta of one file, Manifest of all files with a root digest and 1,024 bucket
digests."""

import contextlib
import os
from collections.abc import Iterable
from hashlib import blake2b
from itertools import pairwise
from operator import attrgetter

import msgspec
import xxhash

from hashing.atomic import FileOps
from hashing.errors import MalformedPackage
from hashing.state_file import remove_all_but, save_state

BUCKETS = 1024
BUCKET_DIGEST_BYTES = 16
EMPTY_BUCKET = blake2b(digest_size=BUCKET_DIGEST_BYTES).digest()
"""The digest of a bucket without rows. Most of a small tree's 1,024 are empty."""
MANIFEST_MAGIC = b"cdmanif1"
_FILE_PREFIX = "manifest-"


class FileMeta(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One file: path relative to the root with forward slashes, the key of its item, BLAKE2b (64 bytes), size in bytes,
    modification time in ns (informative, never compared between nodes)."""

    path: str
    item: str
    digest: bytes
    size: int
    mtime_ns: int


class Manifest(msgspec.Struct, frozen=True, array_like=True):
    """All files of a node at one moment, sorted by path.

    `unread`: paths, or with a trailing slash directories, of which the scan could not tell what is there. Rows from
    before are kept, and what a peer has there besides is not extra (C8). `withheld`, `settling`: paths of rows whose
    files have vanished in great numbers (protection.py): peers that have them keep them, none is sent them.
    """

    root_digest: str
    rows: tuple[FileMeta, ...]
    unread: tuple[str, ...] = ()
    withheld: tuple[str, ...] = ()
    settling: tuple[str, ...] = ()

    @property
    def buckets(self) -> bytes:
        """The digests of its buckets, see `bucket_digests`; computed anew each time."""
        return bucket_digests(self.rows)


def bucket_of(path: str) -> int:
    """Number of the bucket that `path` is in, 0 to 1023."""
    return int(xxhash.xxh3_64_intdigest(path.encode())) % BUCKETS


def bucket_digests(rows: Iterable[FileMeta]) -> bytes:
    """1,024 digests of 16 bytes, in order of their numbers: each BLAKE2b-128 over path, NUL and digest of the rows
    of that bucket, which must come sorted by path. Sizes and times are not in it, so nodes with equal files have
    equal digests."""
    return b"".join([bucket_digest(part) if part else EMPTY_BUCKET for part in by_bucket(rows)])


def by_bucket(rows: Iterable[FileMeta]) -> list[list[FileMeta]]:
    """The rows of each of the 1,024 buckets, in the order in which they come."""
    parts: list[list[FileMeta]] = [[] for _ in range(BUCKETS)]
    number = xxhash.xxh3_64_intdigest
    for row in rows:
        parts[number(row.path.encode()) % BUCKETS].append(row)
    return parts


def bucket_digest(rows: Iterable[FileMeta]) -> bytes:
    """The digest of one bucket, from its rows sorted by path."""
    joined = b"".join([b"%b\0%b" % (row.path.encode(), row.digest) for row in rows])
    return blake2b(joined, digest_size=BUCKET_DIGEST_BYTES).digest()


def items_digest(rows: Iterable[FileMeta]) -> int:
    """xxh3 of the items of one bucket's rows, sorted by path; 0 for none."""
    items = "\0".join([row.item for row in rows])
    return int(xxhash.xxh3_64_intdigest(items.encode())) if items else 0


def content_digest(buckets: bytes) -> str:
    """Hex of BLAKE2b-128 over the bucket digests: equal on nodes with equal files."""
    return blake2b(buckets, digest_size=BUCKET_DIGEST_BYTES).hexdigest()


def root_digest(
    buckets: bytes,
    items: Iterable[int],
    unread: Iterable[str] = (),
    withheld: Iterable[str] = (),
    settling: Iterable[str] = (),
) -> str:
    """Hex of BLAKE2b-128 over the bucket digests and whatever else a manifest has, so that it names one state of it and
    nodes with equal, fully read files and equal rules have the same. `items`: the `items_digest` of each bucket. The
    paths must come sorted."""
    root = blake2b(buckets, digest_size=BUCKET_DIGEST_BYTES)
    root.update(b"".join([number.to_bytes(8, "big") for number in items]))
    for path in unread:
        root.update(path.encode(errors="surrogateescape") + b"\0")
    for mark, paths in ((b"\0w", withheld), (b"\0s", settling)):
        for path in paths:
            root.update(mark + path.encode() + b"\0")
    return root.hexdigest()


def build_manifest(rows: Iterable[FileMeta], unread: Iterable[str] = ()) -> Manifest:
    """Sort the rows and compute the root digest. Raises MalformedPackage when two rows have the same path."""
    ordered = sorted(rows, key=attrgetter("path"))
    for before, after in pairwise(ordered):
        if before.path == after.path:
            raise MalformedPackage(after.path, "is twice in the manifest")
    missed = tuple(sorted(set(unread)))
    parts = by_bucket(ordered)
    buckets = b"".join([bucket_digest(part) if part else EMPTY_BUCKET for part in parts])
    return Manifest(root_digest(buckets, map(items_digest, parts), missed), tuple(ordered), missed)


def manifest_path(state_dir: str, root_digest: str) -> str:
    """Where the manifest of that digest is kept."""
    return os.path.join(state_dir, _FILE_PREFIX + root_digest)


def kept_manifests(state_dir: str) -> list[str]:
    """Root digests of the manifests that are kept there, the newest first. OSError as it comes."""
    found = []
    with os.scandir(state_dir) as entries:
        for entry in entries:
            if entry.name.startswith(_FILE_PREFIX):
                with contextlib.suppress(FileNotFoundError):
                    found.append((entry.stat(follow_symlinks=False).st_mtime_ns, entry.name.removeprefix(_FILE_PREFIX)))
    return [digest for _, digest in sorted(found, reverse=True)]


def save_manifest(ops: FileOps, state_dir: str, manifest: Manifest, *, keep: int = 8) -> None:
    """Write the manifest's file and remove older ones beyond `keep`: jobs that were started with one of the last few
    root digests still find theirs. OSError as it comes."""
    save_state(ops, manifest_path(state_dir, manifest.root_digest), MANIFEST_MAGIC, manifest)
    remove_all_but(ops, state_dir, _FILE_PREFIX, keep)
