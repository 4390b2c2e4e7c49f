"""Jobs on the node's tree: scan a shard, build the manifest or patch it, its metadata as a package, compare with a
worker's."""

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from clusterd.agent_keys import KEY_FILE
from clusterd.key_guard import KeyRules, record_path
from clusterd.messages.manifest import (
    BuildManifest,
    ManifestBuilt,
    Packed,
    PatchManifest,
    RulesetHashes,
    ScanShard,
    ShardScanned,
)
from clusterd.messages.packages import Compared, ComparePackage, FitDifference, Fitted, PackMetadata
from clusterd.pool.changes import ChangeNote
from clusterd.pool.keys import KeyGuard
from clusterd.settings import Settings
from hashing.atomic import FileOps
from hashing.compare import Difference, compare, fit_difference, load_difference, save_difference, unknown_items
from hashing.digest_cache import NO_ROWS, ShardRows, load_rows, load_shard, save_shard, shard_path
from hashing.errors import MalformedPackage, Note
from hashing.live_manifest import LiveManifest, differences, load_live
from hashing.manifest import build_manifest, kept_manifests
from hashing.metadata_json import parse_wire_metadata, to_wire
from hashing.pack import content_keys, numbered, write_metadata
from hashing.package import read_metadata_of
from hashing.protection import Guard, apply_changes
from hashing.rescan import rescan
from hashing.walk import scan_shard

SHARDS_KEPT = 2
AGAIN_MOST = 1001
"""Directories to look at again that are named: sync rather walks when there are so many."""
LEAST_ROWS = 250000
ROWS_PER_OURS = 4
"""Files that a worker's metadata may name: so many times ours, and always LEAST_ROWS."""
ROW_BYTES = 512
"""What a file takes in metadata, at most and on average; usual are 230."""
RULESET_ITEMS = ("etc/rules/", "etc/decoders/", "etc/lists/")
OnStep = Callable[[], None]


class Memory:
    """What a pool process keeps between jobs because reading it again costs more than the job: the last manifest and
    the rows of the last shards. All of it is also in files; nothing here is the truth."""

    def __init__(self) -> None:
        self._manifest: LiveManifest | None = None
        self._shards: dict[str, tuple[tuple[int, int], ShardRows]] = {}
        self._keys_noted: tuple[bytes, tuple[int, int] | None] = (b"", None)

    def manifest(self, state_dir: str, root_digest: str) -> LiveManifest:
        """Good until the next call. Raises FileNotFoundError, MalformedPackage."""
        known, self._manifest = self._manifest, None
        self._manifest = load_live(state_dir, root_digest, known)
        return self._manifest

    def take_manifest(self, state_dir: str, root_digest: str) -> LiveManifest:
        """The same for whoever changes it and, once all went well, keeps it."""
        live, self._manifest = self.manifest(state_dir, root_digest), None
        return live

    def keep_manifest(self, manifest: LiveManifest) -> None:
        self._manifest = manifest

    def shard(self, state_dir: str, shard: int, shards: int) -> ShardRows:
        """The rows of the last scan; read again if another process has written them since."""
        path = shard_path(state_dir, shard, shards)
        version = _version(path)
        kept = self._shards.get(path)
        if kept is not None and kept[0] == version:
            return kept[1]
        rows = load_shard(state_dir, shard, shards)
        if version is not None and rows is not NO_ROWS and version == _version(path):
            self._keep(path, version, rows)
        return rows

    def note_keys(self, guard: KeyGuard, live: LiveManifest, state_dir: str) -> None:
        """Unless the last one to do so was this process, for the same keys."""
        row = live.get(KEY_FILE)
        noted = (b"" if row is None else row.digest, _version(record_path(state_dir)))
        if noted != self._keys_noted:
            guard.note(live)
            self._keys_noted = (noted[0], _version(record_path(state_dir)))

    def keep_shard(self, state_dir: str, shard: int, shards: int, rows: ShardRows) -> None:
        """These rows were just written by this process."""
        path = shard_path(state_dir, shard, shards)
        version = _version(path)
        if version is not None:
            self._keep(path, version, rows)

    def _keep(self, path: str, version: tuple[int, int], rows: ShardRows) -> None:
        self._shards.pop(path, None)
        while len(self._shards) >= SHARDS_KEPT:
            del self._shards[next(iter(self._shards))]
        self._shards[path] = (version, rows)


