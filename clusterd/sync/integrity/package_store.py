"""Packages for workers, each made once: the packed files by content, followed by the metadata of each difference.

A package is the concatenation of its *region*, the entries of all files sent, and of its *tail*, the metadata entry
(wire.md 5.4). The region depends on the files sent, their states and the limit; workers that lack the same files share
it. The tail says which of these files a worker lacks, which it has in another state, and which it must delete; workers
with the same difference share that, too.
"""

import asyncio
import os
from collections.abc import Sequence
from typing import Any

import msgspec

from clusterd.messages.packages import Compared, FinishPackage, PackageFinished, PackPart, PartPacked
from clusterd.sync.links.context import Context
from clusterd.sync.links.outgoing import Package, Progress
from hashing.errors import Note

PART_BYTES = 16 * 1024 * 1024
PART_FILES = 2000

KEPT_BYTES = 1024 * 1024 * 1024
"""Most bytes of packages that are kept while none of them is being sent."""
KEPT_S = 60.0
"""How long such a package is kept."""
Key = tuple[bytes, int, str]
"""Key of a region: the files to send (`Compared.content`), the limit in bytes, the method."""
NAMES = 8
"""How many names shared packages use in turn. A stock worker whose link is cut off keeps the file until it restarts
(wire.md 13.1)."""


class BuiltPackage(msgspec.Struct, frozen=True):
    """A package that belongs to the caller until `PackageStore.release`. `dropped`: files left for a later round."""

    package: Package
    dropped: int
    notes: list[Note]
    region: "Region"


class Region:
    """The packed files of one content key, and the tails made for it. Owned by the store."""

    def __init__(self, number: int, difference: str, manifest: str, method: str) -> None:
        """`difference`: a spool file of this region's own."""
        self.number = number
        self.difference = difference
        self.manifest = manifest
        self.method = method
        self.files = [difference]
        self.followers: list[Progress] = []
        self.parts: asyncio.Task[_Parts] | None = None
        self.tails: dict[bytes, asyncio.Task[PackageFinished]] = {}
        self.bytes = 0
        self.users = 0
        self.used_at = 0.0


class _Parts(msgspec.Struct, frozen=True):
    """Index files of the parts in order. `limit` is larger than requested where a single file exceeds it and is sent
    alone."""

    indexes: list[str]
    limit: int
    notes: list[Note]


def plan_parts(raw_sizes: Sequence[int], part_bytes: int = PART_BYTES, part_files: int = PART_FILES) -> list[range]:
    """Cuts the numbered files into ranges of about equal work; a large file is a part of its own."""
    parts = []
    start = total = 0
    for number, size in enumerate(raw_sizes):
        if number > start and (total + size > part_bytes or number - start >= part_files):
            parts.append(range(start, number))
            start, total = number, 0
        total += size
    if start < len(raw_sizes):
        parts.append(range(start, len(raw_sizes)))
    return parts


