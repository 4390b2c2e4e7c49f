"""The result of one look at the files of this node."""

import msgspec

from clusterd.messages.manifest import ManifestBuilt
from hashing.errors import Note


class Scan(msgspec.Struct, frozen=True):
    """One complete local scan; digests as in ManifestBuilt. `ended_at`: wall clock; `duration_s`: seconds. `files` and
    the digests include files that are `withheld` or `settling` (hashing/protection.py)."""

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
    withheld: int = 0
    settling: int = 0


class ScanFailed(Exception):
    """The tree could not be scanned completely; the current manifest is unchanged."""


def summary(
    built: ManifestBuilt, notes: list[Note], hashed: int, reused: int, hashed_bytes: int, duration_s: float, now: float
) -> Scan:
    """Returns the scan whose manifest is `built`. `now`: wall clock."""
    return Scan(
        root_digest=built.root_digest,
        content_digest=built.content_digest,
        buckets=built.buckets,
        files=built.files,
        total_bytes=built.total_bytes,
        hashed=hashed,
        reused=reused,
        hashed_bytes=hashed_bytes,
        duration_s=duration_s,
        ended_at=now,
        notes=notes,
        withheld=built.withheld,
        settling=built.settling,
    )