def _version(path: str) -> tuple[int, int] | None:
    """Tells one state of a file that is only ever replaced from another; None if it is not there."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def scan(job: ScanShard, settings: Settings, memory: Memory, on_step: OnStep) -> ShardScanned:
    """A shard that cannot be walked at all is `failed`; what cannot be read in it is in the notes."""
    try:
        previous = memory.shard(job.state_dir, job.shard, job.shards)
        found = scan_shard(
            job.root,
            settings.rules,
            job.shard,
            job.shards,
            previous,
            ignore_cache=job.ignore_cache,
            on_step=on_step,
        )
        if found.is_changed or previous is NO_ROWS:
            save_shard(FileOps(), job.state_dir, job.shard, job.shards, found.rows)
            memory.keep_shard(job.state_dir, job.shard, job.shards, found.rows)
    except OSError as failure:
        path = str(failure.filename or job.root)
        text = f"Error getting file status: {failure}."
        return ShardScanned(0, 0, 0, 0, "", True, [Note("WARNING", path, text, f"{path}: {failure.strerror}")])
    return ShardScanned(
        files=found.files,
        hashed=found.hashed,
        reused=found.reused,
        hashed_bytes=found.hashed_bytes,
        digest=found.rows.digest,
        failed=False,
        notes=found.notes,
        again=found.again[:AGAIN_MOST],
    )


def make_manifest(job: BuildManifest, settings: Settings, memory: Memory, on_step: OnStep) -> ManifestBuilt:
    """Raises FileNotFoundError or MalformedPackage when a shard's file is not whole, or that of another scan."""
    rows, unread = load_rows(job.state_dir, job.digests)
    on_step()
    live = _published(job, memory)
    keys = KeyGuard(job.root, job.state_dir, KeyRules(job.max_key_loss_share, job.key_loss_from), settings.rules)
    vanished, doubt = 0, ""
    is_unguarded = live is None and bool(job.published) and (job.max_delete_share < 1 or job.max_key_loss_share < 1)
    note: ChangeNote | None = None
    if live is None:
        live = LiveManifest(build_manifest(rows, unread))
    else:
        changes = dict(differences(live, rows))
        doubt = keys.doubts(live, changes)
        guard = Guard(job.max_delete_share, lost_before=job.lost_before, doubted=_doubted(doubt))
        note = ChangeNote(live, changes) if job.changes else None
        vanished = apply_changes(live, changes, frozenset(unread), guard)
        live.forget_file()
    on_step()
    live.save(FileOps(), job.state_dir)
    memory.note_keys(keys, live, job.state_dir)
    memory.keep_manifest(live)
    listed = None if note is None else note.listed(job.changes)
    built = _built(live, job.state_dir, vanished, doubt)
    return msgspec.structs.replace(built, is_unguarded=is_unguarded, listed=listed)


def _doubted(doubt: str) -> frozenset[str]:
    return frozenset((KEY_FILE,)) if doubt else frozenset()


def _published(job: BuildManifest, memory: Memory) -> LiveManifest | None:
    """What peers were told last; where that cannot be read, the newest manifest that can."""
    if not job.published:
        return None
    for digest in (job.published, *kept_manifests(job.state_dir)):
        with contextlib.suppress(FileNotFoundError, MalformedPackage):
            return memory.take_manifest(job.state_dir, digest)
    return None


def _built(live: LiveManifest, state_dir: str, vanished: int, doubt: str) -> ManifestBuilt:
    return ManifestBuilt(
        live.root_digest,
        live.content_digest,
        live.buckets,
        len(live),
        live.total_bytes,
        base=live.base_of_file(state_dir),
        vanished=vanished,
        withheld=len(live.withheld),
        settling=len(live.settling),
        doubt=doubt if KEY_FILE in live.withheld else "",
    )


