"""The node's manifest: local scans in the pool, and which of their results is current (wire.md 5.1).

The rows stay in files of the state directory, written and read by pool processes; sync keeps the summary.
"""

import asyncio
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from clusterd.clock import Clock
from clusterd.sync.pool_port import JobError, PoolPort, all_of
from ipc.messages import BuildManifest, ManifestBuilt, Note, ScanShard, ShardScanned

KEPT = 3
"""Manifest files kept: the current one and those that a job may still be comparing with."""


class Scan(msgspec.Struct, frozen=True):
    """One complete local scan; digests as ManifestBuilt has them. Times: `ended_at` wall clock, `duration_s` seconds."""

    root_digest: str
    content_digest: str
    buckets: bytes
    files: int
    total_bytes: int
    hashed: int
    reused: int
    hashed_bytes: int
    duration_s: float
    ended_at: float
    notes: list[Note]


class ScanFailed(Exception):
    """The tree could not be scanned as a whole; what was current stays so."""


class ManifestKeeper:
    """Owner of the current manifest. `current` is None until a scan was complete."""

    def __init__(
        self, root: str, state_dir: str, shards: int, jobs: PoolPort, clock: Clock, full_walk_s: float
    ) -> None:
        self._root = root
        self._state_dir = state_dir
        self._shards = shards
        self._jobs = jobs
        self._clock = clock
        self.full_walk_s = full_walk_s
        self.current: Scan | None = None
        self.failure = ""
        self.scanning = False
        self.listeners: list[Callable[[Scan], None]] = []
        """Called with each scan whose content is not that of the one before."""
        self._built_from: tuple[str, ...] = ()
        self._full_walk_at: float | None = None
        self._recent: list[str] = []
        self._lock = asyncio.Lock()

    async def scan(self) -> Scan:
        """Walk all shards and publish the result as `current`. Raises ScanFailed; `current` is then as before.

        Every `full_walk_s` the digest cache is left aside and every file is read."""
        async with self._lock:
            self.scanning = True
            try:
                scan = await self._scan()
            except (JobError, OSError) as failure:
                self.failure = str(failure)
                raise ScanFailed(str(failure)) from failure
            finally:
                self.scanning = False
            self.failure = ""
            before, self.current = self.current, scan
            if before is None or before.content_digest != scan.content_digest:
                for listener in self.listeners:
                    listener(scan)
            return scan

    def touch(self, paths: Iterable[str]) -> None:
        """These files were changed by this node itself. The next scan finds them as it finds everything."""

    async def _scan(self) -> Scan:
        started = self._clock.monotonic()
        if self._full_walk_at is None:
            self._full_walk_at = started
        full = self.full_walk_s > 0 and started - self._full_walk_at >= self.full_walk_s
        shards = await all_of(
            self._jobs.run(ScanShard(self._root, self._state_dir, shard, self._shards, full), ShardScanned)
            for shard in range(self._shards)
        )
        notes = [note for shard in shards for note in shard.notes]
        if any(shard.failed for shard in shards):
            raise JobError("disk", "; ".join(note.why or note.text for note in notes) or "a part could not be walked")
        if full:
            self._full_walk_at = started
        digests = tuple(shard.digest for shard in shards)
        if self.current is not None and digests == self._built_from:
            root_digest, files, total = self.current.root_digest, self.current.files, self.current.total_bytes
            content_digest, buckets = self.current.content_digest, self.current.buckets
        else:
            built = await self._jobs.run(BuildManifest(self._state_dir, self._shards), ManifestBuilt)
            root_digest, files, total = built.root_digest, built.files, built.total_bytes
            content_digest, buckets = built.content_digest, built.buckets
            self._built_from = digests
            self._remember(root_digest)
        return Scan(
            root_digest=root_digest,
            content_digest=content_digest,
            buckets=buckets,
            files=files,
            total_bytes=total,
            hashed=sum(shard.hashed for shard in shards),
            reused=sum(shard.reused for shard in shards),
            hashed_bytes=sum(shard.hashed_bytes for shard in shards),
            duration_s=self._clock.monotonic() - started,
            ended_at=self._clock.wall(),
            notes=notes,
        )

    def _remember(self, root_digest: str) -> None:
        """Keep the newest manifest files; remove the others, of earlier lives too."""
        if root_digest in self._recent:
            self._recent.remove(root_digest)
        self._recent = [*self._recent[-(KEPT - 1) :], root_digest]
        wanted = {f"manifest-{digest}" for digest in self._recent}
        for path in Path(self._state_dir).glob("manifest-*"):
            if path.name not in wanted:
                os.unlink(path)
