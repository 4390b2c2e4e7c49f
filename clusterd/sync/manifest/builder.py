"""Makes manifests: what each job of the pool is given, and the result on which the next one builds (wire.md 5.1)."""

import os
from collections.abc import Iterable, Sequence

import msgspec

from clusterd.messages.manifest import BuildManifest, ManifestBuilt, PatchManifest, ScanShard, ShardScanned
from clusterd.sync.manifest.change_events import ChangeEvents
from clusterd.sync.manifest.deletion_guard import DeletionGuard
from clusterd.sync.ports.pool_port import PoolPort, all_of
from ipc.job_queue import Lane

MOST_AT_ONCE = 200
"""A patch for more places, or for directories, is a long job."""
WEIGHT_BYTES = 16384
"""Reading them takes as long as opening a small file."""


class ManifestBuilder:
    """Owns the newest result. `newest`: None before the first; it is not published yet. `source`: what caused it
    ("scan", "events")."""

    def __init__(
        self,
        root: str,
        state_dir: str,
        shards: int,
        jobs: PoolPort,
        guard: DeletionGuard,
        events: ChangeEvents | None,
    ) -> None:
        """Without `events` jobs are not asked for the changes."""
        self._root = root
        self._state_dir = state_dir
        self._shards = shards
        self.jobs = jobs
        self._guard = guard
        self._events = events
        self.newest: ManifestBuilt | None = None
        self.source = "scan"
        self._built_from: tuple[str, ...] = ()

    async def walk(self, *, full: bool, in_background: bool) -> list[ShardScanned]:
        """Looks at every file. `full`: reads each, too. `in_background`: ends early when something waits for the
        manifest. Raises JobError."""
        lane: Lane = "background" if in_background else "bulk"
        gives_way = self.jobs.hurries if in_background else -1
        return await all_of(
            self.jobs.run(ScanShard(self._root, self._state_dir, shard, self._shards, full, gives_way), lane=lane)
            for shard in range(self._shards)
        )

    async def build(self, shards: Sequence[ShardScanned], published: str) -> ManifestBuilt:
        """Builds the manifest of a walk; costs nothing when it found what the one before found. `published`: root
        digest of the manifest with which it is compared, empty for none. Raises JobError."""
        digests = tuple(shard.digest for shard in shards)
        if self.newest is not None and digests == self._built_from:
            return msgspec.structs.replace(self.newest, vanished=0)
        job = BuildManifest(
            self._root,
            self._state_dir,
            list(digests),
            published,
            self._guard.max_delete_share,
            self._guard.lost_just_now(),
            self._guard.key_rules.share,
            self._guard.key_rules.least,
            self._changes_path("scan"),
        )
        built = await self._made(job, "bulk")
        self._built_from = digests
        return built

    async def patch(
        self,
        paths: Iterable[str],
        directories: Iterable[str],
        *,
        has_trees: bool = False,
        judge: bool = False,
        allow_delete: bool = False,
    ) -> ManifestBuilt:
        """Looks again at these places and whole directories, and builds on the newest manifest. `has_trees`: some of
        the places are directories; `judge`: decides about settling files; `allow_delete`: removes withheld and settling
        ones. Raises JobError."""
        assert self.newest is not None
        places, trees = sorted(paths), sorted(directories)
        job = PatchManifest(
            self._root,
            self._state_dir,
            self.newest.root_digest,
            self.newest.base,
            self._shards,
            places,
            trees,
            self._guard.max_delete_share,
            self._guard.lost_just_now(),
            judge,
            allow_delete,
            self._guard.key_rules.share,
            self._guard.key_rules.least,
            self._changes_path("" if judge else "events"),
        )
        is_short = not (trees or has_trees) and len(places) <= MOST_AT_ONCE
        return await self._made(job, "chunk" if is_short else "long")

    def _changes_path(self, source: str) -> str:
        """Returns the path to which a job writes what it has changed. `source`: the cause; empty: as before."""
        self.source = source or self.source
        return "" if self._events is None else self._events.path()

    async def _made(self, job: BuildManifest | PatchManifest, lane: Lane) -> ManifestBuilt:
        try:
            built = await self.jobs.run(job, lane=lane)
        except BaseException:
            if self._events is not None:
                self._events.job_failed()
            raise
        return self._accept(built)

    def _accept(self, built: ManifestBuilt) -> ManifestBuilt:
        """Keeps the result of a job as the base of the next one."""
        before, self.newest = self.newest, built
        if before is None or built.root_digest != before.root_digest:
            self._built_from = ()  # the last walk is not where this state comes from
        self._guard.accept(before, built)
        if self._events is not None:
            self._events.note(built)
        return built


def weigh_below(root: str, places: Iterable[str], most: int) -> int:
    """Returns how much work it is to read those of the places that are directories and all below, stopping at `most`:
    one for each file and directory, and for each WEIGHT_BYTES. 0: none is a directory."""
    weight, todo = 0, [f"{root}/{place}" for place in places]
    while todo and weight < most:
        try:
            with os.scandir(todo.pop()) as entries:
                weight += 1
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        todo.append(entry.path)
                    else:
                        weight += 1 + entry.stat(follow_symlinks=False).st_size // WEIGHT_BYTES
                    if weight >= most:
                        break
        except OSError:
            continue  # a file, or gone, or closed: the scan deals with it
    return weight
