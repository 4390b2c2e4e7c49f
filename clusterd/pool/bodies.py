"""Jobs on sealed bodies and chunks: seal, open, store, digest (wire.md 4.3, 4.4). Bulk bytes lie in the arena or in
files."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence

import xxhash

from clusterd.messages.bodies import (
    ChunkStored,
    Digested,
    DigestSegments,
    OpenBody,
    Opened,
    SealChunk,
    Sealed,
    StoreChunk,
)
from clusterd.pool.failure import Failure
from clusterd.wire.seal import Sealer
from clusterd.wire.token import BadSeal, sealed_length
from hashing.segment import Segment
from ipc.arena import Arena
from ipc.descriptor import Descriptor

READ_BYTES = 1024 * 1024
NO_SPACE = "not enough values to unpack (expected 2, got 1)"
"""What a stock node answers to a chunk without a name."""


def seal_chunk(job: SealChunk, sealer: Sealer, arena: Arena) -> Sealed:
    """Raises Failure `vanished` when a segment is shorter than it was. The seal authenticates the bytes, so the
    descriptor needs no checksum of its own."""
    plain = bytearray(len(job.prefix) + sum(segment.length for segment in job.segments))
    plain[: len(job.prefix)] = job.prefix
    filled = len(job.prefix)
    with memoryview(plain) as room:
        for segment in job.segments:
            for part in _read_into(segment, room[filled : filled + segment.length]):
                filled += part
    with arena.view(job.slab) as slab:
        length = sealer.seal_into(plain, slab)
    return Sealed(Descriptor(job.slab, 0, length))


def open_body(job: OpenBody, sealer: Sealer, arena: Arena) -> Opened:
    """Raises Failure `too-large`, `bad-seal`."""
    size = sum(part.length for part in job.body)
    if job.sealed:
        plain = _open(job.body, job.limit, sealer, arena)
        size = len(plain)
    if size > job.limit:
        raise Failure("too-large", f"a body of {size} bytes is above the limit of {job.limit} bytes")
    if not job.sealed:
        plain = b"".join(bytes(arena.slice(part)) for part in job.body)
    return Opened(b"" if job.check_only else plain, len(plain))


def store_chunk(job: StoreChunk, sealer: Sealer, arena: Arena) -> ChunkStored:
    """Write the data after the first space at its target's offset. Raises Failure `unknown-name`, `too-large`,
    `bad-seal`. When the disk does not take it the result says so: whoever asked is to know which target it was."""
    plain = open_bytes(job.payload, job.body, sealer, arena)
    space = plain.find(b" ")
    if space < 0:
        raise Failure("unknown-name", NO_SPACE)
    word = plain[:space]
    target = next((target for target in job.targets if target.name.encode() == word), None)
    if target is None:
        raise Failure("unknown-name", repr(word[:200]))
    data = memoryview(plain)[space + 1 :]
    room = max(0, target.limit - target.offset)
    if len(data) > room:
        if not target.truncate:
            raise Failure("too-large", f"{target.name} grows above the limit of {target.limit} bytes")
        data = data[:room]
    try:
        _write(target.path, data, target.offset)
    except OSError as failure:
        return ChunkStored(target.name, 0, failure.strerror or str(failure))
    return ChunkStored(target.name, len(data))


def _write(path: str, data: memoryview, offset: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        written = 0
        while written < len(data):
            written += os.pwrite(fd, data[written:], offset + written)
    finally:
        os.close(fd)


def open_bytes(payload: bytes, body: Sequence[Descriptor] | None, sealer: Sealer, arena: Arena) -> bytes:
    """What a request carries: its payload, or its sealed body opened. Raises Failure `bad-seal`."""
    return payload if body is None else _open(body, arena.slab_bytes * len(body), sealer, arena)


def digest_segments(job: DigestSegments, on_step: Callable[[], None]) -> Digested:
    """Raises Failure `vanished` when a segment is shorter than it was."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(READ_BYTES))
    for segment in job.segments:
        left = segment.length
        while left:
            size = min(left, READ_BYTES)
            piece = Segment(segment.path, segment.offset + segment.length - left, size)
            for _ in _read_into(piece, buffer[:size]):
                on_step()
            digest.update(buffer[:size])
            left -= size
    return Digested(digest.digest())


def _open(body: Sequence[Descriptor], limit: int, sealer: Sealer, arena: Arena) -> bytes:
    length = sum(part.length for part in body)
    if length > sealed_length(limit):
        raise Failure("too-large", f"a sealed body of {length} bytes holds more than the limit of {limit} bytes")
    views = [arena.slice(part) for part in body]
    try:
        for part, view in zip(body, views, strict=True):
            if part.checksum and xxhash.xxh3_64_intdigest(view) != part.checksum:
                raise Failure("bad-seal", "a body was changed in the arena before it was opened")
        return sealer.open_parts(views)
    except BadSeal as bad:
        raise Failure("bad-seal", str(bad)) from bad
    finally:
        for view in views:
            view.release()


def _read_into(segment: Segment, room: memoryview) -> Iterator[int]:
    """Fill `room` with the segment; yields the size of each read."""
    fd = os.open(segment.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        done = 0
        while done < segment.length:
            size = os.preadv(fd, [room[done:]], segment.offset + done)
            if size == 0:
                raise Failure(
                    "vanished", f"{segment.path} ends {segment.length - done} bytes before it should: was it changed?"
                )
            done += size
            yield size
    finally:
        os.close(fd)
