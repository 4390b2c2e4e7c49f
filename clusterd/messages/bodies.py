"""Jobs on bodies and chunks: seal, open, store, digest."""

import msgspec

from clusterd.messages.base import Job, Result
from hashing.segment import Segment
from ipc.descriptor import Descriptor


class ChunkTarget(msgspec.Struct, frozen=True):
    """Where the data of a chunk is written: `name` is the word before the first space of the payload (a path or a
    string id), `path` the spool file, `offset` the position to write at, `limit` the largest size that the file may
    reach. With `truncate`, bytes beyond `limit` are dropped silently (long strings, wire.md 4.4); else they are
    "too-large"."""

    name: str
    path: str
    offset: int
    limit: int
    truncate: bool = False


class Sealed(Result, frozen=True, tag="sealed"):
    body: Descriptor


class SealChunk(Job[Sealed], frozen=True, tag="seal"):
    """Seal `prefix` + the bytes of `segments` into slab `slab` (sync's)."""

    prefix: bytes
    segments: list[Segment]
    slab: int


class ChunkStored(Result, frozen=True, tag="chunk-stored"):
    """`size` bytes were written for target `name`; none if its file does not accept them, and then `problem` gives the
    reason."""

    name: str
    size: int
    problem: str = ""


class StoreChunk(Job[ChunkStored], frozen=True, tag="store-chunk"):
    """Open a chunk (`body` sealed in net's slabs, or `payload` already open), find its target by the word before the
    first space and write the data. Result: ChunkStored, or JobFailed "unknown-name", "too-large", "bad-seal",
    "disk"."""

    targets: list[ChunkTarget]
    payload: bytes = b""
    body: list[Descriptor] | None = None


class Opened(Result, frozen=True, tag="opened"):
    payload: bytes
    size: int


class OpenBody(Job[Opened], frozen=True, tag="open"):
    """Open a sealed body of at most `limit` plain bytes. With `check_only` the result contains only
    `size`. Bodies of the local socket are not `sealed`."""

    body: list[Descriptor]
    limit: int
    check_only: bool = False
    sealed: bool = True


class Digested(Result, frozen=True, tag="digested"):
    sha256: bytes


class DigestSegments(Job[Digested], frozen=True, tag="sha256"):
    """SHA-256 over these bytes, in order."""

    segments: list[Segment]
