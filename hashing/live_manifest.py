"""A manifest that is patched as files change: the cost of a few changes does not depend on the number of files.

    rows by path, paths in order, paths by bucket, bucket digests (made anew for touched buckets only)

Its digests equal those of `build_manifest` over the same rows. On the disk it is a full file (manifest.py) or a
*delta*: what differs from the full file it names, its base. Deltas are cumulative, so reading one back needs two files
at most, and who holds one state of a base gets to another in the time of both deltas.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from hashing.atomic import FileOps
from hashing.errors import MalformedPackage
from hashing.manifest import (
    BUCKET_DIGEST_BYTES,
    BUCKETS,
    EMPTY_BUCKET,
    MANIFEST_MAGIC,
    FileMeta,
    Manifest,
    bucket_digest,
    bucket_of,
    content_digest,
    items_digest,
    manifest_path,
    root_digest,
    save_manifest,
)
from hashing.state_file import load_state_of, magic_of, save_state

FULL_ROWS = 2000
FULL_SHARE = 8
"""A delta with more rows than this, or with more than this part of all rows, is written as a full file instead."""
KEPT_AT_MOST = 256
"""Manifest files that are left when a full one is written: whoever owns the directory removes what it does not need."""

_DELTA_MAGIC = b"cddelta1"
_SORT_ABOVE = 256
"""From this many added or removed paths on, sorting all paths is cheaper than inserting each."""

Changes = Mapping[str, FileMeta | None]
"""Path to its new row, None where there is no such file any more."""


class Delta(msgspec.Struct, frozen=True, array_like=True):
    """What makes the full manifest `base` the manifest `root_digest`: new rows, paths that are gone. The rest as in
    Manifest."""

    root_digest: str
    base: str
    rows: list[FileMeta]
    gone: list[str]
    unread: tuple[str, ...] = ()
    withheld: tuple[str, ...] = ()
    settling: tuple[str, ...] = ()


class LiveManifest:
    """The rows of one node, to be asked and patched. `base`: digest of the full file it derives from, empty if none is
    there.

    `rows`, `unread`, `withheld`, `settling` as in Manifest.
    """

    def __init__(self, manifest: Manifest, base: str = "") -> None:
        """`base`: the manifest's own digest if its full file exists."""
        self._rows = {row.path: row for row in manifest.rows}
        self._paths = list(self._rows)
        self._ordered: tuple[FileMeta, ...] | None = manifest.rows
        self._buckets: list[list[str]] | None = None
        self._digests = bytearray(BUCKETS * EMPTY_BUCKET)
        self._items = [0] * BUCKETS
        self._stale: set[int] = set()
        self._original: dict[str, FileMeta | None] = {}
        self._root_digest = manifest.root_digest
        self.total_bytes = sum(row.size for row in manifest.rows)
        self.unread = manifest.unread
        self.withheld = manifest.withheld
        self.settling = manifest.settling
        self.base = base

    # ---- asking ------------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, path: object) -> bool:
        return path in self._rows

    def get(self, path: str) -> FileMeta | None:
        return self._rows.get(path)

    @property
    def rows(self) -> tuple[FileMeta, ...]:
        """All rows, sorted by path."""
        if self._ordered is None:
            find = self._rows
            self._ordered = tuple([find[path] for path in self._paths])
        return self._ordered

    @property
    def held(self) -> frozenset[str]:
        """Paths of rows whose files have vanished and that are kept (Manifest)."""
        return frozenset((*self.withheld, *self.settling))

    def below(self, directory: str) -> list[FileMeta]:
        """The rows of all files in `directory` (no trailing slash) and below it, sorted."""
        start = bisect_left(self._paths, directory + "/")
        end = bisect_left(self._paths, directory + "0", start)  # "0" is what follows "/"
        return [self._rows[path] for path in self._paths[start:end]]

    def rows_of(self, numbers: Iterable[int]) -> list[FileMeta]:
        """The rows of these buckets, sorted by path. Raises IndexError for a number that is none."""
        buckets = self._indexed()
        paths = [path for number in {_bucket_number(number) for number in numbers} for path in buckets[number]]
        paths.sort()
        return [self._rows[path] for path in paths]

    @property
    def buckets(self) -> bytes:
        """The digests of the buckets, as `bucket_digests` gives them."""
        buckets, find = self._indexed(), self._rows
        for number in self._stale:
            rows = [find[path] for path in buckets[number]]
            self._digests[number * BUCKET_DIGEST_BYTES : (number + 1) * BUCKET_DIGEST_BYTES] = bucket_digest(rows)
            self._items[number] = items_digest(rows)
        self._stale.clear()
        return bytes(self._digests)

    @property
    def content_digest(self) -> str:
        return content_digest(self.buckets)

    @property
    def root_digest(self) -> str:
        if not self._root_digest:
            buckets = self.buckets  # brings `_items` up to date as well
            self._root_digest = root_digest(buckets, self._items, self.unread, self.withheld, self.settling)
        return self._root_digest

    def to_manifest(self) -> Manifest:
        return Manifest(self.root_digest, self.rows, self.unread, self.withheld, self.settling)

    # ---- changing ----------------------------------------------------------------------------------------------------

    def patch(self, changes: Changes) -> None:
        """Set and remove rows. Removing a path without a row does nothing."""
        find, original = self._rows, self._original
        added: list[str] = []
        removed: list[str] = []
        touched: list[str] = []
        for path, row in changes.items():
            before = find.get(path)
            if row == before:
                continue
            if original.setdefault(path, before) == row:
                del original[path]
            touched.append(path)
            if before is None:
                added.append(path)
            else:
                self.total_bytes -= before.size
            if row is None:
                removed.append(path)
                del find[path]
            else:
                find[path] = row
                self.total_bytes += row.size
        if not touched:
            return
        if len(added) + len(removed) > _SORT_ABOVE:
            # What is there is sorted but for what was added: that is cheap to sort again.
            self._paths = sorted([path for path in self._paths if path in find] + added)
        else:
            for path in removed:
                del self._paths[bisect_left(self._paths, path)]
            for path in added:
                insort(self._paths, path)
        if self._buckets is not None:
            for path in touched:
                self._stale.add(bucket_of(path))
            for path in removed:
                bucket = self._buckets[bucket_of(path)]
                del bucket[bisect_left(bucket, path)]
            for path in added:
                insort(self._buckets[bucket_of(path)], path)
        self._ordered = None
        self._root_digest = ""

    def mark(self, unread: Iterable[str], withheld: Iterable[str], settling: Iterable[str]) -> None:
        """Set what Manifest calls so."""
        marks = tuple(sorted(unread)), tuple(sorted(withheld)), tuple(sorted(settling))
        if marks != (self.unread, self.withheld, self.settling):
            self.unread, self.withheld, self.settling = marks
            self._root_digest = ""

    def _indexed(self) -> list[list[str]]:
        if self._buckets is None:
            self._buckets = [[] for _ in range(BUCKETS)]
            for path in self._paths:
                self._buckets[bucket_of(path)].append(path)
            self._stale = {number for number, paths in enumerate(self._buckets) if paths}
        return self._buckets

    # ---- files -------------------------------------------------------------------------------------------------------

    def forget_file(self) -> None:
        """It is saved in full, under a digest that is computed anew: that of a file which another version has written
        may be another one, and deltas are compared with what this version computes."""
        self.base = self._root_digest = ""

    def rebase(self) -> None:
        """The full file of this very state exists: deltas are against it from now on."""
        self.base = self.root_digest
        self._original.clear()

    def save(self, ops: FileOps, state_dir: str) -> None:
        """Write the file of this state: a delta if a base is there and the delta is small, else in full. Nothing if its
        full file is there already. OSError as it comes."""
        path = manifest_path(state_dir, self.root_digest)
        if self.base and self._is_small() and magic_of(manifest_path(state_dir, self.base)) == MANIFEST_MAGIC:
            if self.root_digest != self.base and magic_of(path) != MANIFEST_MAGIC:
                save_state(ops, path, _DELTA_MAGIC, self._delta())
            return
        save_manifest(ops, state_dir, self.to_manifest(), keep=KEPT_AT_MOST)
        self.rebase()

    def base_of_file(self, state_dir: str) -> str:
        """Digest of the other file that this state's file needs; empty if it needs none."""
        return "" if magic_of(manifest_path(state_dir, self.root_digest)) == MANIFEST_MAGIC else self.base

    def move_to(self, delta: Delta) -> None:
        """Become the state of that delta. Its base must be the own one. Raises MalformedPackage when it is not what
        its digest says; this manifest is of no use then."""
        wanted: dict[str, FileMeta | None] = dict.fromkeys(delta.gone)
        wanted |= {row.path: row for row in delta.rows}
        back = {path: before for path, before in self._original.items() if path not in wanted}
        self.patch(back)
        self.patch(wanted)
        self.mark(delta.unread, delta.withheld, delta.settling)
        if self.root_digest != delta.root_digest:
            raise MalformedPackage(delta.root_digest, "is a delta that does not fit its base")

    def _is_small(self) -> bool:
        return len(self._original) <= min(FULL_ROWS, len(self._rows) // FULL_SHARE)

    def _delta(self) -> Delta:
        find = self._rows
        rows = [find[path] for path in self._original if path in find]
        gone = [path for path, before in self._original.items() if path not in find and before is not None]
        return Delta(self.root_digest, self.base, rows, gone, self.unread, self.withheld, self.settling)


def load_live(state_dir: str, digest: str, known: LiveManifest | None = None) -> LiveManifest:
    """The manifest of that root digest; `known`, changed, where that is quicker than reading all of it: it must not
    be used afterwards. Raises FileNotFoundError, MalformedPackage (damaged, or not of that digest), other OSError as
    it comes."""
    if known is not None and known.root_digest == digest:
        return known
    found = _load(state_dir, digest)
    if isinstance(found, Manifest):
        return LiveManifest(found, digest)
    if known is not None and known.root_digest == found.base:
        known.rebase()
    if known is None or known.base != found.base:
        base = _load(state_dir, found.base)
        if not isinstance(base, Manifest):
            raise MalformedPackage(manifest_path(state_dir, found.base), "is no base of a delta")
        known = LiveManifest(base, found.base)
    known.move_to(found)
    return known


def _load(state_dir: str, digest: str) -> Manifest | Delta:
    path = manifest_path(state_dir, digest)
    found: Manifest | Delta = load_state_of(path, _DECODERS)
    if found.root_digest != digest:
        raise MalformedPackage(path, "is the manifest of another root digest")
    return found


_DECODERS: dict[bytes, msgspec.msgpack.Decoder[Any]] = {
    MANIFEST_MAGIC: msgspec.msgpack.Decoder(Manifest),
    _DELTA_MAGIC: msgspec.msgpack.Decoder(Delta),
}


def _bucket_number(number: int) -> int:
    if not 0 <= number < BUCKETS:
        raise IndexError(f"{number} is no bucket")
    return number


def differences(before: LiveManifest, rows: Iterable[FileMeta]) -> Iterator[tuple[str, FileMeta | None]]:
    """The changes that make `before` consist of `rows`. Rows that are held and whose files are there are among them:
    see protection.py."""
    held = before.held
    seen: set[str] = set()
    for row in rows:
        seen.add(row.path)
        if before.get(row.path) != row or row.path in held:
            yield row.path, row
    for row in before.rows:
        if row.path not in seen:
            yield row.path, None
