"""Building a package for a worker: parts compressed side by side in the pool, then cut to the limit (wire.md 5.6, C12)."""

import asyncio
from collections.abc import Sequence

import msgspec

from clusterd.sync.context import Context
from clusterd.sync.outgoing import Progress
from ipc.messages import FinishPackage, Note, PackageFinished, PackPart, PartPacked, Segment

PART_BYTES = 16 * 1024 * 1024
PART_FILES = 2000


class BuiltPackage(msgspec.Struct, frozen=True):
    """The package, and the spool files that hold it (to be removed by the caller). `dropped`: files for a later round."""

    segments: list[Segment]
    size: int
    sha256: bytes
    dropped: int
    notes: list[Note]
    files: list[str]


def plan_parts(raw_sizes: Sequence[int], part_bytes: int = PART_BYTES, part_files: int = PART_FILES) -> list[range]:
    """Cut the numbered files into ranges of about equal work; a large file is a part of its own."""
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


class PackageBuilder:
    """Builds packages from difference files."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def build(self, difference: str, raw_sizes: Sequence[int], limit: int, progress: Progress) -> BuiltPackage:
        """Pack what fits into `limit` bytes. If nothing does but a file too large for it, that one goes alone.

        Raises JobError; the spool is then as before."""
        files: list[str] = []
        try:
            parts = await self._pack(difference, raw_sizes, limit, files, progress)
            if not any(part.entries for part in parts):
                oversize = [number for part in parts for number in part.oversize]
                if oversize:
                    alone = await self._pack_one(difference, oversize[0], files)
                    parts.append(alone)
                    limit = max(limit, sum(entry.length for entry in alone.entries))
            out = self._context.spool.new_path("metadata")
            files.append(out)
            finished = await self._context.jobs.run(FinishPackage(difference, parts, limit, out), PackageFinished)
        except BaseException:
            self._context.spool.remove(*files)
            raise
        notes = [note for part in parts for note in part.notes] + finished.notes
        return BuiltPackage(finished.segments, finished.size, finished.sha256, finished.dropped, notes, files)

    async def _pack(
        self, difference: str, raw_sizes: Sequence[int], limit: int, files: list[str], progress: Progress
    ) -> list[PartPacked]:
        """The parts, side by side; no more are begun once those done fill the limit."""
        results: dict[int, PartPacked] = {}
        waiting = iter(enumerate(plan_parts(raw_sizes)))
        packed = 0

        async def pack_next() -> None:
            nonlocal packed
            for place, numbers in waiting:
                if packed >= limit:
                    return
                out = self._context.spool.new_path("part")
                files.append(out)
                job = PackPart(self._context.settings.root, difference, numbers.start, numbers.stop, limit, out)
                result = await self._context.jobs.run(job, PartPacked)
                results[place] = result
                packed += sum(entry.length for entry in result.entries)
                progress.done_bytes += sum(raw_sizes[number] for number in numbers)

        lanes = [asyncio.create_task(pack_next()) for _ in range(self._context.jobs.size)]
        try:
            await asyncio.gather(*lanes)
        finally:
            for lane in lanes:
                lane.cancel()
        return [results[place] for place in sorted(results)]

    async def _pack_one(self, difference: str, number: int, files: list[str]) -> PartPacked:
        out = self._context.spool.new_path("part")
        files.append(out)
        job = PackPart(self._context.settings.root, difference, number, number + 1, 0, out, oversize=True)
        return await self._context.jobs.run(job, PartPacked)