class PackageStore:
    """Makes and keeps packages. Callers that need the same package share one build; cancelling one of them does not
    stop it."""

    def __init__(self, context: Context, kept_bytes: int = KEPT_BYTES, kept_s: float = KEPT_S) -> None:
        self._context = context
        self._kept_bytes = kept_bytes
        self._kept_s = kept_s
        self._regions: dict[Key, Region] = {}
        self._obsolete: set[Region] = set()
        self._count = 0

    async def package(
        self, difference: str, compared: Compared, manifest: str, limit: int, method: str, progress: Progress
    ) -> BuiltPackage:
        """Returns the package for this difference file, packed by `method` (as in PackPart): the files that fit into
        `limit` bytes, or a single file that is too large for it. `manifest`: the root digest of the comparison;
        `progress` follows the packing.

        Raises JobError, OSError."""
        key = compared.content, limit, method
        region = self._regions.get(key) or self._begin(key, difference, compared.raw_sizes, manifest)
        region.users += 1
        region.used_at = self._context.clock.monotonic()
        region.followers.append(progress)
        try:
            assert region.parts is not None
            parts = await asyncio.shield(region.parts)
            finished = await asyncio.shield(self._tail(region, parts, difference, compared.whole))
        except BaseException as failure:
            if isinstance(failure, Exception):  # else only this waiter has gone
                self._retire(key, region)
            self._leave(region)
            raise
        finally:
            region.followers.remove(progress)
        build = (region.number, compared.whole)
        package = Package(
            finished.segments,
            finished.size,
            finished.sha256,
            finished.size - finished.metadata_size,
            f"/queue/cluster/clusterd-{region.number % NAMES}.zip",
            build,
        )
        return BuiltPackage(package, finished.dropped, parts.notes + finished.notes, region)

    def release(self, built: BuiltPackage) -> None:
        """Takes a package back that has been sent or could not be sent."""
        self._leave(built.region)

    @property
    def kept_bytes(self) -> int:
        """Bytes of all packages, including those being sent."""
        return sum(region.bytes for region in (*self._regions.values(), *self._obsolete))

    # ---- building ----------------------------------------------------------------------------------------------------

    def _begin(self, key: Key, difference: str, raw_sizes: Sequence[int], manifest: str) -> Region:
        for other_key, other in list(self._regions.items()):
            # Drops packages of earlier manifests, which no worker will need again.
            if other.manifest != manifest and not other.users:
                self._retire(other_key, other)
        self._count += 1
        region = Region(self._count, self._own(difference), manifest, key[2])
        self._regions[key] = region
        region.parts = asyncio.create_task(self._pack(key, region, raw_sizes, key[1]))
        region.parts.add_done_callback(_seen)
        return region

    def _own(self, difference: str) -> str:
        """Gives the file a second name of our own, because the first caller removes its name when it is done with
        it."""
        own = self._context.spool.new_path("rows")
        os.link(difference, own)
        return own

    async def _pack(self, key: Key, region: Region, raw_sizes: Sequence[int], limit: int) -> _Parts:
        packed = await self._pack_parts(region, raw_sizes, limit)
        # Which parts were begun after the limit was reached depends on timing. The first parts that fill it always
        # exist, and only these count: the same files give the same package.
        parts: list[tuple[str, PartPacked]] = []
        size = 0
        for part in packed:
            if size >= limit:
                break
            parts.append(part)
            size += part[1].packed
        notes = [note for _, part in parts for note in part.notes]
        if not size:
            oversize = [number for _, part in parts for number in part.oversize]
            if oversize:
                alone = await self._pack_range(region, range(oversize[0], oversize[0] + 1), 0, oversize=True)
                parts.append(alone)
                size = alone[1].packed
                limit = max(limit, size)
                notes += alone[1].notes
        region.bytes += size
        if not all(part.is_as_listed for _, part in parts):
            # Files have changed meanwhile. The result suits the current waiters, but may be wrong a moment later.
            self._retire(key, region)
        return _Parts([index for index, _ in parts], limit, notes)

    async def _pack_parts(self, region: Region, raw_sizes: Sequence[int], limit: int) -> list[tuple[str, PartPacked]]:
        """Packs the parts side by side, and begins no more once the finished ones fill the limit."""
        results: dict[int, tuple[str, PartPacked]] = {}
        waiting = iter(enumerate(plan_parts(raw_sizes)))
        packed = 0

        async def pack_next() -> None:
            nonlocal packed
            for place, numbers in waiting:
                if packed >= limit:
                    return
                results[place] = await self._pack_range(region, numbers, limit)
                packed += results[place][1].packed
                raw = sum(raw_sizes[number] for number in numbers)
                for progress in region.followers:
                    progress.done_bytes += raw

        lanes = [asyncio.create_task(pack_next()) for _ in range(self._context.jobs.size)]
        try:
            await asyncio.gather(*lanes)
        finally:
            for lane in lanes:
                lane.cancel()
            await asyncio.gather(*lanes, return_exceptions=True)
        return [results[place] for place in sorted(results)]

    async def _pack_range(
        self, region: Region, numbers: range, limit: int, *, oversize: bool = False
    ) -> tuple[str, PartPacked]:
        out, index = self._context.spool.new_path("part"), self._context.spool.new_path("index")
        region.files += out, index
        root = self._context.settings.root
        start, stop = numbers.start, numbers.stop
        job = PackPart(root, region.difference, start, stop, limit, out, index, oversize, region.method)
        return index, await self._context.jobs.run(job)

    def _tail(self, region: Region, parts: _Parts, difference: str, whole: bytes) -> "asyncio.Task[PackageFinished]":
        tail = region.tails.get(whole)
        if tail is None:
            tail = region.tails[whole] = asyncio.create_task(self._finish(region, parts, self._own(difference)))
            tail.add_done_callback(_seen)
        return tail

    async def _finish(self, region: Region, parts: _Parts, difference: str) -> PackageFinished:
        out = self._context.spool.new_path("metadata")
        region.files.append(out)
        try:
            job = FinishPackage(difference, parts.indexes, parts.limit, out, region.method)
            finished = await self._context.jobs.run(job)
        finally:
            self._context.spool.remove(difference)
        region.bytes += finished.metadata_size
        return finished

    # ---- keeping -----------------------------------------------------------------------------------------------------

    def _leave(self, region: Region) -> None:
        region.users -= 1
        region.used_at = self._context.clock.monotonic()
        if not region.users:
            asyncio.get_running_loop().call_later(self._kept_s + 0.1, self._tidy)
            self._tidy()

    def _retire(self, key: Key, region: Region) -> None:
        """Hands the region to no further caller; its files are removed when its last user releases it."""
        if self._regions.get(key) is region:
            del self._regions[key]
        self._obsolete.add(region)
        self._tidy()

    def _tidy(self) -> None:
        now = self._context.clock.monotonic()
        unused = sorted((region.used_at, key) for key, region in self._regions.items() if not region.users)
        excess = self.kept_bytes - self._kept_bytes
        for used_at, key in unused:
            if now - used_at >= self._kept_s or excess > 0:
                region = self._regions.pop(key)
                excess -= region.bytes
                self._obsolete.add(region)
        for region in [region for region in self._obsolete if not region.users and self._is_still(region)]:
            self._obsolete.discard(region)
            self._context.spool.remove(*region.files)

    def _is_still(self, region: Region) -> bool:
        """Whether no job writes or reads its files."""
        tasks: list[asyncio.Task[Any] | None] = [region.parts, *region.tails.values()]
        running = [task for task in tasks if task is not None and not task.done()]
        for task in running:
            task.add_done_callback(lambda _: self._tidy())
        return not running


def _seen(task: "asyncio.Task[Any]") -> None:
    """Waiters have got the failure; there may have been none."""
    if not task.cancelled():
        task.exception()
