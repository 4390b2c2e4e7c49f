"""Jobs on the tree and its manifest: scan, build, patch, sweep, rotate."""

import struct

import msgspec

from clusterd.messages.base import Job, Result
from hashing.errors import Note


class ShardScanned(Result, frozen=True, tag="scanned"):
    """`failed`: the shard could not be scanned at all; files that could not be read are in `notes`, and their rows stay
    unchanged. `digest` changes when any row of the shard changes, so an unchanged shard needs no new manifest. `again`:
    directories to scan again from time to time, because no event may report their changes (with a trailing slash: with
    everything below)."""

    files: int
    hashed: int
    reused: int
    hashed_bytes: int
    digest: str
    failed: bool
    notes: list[Note]
    again: list[str] = msgspec.field(default_factory=list)


class ScanShard(Job[ShardScanned], frozen=True, tag="scan"):
    """Walk and hash shard `shard` of `shards` (files whose path hashes to it), reusing and rewriting the digest cache
    in `state_dir`. `ignore_cache` reads every file again. `gives_way`: the job ends as "gave-way" as soon as sync's
    counter `hurry` has another value; -1: never."""

    root: str
    state_dir: str
    shard: int
    shards: int
    ignore_cache: bool = False
    gives_way: int = -1


PIECE_HEAD = struct.Struct(">5I")
"""Before each piece of a file of MostlyListed: its length in bytes, and its counts as there."""


class MostlyListed(msgspec.Struct, frozen=True, array_like=True):
    """What a job has changed in the manifest, for the journal: counts, and a list of FileChange in MessagePack, in
    `files`, or in pieces, each behind a PIECE_HEAD, in the file `path`. `unlisted`: files beyond the list."""

    added: int
    changed: int
    deleted: int
    withheld: int
    unlisted: int = 0
    files: bytes = b""
    path: str = ""


class ManifestBuilt(Result, frozen=True, tag="manifest-built"):
    """`root_digest` names this state of the manifest; `content_digest` (32 hex digits) covers its files alone, and is
    equal on nodes with equal files; `buckets`: the 1,024 digests of 16 bytes that it is computed from.

    `base`: digest of another manifest whose file the file of this one needs. `vanished`: files lost since the previous
    manifest; `withheld`, `settling`: files that are gone and kept in the manifest (hashing/protection.py). `doubt`: why
    client.keys is one of them. `is_unguarded`: there is no record of what was published to peers, so it is unknown what
    has vanished. `listed`: what the job has changed, if it was asked and there is anything. For a patch also the fields
    of ShardScanned, and `trees`: those of its paths that are directories."""

    root_digest: str
    content_digest: str
    buckets: bytes
    files: int
    total_bytes: int
    base: str = ""
    vanished: int = 0
    withheld: int = 0
    settling: int = 0
    doubt: str = ""
    is_unguarded: bool = False
    hashed: int = 0
    reused: int = 0
    hashed_bytes: int = 0
    notes: list[Note] = msgspec.field(default_factory=list)
    again: list[str] = msgspec.field(default_factory=list)
    trees: list[str] = msgspec.field(default_factory=list)
    listed: MostlyListed | None = None


class BuildManifest(Job[ManifestBuilt], frozen=True, tag="manifest"):
    """Merge the shard files of the last scan into the manifest file of `state_dir`.

    `digests`: of each shard, as it was scanned. Where its file has another one by now the job fails: the late end of a
    scan that an earlier sync process began must not be taken for this one.

    `published`: root digest of the manifest last published to peers. If more than `max_delete_share` of it has vanished
    since, that is withheld (hashing/protection.py). If its file is gone, or `published` is empty, nothing is withheld.
    `lost_before`: files that were lost just before it. `max_key_loss_share`, `key_loss_from`: the same for the keys in
    client.keys below `root` (clusterd/key_guard.py). `changes`: a file for what has changed, empty if nobody asks."""

    makes = ("changes",)

    root: str
    state_dir: str
    digests: list[str]
    published: str = ""
    max_delete_share: float = 1.0
    lost_before: int = 0
    max_key_loss_share: float = 1.0
    key_loss_from: int = 3
    changes: str = ""


class PatchManifest(Job[ManifestBuilt], frozen=True, tag="patch-manifest"):
    """Scan `paths` and `directories` again (hashing/rescan.py) and update the manifest `root_digest`. `base`: digest of
    the other file that its file needs (as in ManifestBuilt). `shards`: of the last scan. `max_delete_share`,
    `lost_before`, `max_key_loss_share`, `key_loss_from`, `changes` as in BuildManifest; `judge`: decide now about
    settling files; `allow_delete`: withhold nothing."""

    makes = ("changes",)

    root: str
    state_dir: str
    root_digest: str
    base: str
    shards: int
    paths: list[str]
    directories: list[str]
    max_delete_share: float = 1.0
    lost_before: int = 0
    judge: bool = False
    allow_delete: bool = False
    max_key_loss_share: float = 1.0
    key_loss_from: int = 3
    changes: str = ""


class Packed(Result, frozen=True, tag="packed"):
    size: int
    files: int = 0


class RulesetHashes(Job[Packed], frozen=True, tag="ruleset-hashes"):
    """Write JSON of path to BLAKE2b for etc/rules/, etc/decoders/, etc/lists/ (dapi.md 1.8) to `out`."""

    makes = ("out",)

    state_dir: str
    root_digest: str
    out: str


class Swept(Result, frozen=True, tag="swept"):
    count: int


class SweepTemporary(Job[Swept], frozen=True, tag="sweep"):
    """Remove temporary files that killed processes left beside targets, and those in the directories `more`."""

    root: str
    more: list[str] = msgspec.field(default_factory=list)


class RotateLog(Job[Swept], frozen=True, tag="rotate-log"):
    """Move cluster.log to logs/cluster/{year}/{Mon}/cluster.log-{dd}.gz (wire.md 9.1)."""

    root: str
    day: str
