"""What a worker tells its master of the buckets that differ (capability `digest`): msgpack in an LZ4 frame.

Nothing in it is to be trusted: it is bounded before it is decoded, and its paths are compared, never opened.
"""

from collections.abc import Iterable

import lz4.frame
import msgspec

from hashing.errors import MalformedPackage, PackageTooLarge
from hashing.manifest import BUCKET_DIGEST_BYTES, BUCKETS, FileMeta, WireMeta, bucket_of

ALL_BUCKETS_BYTES = BUCKETS * BUCKET_DIGEST_BYTES
NAME = "the rows of a worker"


class ToldRow(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One file of the worker: path, key of its item, BLAKE2b (64 bytes)."""

    path: str
    item: str
    digest: bytes


class ToldBuckets(msgspec.Struct, frozen=True, array_like=True):
    """All rows that a node has in the buckets `numbers`. With `dry` the asker only wants to know what differs."""

    dry: bool
    numbers: list[int]
    rows: list[ToldRow]


def differing_buckets(ours: bytes, theirs: bytes) -> list[int]:
    """Numbers of the buckets whose digests differ. Raises MalformedPackage when `theirs` are not all digests."""
    if len(theirs) != ALL_BUCKETS_BYTES:
        raise MalformedPackage("the bucket digests", f"have {len(theirs)} bytes, not {ALL_BUCKETS_BYTES}")
    step = BUCKET_DIGEST_BYTES
    return [
        number
        for number in range(BUCKETS)
        if ours[number * step : number * step + step] != theirs[number * step :][:step]
    ]


def encode_told(rows: Iterable[FileMeta], numbers: list[int], *, dry: bool) -> bytes:
    """The payload of `syn_buckets`."""
    told = ToldBuckets(dry, numbers, [ToldRow(row.path, row.item, row.digest) for row in rows])
    frame: bytes = lz4.frame.compress(msgspec.msgpack.encode(told), store_size=True)
    return frame


def parse_told(data: bytes, most_bytes: int) -> tuple[ToldBuckets, dict[str, WireMeta]]:
    """What a peer told, and its rows in the form that `compare` takes.

    Raises PackageTooLarge above `most_bytes` once decompressed; MalformedPackage when it is not such a message, a bucket does
    not exist, or a row lies in a bucket that is not listed.
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
    if not all(0 <= number < BUCKETS for number in wanted):
        raise MalformedPackage(NAME, "name a bucket that does not exist")
    for row in told.rows:
        if bucket_of(row.path) not in wanted:
            raise MalformedPackage(row.path, "is in no bucket that was named")
    return told, {row.path: WireMeta(row.item, row.digest.hex()) for row in told.rows}
