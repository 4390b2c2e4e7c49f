"""Jobs on the tree and its manifest: scan, build, patch, sweep, rotate."""

import msgspec

from clusterd.messages.base import Job, Result
from hashing.errors import Note


class ShardScanned(Result, frozen=True, tag="scanned"):
    """`failed`: the shard could not be scanned at all; what could not be read is in `notes` and kept as it was.
    `digest` changes when any row of the shard changes, so an unchanged shard needs no new manifest. `again`:
    directories to look at again from time to time, as no event may tell when they have changed (with a trailing slash:
    with all below)."""

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
    in `state_dir`. `ignore_cache` reads every file again. `gives_way`: it ends as "gave-way" as soon as sync's counter
    `hurry` is another one; -1: never. Result: ShardScanned."""

    root: str
    state_dir: str
    shard: int
    shards: int
    ignore_cache: bool = False
    gives_way: int = -1


class ManifestBuilt(Result, frozen=True, tag="manifest-built"):
    """`root_digest` names this state of the manifest; `content_digest` (32 hex digits) is that of its files alone,
    equal on nodes with equal files; `buckets`: the 1,024 digests of 16 bytes that it is made of.

    `base`: digest of another manifest whose file the file of this one needs. `vanished`: files lost since the manifest
    before; `withheld`, `settling`: files that are gone and kept in the manifest (hashing/protection.py). `doubt`: why
    client.keys is one of them. `is_unguarded`: no record is left of what peers were told, so nobody knows what has
    vanished. Of a patch also what ShardScanned has, and `trees`: those of its paths that are
    directories."""

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


class BuildManifest(Job[ManifestBuilt], frozen=True, tag="manifest"):
    """Merge the shard files of the last scan into the manifest file of `state_dir`. Result: ManifestBuilt.

    `published`: root digest of the manifest that peers have been told of last; of what has vanished since, more than
    `max_delete_share` is withheld (hashing/protection.py). If its file is gone, and if it is empty, nothing is.
    `lost_before`: files that were lost just before it. `max_key_loss_share`, `key_loss_from`: the same for the keys in
    client.keys below `root` (clusterd/key_guard.py)."""

    root: str
    state_dir: str
    shards: int
    published: str = ""
    max_delete_share: float = 1.0
    lost_before: int = 0
    max_key_loss_share: float = 1.0
    key_loss_from: int = 3


class PatchManifest(Job[ManifestBuilt], frozen=True, tag="patch-manifest"):
    """Look again at `paths` and `directories` (hashing/rescan.py) and make the manifest `root_digest` the present one.
    `base`: digest of the other file that its file needs (as ManifestBuilt has it). `shards`: of the last scan.
    `max_delete_share`, `lost_before`, `max_key_loss_share`, `key_loss_from` as in BuildManifest; `judge`: decide now
    about what is settling; `allow_delete`: withhold nothing.
    Result: ManifestBuilt."""

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


class Packed(Result, frozen=True, tag="packed"):
    size: int
    files: int = 0


class RulesetHashes(Job[Packed], frozen=True, tag="ruleset-hashes"):
    """JSON of path to BLAKE2b for etc/rules/, etc/decoders/, etc/lists/ (dapi.md 1.8) written to `out`. Result:
    Packed."""

    state_dir: str
    root_digest: str
    out: str


class Swept(Result, frozen=True, tag="swept"):
    count: int


class SweepTemporary(Job[Swept], frozen=True, tag="sweep"):
    """Remove temporary files that killed processes left beside targets, and in the directories `more`. Result:
    Swept."""

    root: str
    more: list[str] = msgspec.field(default_factory=list)


class RotateLog(Job[Swept], frozen=True, tag="rotate-log"):
    """Move cluster.log to logs/cluster/{year}/{Mon}/cluster.log-{dd}.gz (wire.md 9.1). Result: Swept."""

    root: str
    day: str