def patch_manifest(job: PatchManifest, settings: Settings, memory: Memory, on_step: OnStep) -> ManifestBuilt:
    """Raises FileNotFoundError or MalformedPackage when the manifest to be patched is not whole."""
    live = memory.take_manifest(job.state_dir, job.root_digest)
    if live.base != (job.base or job.root_digest):
        # Its file has been written anew since this process read it, and its base may go.
        if job.base:
            live = load_live(job.state_dir, job.root_digest)
        else:
            live.rebase()
    # What a person allows is what is on the disk now; keys in doubt are looked at each time.
    paths = {*job.paths, *(live.held if job.allow_delete else live.held & {KEY_FILE})}
    found = rescan(
        job.root,
        settings.rules,
        live,
        paths,
        job.directories,
        lambda: (memory.shard(job.state_dir, shard, job.shards) for shard in range(job.shards)),
        on_step=on_step,
    )
    on_step()
    keys = KeyGuard(job.root, job.state_dir, KeyRules(job.max_key_loss_share, job.key_loss_from), settings.rules)
    doubt = keys.doubts(live, found.changes, allow=job.allow_delete)
    guard = Guard(job.max_delete_share, job.judge, job.allow_delete, job.lost_before, _doubted(doubt))
    note = ChangeNote(live, found.changes) if job.changes else None
    vanished = apply_changes(live, found.changes, found.unread, guard)
    on_step()
    live.save(FileOps(), job.state_dir)
    memory.note_keys(keys, live, job.state_dir)
    memory.keep_manifest(live)
    return msgspec.structs.replace(
        _built(live, job.state_dir, vanished, doubt),
        hashed=found.hashed,
        reused=found.reused,
        hashed_bytes=found.hashed_bytes,
        notes=found.notes,
        again=found.again,
        trees=found.trees,
        listed=None if note is None else note.listed(job.changes),
    )


def pack_metadata(job: PackMetadata, settings: Settings, memory: Memory, on_step: OnStep) -> Packed:
    """The package of a worker's check: the metadata as its only entry."""
    rows = memory.manifest(job.state_dir, job.root_digest).rows
    on_step()
    size = write_metadata(job.out, to_wire(rows), settings.communication.compress_level, job.method)
    return Packed(size, len(rows))


def compare_package(job: ComparePackage, settings: Settings, memory: Memory, on_step: OnStep) -> Compared:
    """Raises MalformedPackage, PackageTooLarge for what a worker sent: also for one that names many times our files,
    which would keep this process from everybody else's work."""
    ours = memory.manifest(job.state_dir, job.root_digest)
    most_rows = max(LEAST_ROWS, ROWS_PER_OURS * len(ours.rows))
    metadata = read_metadata_of(job.package, most_rows * ROW_BYTES)
    on_step()
    theirs = parse_wire_metadata(metadata, most_rows=most_rows)
    del metadata
    on_step()
    found = compare(ours, theirs, settings.rules)
    on_step()
    return note_difference(found, job.out, len(theirs), unknown=unknown_items(theirs, settings.rules))


def note_difference(
    found: Difference, out: str, received: int, *, dry: bool = False, against: str = "", unknown: Sequence[str] = ()
) -> Compared:
    """Write a difference to `out` and say what is in it; the rest as Compared has it."""
    save_difference(FileOps(), out, found)
    content, whole = content_keys(found)
    return Compared(
        received=received,
        missing=len(found.missing),
        shared=len(found.shared),
        extra=len(found.extra),
        raw_sizes=[row.size for row in numbered(found)],
        content=content,
        whole=whole,
        dry=dry,
        against=against,
        unknown=tuple(unknown),
    )


def fit(job: FitDifference) -> Fitted:
    """The part of a difference that a worker has room for."""
    whole = load_difference(job.difference)
    found = fit_difference(whole, job.most)
    said = note_difference(found, job.out, 0)
    left = len(whole.missing) + len(whole.shared) - said.missing - said.shared
    left_bytes = sum(row.size for row in numbered(whole)) - sum(said.raw_sizes)
    return Fitted(said.missing, said.shared, said.raw_sizes, said.content, said.whole, left, left_bytes)


def ruleset_hashes(job: RulesetHashes, memory: Memory) -> Packed:
    """JSON of path to BLAKE2b of the ruleset's files (dapi.md 1.8)."""
    live = memory.manifest(job.state_dir, job.root_digest)
    held = live.held
    hashes = {row.path: row.digest.hex() for row in live.rows if row.item in RULESET_ITEMS and row.path not in held}
    data = msgspec.json.encode(hashes)
    Path(job.out).write_bytes(data)
    return Packed(len(data), len(hashes))
