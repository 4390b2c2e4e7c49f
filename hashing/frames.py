"""LZ4 frames for entries of packages between two clusterd nodes: written so that no separator is in them.

A frame of independent blocks without check sums (what is in it is verified by digests anyway):

    04 22 4D 18  60 size-class check  *( length (4 bytes, little-endian; high bit: stored) data )  00 00 00 00
"""

from collections.abc import Callable, Iterable

import lz4.block
import xxhash

MAGIC = b"\x04\x22\x4d\x18"

_CLASSES = ((0x40, 64 * 1024), (0x50, 256 * 1024), (0x60, 1024 * 1024))


def _head(size_class: int) -> bytes:
    described = bytes((0x60, size_class))
    return MAGIC + described + bytes(((xxhash.xxh32_intdigest(described) >> 8) & 0xFF,))


_HEADS = tuple((most, _head(size_class)) for size_class, most in _CLASSES)
"""Largest block, and how a frame of such blocks begins."""
_END = bytes(4)
_STORED = 0x80000000
_LEAF_BYTES = 16 * 1024
_LONGEST_STORED = 0x7FFF


def write_frame(
    first: bytes, second: bytes | None, rest: Iterable[bytes], separator: bytes, write: Callable[[bytes], object]
) -> tuple[int, int]:
    """Write the frame of `first`, `second` (None: there are no more) and `rest`, pieces of at most 1 MiB. Returns its
    raw size and the bytes written.

    `separator` (8 bytes without 00, 04, 80) is not in it, nor made with what stands before or behind it."""
    largest = len(first) if second is None else _HEADS[-1][0]
    head = next(head for most, head in _HEADS if largest <= most)
    if second is None and first:
        # Nearly every file is one block: one write for all of it.
        frame = b"".join((head, _block(first), _END))
        if separator not in frame:
            write(frame)
            return len(first), len(frame)
    writer = _Blocks(separator, write)
    writer.put(head)
    raw = 0
    pieces = (first,) if second is None else (first, second)
    for some in (pieces, rest):
        for piece in some:
            if piece:
                writer.add(piece)
                raw += len(piece)
    writer.put(_END)
    return raw, writer.written


def _block(data: bytes) -> bytes:
    packed: bytes = lz4.block.compress(data, store_size=False)
    if len(packed) < len(data):
        return len(packed).to_bytes(4, "little") + packed
    return (len(data) | _STORED).to_bytes(4, "little") + data


class _Blocks:
    def __init__(self, separator: bytes, write: Callable[[bytes], object]) -> None:
        self._separator = separator
        self._write = write
        self._tail = b""
        self.written = 0

    def put(self, data: bytes) -> None:
        """Bytes that are known to be harmless here."""
        self._write(data)
        self.written += len(data)
        self._tail = data[1 - len(self._separator) :]

    def add(self, data: bytes) -> None:
        """A piece as one block or, where that would hold a separator, as several."""
        block = _block(data)
        if self._separator not in block and self._separator not in self._tail + block[: len(self._separator) + 3]:
            self.put(block)
        elif len(data) > _LEAF_BYTES:
            # Only the part around the separator needs another encoding; the rest stays compressed.
            middle = len(data) // 2
            self.add(data[:middle])
            self.add(data[middle:])
        else:
            self._stored(data)

    def _stored(self, data: bytes) -> None:
        """Stored blocks, cut so that a separator in the data is split by a block's length.

        The last byte of a length is 80, which is in no separator. So one could only end within the first three bytes
        of a length; the third is 00 here, and that the first or the first two are the separator's last is excluded."""
        start, separator = 0, self._separator
        while start < len(data):
            end = min(start + _LONGEST_STORED, len(data))
            found = data.find(separator, start, end)
            if found >= 0:
                end = found + len(separator) // 2
            length = end - start
            if (length & 0xFF) == separator[-1] or length == int.from_bytes(separator[-2:], "little"):
                length -= 1
            self.put((length | _STORED).to_bytes(4, "little") + data[start : start + length])
            start += length
