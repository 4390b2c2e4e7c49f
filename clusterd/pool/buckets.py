"""Jobs of a check by digest: the rows of a worker in the buckets that differ, and what its master makes of them."""

from collections.abc import Callable
from json.encoder import encode_basestring_ascii as quote
from pathlib import Path

from clusterd.messages.base import INLINE_BYTES
from clusterd.messages.packages import (
    BucketsPicked,
    CompareBuckets,
    Compared,
    CompareManifests,
    DifferenceListed,
    ListDifference,
    PickBuckets,
)
from clusterd.pool.bodies import open_bytes
from clusterd.pool.tree import LEAST_ROWS, ROW_BYTES, ROWS_PER_OURS, Memory, note_difference
from clusterd.settings import Settings
from clusterd.wire.seal import Sealer
from hashing.compare import compare, load_difference, unknown_items
from hashing.exchange import differing_buckets, encode_told, parse_told
from hashing.metadata_json import WireMeta
from ipc.arena import Arena

LISTED_BYTES = 40_000
"""Bytes of paths, as JSON, in one answer to `diff`; it travels inside a message."""


def pick_buckets(job: PickBuckets, memory: Memory) -> BucketsPicked:
    """Raises MalformedPackage when the master's digests are none."""
    ours = memory.manifest(job.state_dir, job.root_digest)
    numbers = differing_buckets(job.ours, job.theirs)
    rows = ours.rows_of(numbers)
    data = encode_told(rows, numbers, job.master, dry=job.dry)
    if len(data) <= INLINE_BYTES // 2:
        return BucketsPicked(len(data), len(rows), data)
    Path(job.out).write_bytes(data)
    return BucketsPicked(len(data), len(rows))


def compare_buckets(
    job: CompareBuckets, settings: Settings, memory: Memory, sealer: Sealer, arena: Arena, on_step: Callable[[], None]
) -> Compared:
    """Raises Failure, MalformedPackage, PackageTooLarge for what a worker sent."""
    ours = memory.manifest(job.state_dir, job.root_digest)
    most_bytes = max(LEAST_ROWS, ROWS_PER_OURS * len(ours)) * ROW_BYTES
    told, theirs = parse_told(open_bytes(job.payload, job.body, sealer, arena), most_bytes)
    on_step()
    found = compare(ours, theirs, settings.rules, told.numbers)
    on_step()
    unknown = unknown_items(theirs, settings.rules)
    return note_difference(found, job.out, len(theirs), dry=told.dry, against=told.master, unknown=unknown)


def compare_manifests(job: CompareManifests, settings: Settings, memory: Memory) -> Compared:
    """Raises FileNotFoundError, MalformedPackage when one of the manifests is not there any more."""
    numbers = differing_buckets(job.before_buckets, job.buckets)
    before = memory.manifest(job.state_dir, job.before).rows_of(numbers)
    theirs = {row.path: WireMeta(row.item, row.digest.hex(), row.mtime_ns / 1e9) for row in before}
    found = compare(memory.manifest(job.state_dir, job.root_digest), theirs, settings.rules, numbers)
    return note_difference(found, job.out, len(theirs))


def list_difference(job: ListDifference) -> DifferenceListed:
    """The paths of a difference, as many as fit into an answer."""
    found = load_difference(job.difference)
    groups = (
        [row.path for row in found.missing],
        [row.path for row in found.shared],
        [path for path, _ in found.extra],
    )
    return DifferenceListed(*(_cut(group, LISTED_BYTES // len(groups)) for group in groups))


def _cut(paths: list[str], most_bytes: int) -> list[str]:
    size = 0
    for number, path in enumerate(paths):
        size += len(quote(path)) + 2
        if size > most_bytes:
            return paths[:number]
    return paths
