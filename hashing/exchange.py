"""What a worker tells its master of the buckets that differ (capability `digest`): msgpack in an LZ4 frame.

Nothing in it is to be trusted: it is bounded before it is decoded, and its paths are compared, never opened.
"""

from collections.abc import Iterable
from typing import Annotated

import lz4.frame
import msgspec
from msgspec import Meta

from hashing.digest import DIGEST_BYTES
from hashing.errors import MalformedPackage, PackageTooLarge
from hashing.manifest import BUCKET_DIGEST_BYTES, BUCKETS, FileMeta, bucket_of
from hashing.metadata_json import WIRE_ROWS, WireMeta
from hashing.rules import PATH_BYTES

ALL_BUCKETS_BYTES = BUCKETS * BUCKET_DIGEST_BYTES
NAME = "the rows of a worker"


class ToldRow(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One file of the worker: path, key of its item, BLAKE2b (64 bytes)."""

    path: Annotated[str, Meta(max_length=PATH_BYTES)]
    item: Annotated[str, Meta(max_length=PATH_BYTES)]
    digest: Annotated[bytes, Meta(min_length=DIGEST_BYTES, max_length=DIGEST_BYTES)]


class ToldBuckets(msgspec.Struct, frozen=True, array_like=True):
    """All rows that a node has in the buckets `numbers`, those in which it differs from the master's manifest with
    the content digest `master`. With `dry` the asker only wants to know what differs."""

    master: Annotated[str, Meta(max_length=32)]
    dry: bool
    numbers: Annotated[list[Annotated[int, Meta(ge=0, lt=BUCKETS)]], Meta(max_length=BUCKETS)]
    rows: Annotated[list[ToldRow], Meta(max_length=WIRE_ROWS)]


def differing_buckets(ours: bytes, theirs: bytes) -> list[int]:
    """Numbers of the buckets whose digests differ. Raises MalformedPackage when `theirs` are not all digests."""
    if len(theirs) != ALL_BUCKETS_BYTES:
        raise MalformedPackage("the bucket digests", f"have {len(theirs)} bytes, not {ALL_BUCKETS_BYTES}")
    step = BUCKET_DIGEST_BYTES
    return [
        number
        for number in range(BUCKETS)
        if ours[number * step : number * step + step] != theirs[number * step : number * step + step]
    ]


def rows_in_differing_buckets(files: int, ours: bytes, theirs: bytes) -> int:
    """Estimates how many of a manifest's files are in the buckets whose digests differ. `theirs` may be anything."""
    step = BUCKET_DIGEST_BYTES
    differing = sum(ours[at : at + step] != theirs[at : at + step] for at in range(0, ALL_BUCKETS_BYTES, step))
    return -(-files * differing // BUCKETS)


def encode_told(rows: Iterable[FileMeta], numbers: list[int], master: str, *, dry: bool) -> bytes:
    """The payload of `syn_buckets`."""
    told = ToldBuckets(master, dry, numbers, [ToldRow(row.path, row.item, row.digest) for row in rows])
    frame: bytes = lz4.frame.compress(msgspec.msgpack.encode(told), store_size=True)
    return frame


def parse_told(data: bytes, most_bytes: int) -> tuple[ToldBuckets, dict[str, WireMeta]]:
    """What a peer told, and its rows in the form that `compare` takes.

    Raises PackageTooLarge above `most_bytes` once decompressed, or when it is cut off; MalformedPackage when it is not
    such a message, a bucket does not exist, or a row lies in a bucket that is not listed.
    """
    try:
        decompressor = lz4.frame.LZ4FrameDecompressor()
        plain = decompressor.decompress(data, max_length=most_bytes)
        if not decompressor.eof:
            raise PackageTooLarge(NAME, f"have more than {most_bytes} bytes, or are not whole")
        told = msgspec.msgpack.decode(plain, type=ToldBuckets)
    except (msgspec.MsgspecError, RuntimeError, RecursionError, UnicodeDecodeError) as error:
        raise MalformedPackage(NAME, f"do not decode: {error}") from error
    wanted = frozenset(told.numbers)
    for row in told.rows:
        if bucket_of(row.path) not in wanted:
            raise MalformedPackage(NAME, f"name {row.path!r}, which is in none of their buckets")
    return told, {row.path: WireMeta(row.item, row.digest.hex()) for row in told.rows}
