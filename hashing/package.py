"""The package format (wire.md 5.4): entries of path and zlib stream between separators, metadata last. Between two
clusterd nodes that have agreed on it the streams are LZ4 frames; a reader tells them apart by their first bytes.

Nothing in the format escapes the separators and a stock receiver cuts at every FILE_SEP, so what is written here never
holds one inside an entry; and what is read here is read by the length of the stream, so that one inside does no harm.
"""

import os
import zlib
from collections.abc import Callable, Iterable, Iterator

from lz4.frame import LZ4FrameDecompressor

from hashing.errors import MalformedPackage, PackageTooLarge
from hashing.frames import MAGIC, write_frame

FILE_SEP = b"|@@//@@|"
PATH_SEP = b"|//@@//|"
METADATA_NAME = "files_metadata.json"
ZLIB = "zlib"
LZ4 = "lz4"
METADATA_LIMIT_BYTES = 256 * 1024 * 1024
"""Largest metadata that is read: about 850,000 files. It is held in memory whole."""

CHUNK_BYTES = 512 * 1024
"""How much of a file is compressed or decompressed at a time. What reading and writing need is a few of these."""

PATH_BYTES = 4096
WINDOW_BYTES = 512 * 1024
FEED_BYTES = 64 * 1024

_LEAF_BYTES = 16 * 1024
_SAMPLE_BYTES = 4096
_SAMPLED_FROM_BYTES = 128 * 1024
_ZLIB_HEADER = b"\x78\x01"
_EMPTY_STORED = b"\x00\x00\x00\xff\xff"
_EMPTY_LAST = b"\x03\x00"

# ---- writing ---------------------------------------------------------------------------------------------------------


def path_fits(path: bytes) -> bool:
    """False for a path that would be cut elsewhere than at its end by a receiver, or that a receiver would not find."""
    joined = path + PATH_SEP
    return 0 < len(path) <= PATH_BYTES and joined.find(PATH_SEP) == len(path) and FILE_SEP not in joined


def compress_entry(
    path: str, chunks: Iterable[bytes], level: int, write: Callable[[bytes], object], method: str = ZLIB
) -> tuple[int, int]:
    """Write one entry without the separator behind it. Returns its raw size and the bytes written. `level` is zlib's.

    `chunks`: the content in pieces of about CHUNK_BYTES; two of them are held at a time. Whatever the content, the
    stream holds no FILE_SEP, nor forms one with the separator behind it (C5). Raises MalformedPackage if the path
    itself would.
    """
    name = path.encode()
    if not path_fits(name):
        raise MalformedPackage(path, "cannot be the path of an entry")
    write(name + PATH_SEP)
    rest = iter(chunks)
    first = next(rest, b"")
    second = next(rest, None)
    if method == LZ4:
        raw, stored = write_frame(first, second, rest, FILE_SEP, write)
        return raw, len(name) + len(PATH_SEP) + stored
    if second is None and not _is_incompressible(first):
        stream = _compress_whole(first, level)
        if FILE_SEP not in stream and not stream.endswith(FILE_SEP[:-1]):
            write(stream)
            return len(first), len(name) + len(PATH_SEP) + len(stream)
    raw, stored = _compress_pieces(first, second, rest, level, write)
    return raw, len(name) + len(PATH_SEP) + stored


def _compress_whole(data: bytes, level: int) -> bytes:
    # Making a compressor clears its tables: smaller ones for small files save a third of the time. The window written
    # in the header is never larger than the one a receiver has.
    if len(data) <= 8192:
        packer = zlib.compressobj(level, zlib.DEFLATED, 13, 6)
    elif len(data) <= 16384:
        packer = zlib.compressobj(level, zlib.DEFLATED, 14, 7)
    else:
        packer = zlib.compressobj(level)
    return packer.compress(data) + packer.flush()


def _compress_pieces(
    first: bytes, second: bytes | None, rest: Iterator[bytes], level: int, write: Callable[[bytes], object]
) -> tuple[int, int]:
    """The zlib stream of `first`, `second` and `rest`, each piece compressed by itself. Returns (raw, stored).

    Every piece begins and ends at a byte, after and with the bytes of an empty stored block (00 00 FF FF), which are
    not in FILE_SEP; so a separator could only lie inside a piece, where _deflate prevents it, or within the four bytes
    of the check sum, where there is no room for one.
    """
    write(_ZLIB_HEADER)
    raw, stored = 0, len(_ZLIB_HEADER)
    checksum = zlib.adler32(b"")
    piece: bytes | None = first
    following = second
    while piece is not None:
        if piece:
            encoded = _deflate(piece, level)
            write(encoded)
            checksum = zlib.adler32(piece, checksum)
            raw += len(piece)
            stored += len(encoded)
        piece = following
        following = next(rest, None) if piece is not None else None
    tail = _EMPTY_LAST + checksum.to_bytes(4, "big")
    write(tail)
    return raw, stored + len(tail)


def _deflate(data: bytes, level: int) -> bytes:
    """Deflate blocks for `data` without FILE_SEP, ending with an empty stored block. `data` is not empty."""
    if _is_incompressible(data):
        return _stored(data)
    packer = zlib.compressobj(level, zlib.DEFLATED, -15)
    encoded = packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH)
    if FILE_SEP not in encoded:
        return encoded
    if len(data) <= _LEAF_BYTES:
        return _stored(data)
    # Only the part around the separator needs another encoding; the rest stays compressed.
    middle = len(data) // 2
    return _deflate(data[:middle], level) + _deflate(data[middle:], level)


def _stored(data: bytes) -> bytes:
    """Stored blocks for `data`, cut so that a FILE_SEP in it is split by a block header.

    A header is 00, length, complement of the length. 00 is not in FILE_SEP. For the rest to begin one, a byte of the
    complement would have to be `|` (the length's own bytes cannot: the bytes that must follow are their complements),
    which lengths under 32768 that do not end in 0x83 exclude.
    """
    blocks = []
    start = 0
    while start < len(data):
        end = min(start + 0x7FFF, len(data))
        separator = data.find(FILE_SEP, start, end)
        if separator >= 0:
            end = separator + len(FILE_SEP) // 2
        if (end - start) & 0xFF == 0x83:
            end -= 1
        length = end - start
        blocks.append(b"\x00" + length.to_bytes(2, "little") + (length ^ 0xFFFF).to_bytes(2, "little"))
        blocks.append(data[start:end])
        start = end
    blocks.append(_EMPTY_STORED)
    return b"".join(blocks)


def _is_incompressible(data: bytes) -> bool:
    """True if samples of a large piece do not shrink. zlib takes ten times longer over random bytes than over text,
    to no avail: stored blocks cost nothing."""
    if len(data) < _SAMPLED_FROM_BYTES:
        return False
    step = len(data) // 4
    sample = b"".join(data[at : at + _SAMPLE_BYTES] for at in range(0, step * 4, step))
    return len(zlib.compress(sample, 1)) > len(sample) * 0.97


# ---- reading ---------------------------------------------------------------------------------------------------------


class _Zlib:
    """A zlib stream."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj()

    def pieces(self, feed: bytes) -> Iterator[bytes]:
        """What these next bytes hold, at most CHUNK_BYTES at a time. Raises zlib.error."""
        while feed and not self._stream.eof:
            yield self._stream.decompress(feed, CHUNK_BYTES)
            feed = self._stream.unconsumed_tail

    @property
    def eof(self) -> bool:
        return self._stream.eof

    @property
    def unused(self) -> int:
        """Bytes that were fed beyond its end."""
        return len(self._stream.unused_data)


class _Lz4:
    """An LZ4 frame."""

    def __init__(self) -> None:
        self._frame = LZ4FrameDecompressor()

    def pieces(self, feed: bytes) -> Iterator[bytes]:
        """What these next bytes hold, at most CHUNK_BYTES at a time. Raises RuntimeError."""
        yield self._frame.decompress(feed, CHUNK_BYTES)
        while not self._frame.eof and not self._frame.needs_input:
            yield self._frame.decompress(b"", CHUNK_BYTES)

    @property
    def eof(self) -> bool:
        return bool(self._frame.eof)

    @property
    def unused(self) -> int:
        """Bytes that were fed beyond its end."""
        return len(self._frame.unused_data or b"")


class PackageReader:
    """Reads entries one after the other from an open file, in bounded memory. `position` is where the next entry
    begins.

    The caller owns `fd`. Use `read_path` and then `content`, to its end, for each entry while `expects_entry`; after an
    error `position` may be set to where another entry begins.
    """

    def __init__(self, fd: int, size: int, start: int = 0) -> None:
        self._fd = fd
        self.size = size
        self.position = start
        self.expects_entry = True
        self._window = b""
        self._window_start = 0
        self._frame = LZ4FrameDecompressor()

    def read_path(self) -> str:
        """The path of the entry at `position`; moves to its stream. Raises MalformedPackage."""
        at = self._load(self.position, PATH_BYTES + len(PATH_SEP))
        end = self._window.find(PATH_SEP, at, at + PATH_BYTES + len(PATH_SEP))
        if end < 0:
            raise MalformedPackage("package", f"no path at byte {self.position}")
        try:
            path = self._window[at:end].decode()
        except UnicodeDecodeError as error:
            raise MalformedPackage("package", f"a path that is not UTF-8 at byte {self.position}") from error
        self.position += end - at + len(PATH_SEP)
        return path

    def content(self, path: str, limit: int) -> Iterator[bytes]:
        """The raw content of the entry whose path was just read, in pieces of at most CHUNK_BYTES; `position` is behind
        the separator afterwards.

        Raises MalformedPackage (neither a zlib stream nor an LZ4 frame, cut short, no separator behind it),
        PackageTooLarge once it has more than `limit` bytes. FILE_SEP inside the stream is data.
        """
        position = self.position
        whole = 0
        feed = self._up_to_separator(position)
        unpacker = _Lz4() if feed.startswith(MAGIC) else _Zlib()
        while True:
            if not feed:
                raise MalformedPackage(path, "is cut short")
            position += len(feed)
            try:
                for data in unpacker.pieces(feed):
                    whole += len(data)
                    if whole > limit:
                        raise PackageTooLarge(path, f"has more than {limit} bytes")
                    if data:
                        yield data
            except (zlib.error, RuntimeError) as error:
                raise MalformedPackage(path, str(error)) from error
            if unpacker.eof:
                break
            at = self._load(position, FEED_BYTES)
            feed = self._window[at : at + FEED_BYTES]
        position -= unpacker.unused
        self.expects_entry = position < self.size
        if self.expects_entry:
            at = self._load(position, len(FILE_SEP))
            if not self._window.startswith(FILE_SEP, at):
                raise MalformedPackage(path, "has bytes behind its end")
            position += len(FILE_SEP)
        self.position = position

    def small_content(self, limit: int) -> bytes | None:
        """The raw content of the entry whose path was just read, if its stream is less than FEED_BYTES, whole, and
        followed by the separator, and holds at most CHUNK_BYTES and `limit`; `position` is behind the separator
        afterwards.

        None for every other entry, damaged ones too: nothing has moved then, and `content` reads it or says what is
        wrong.
        """
        at = self._load(self.position, FEED_BYTES)
        end = self._window.find(FILE_SEP, at + 1, at + FEED_BYTES)
        if end < 0:
            return None
        data = self._at_once(self._window[at:end])
        if data is None or len(data) > limit:
            return None
        self.position += end - at + len(FILE_SEP)
        return data

    def _at_once(self, stream: bytes) -> bytes | None:
        """What `stream` holds, None unless it is one whole stream of at most CHUNK_BYTES, with nothing behind it."""
        try:
            if not stream.startswith(MAGIC):
                unpacker = zlib.decompressobj()
                inflated = unpacker.decompress(stream, CHUNK_BYTES)
                return inflated if unpacker.eof and not unpacker.unused_data else None
            # The same object for all frames: after a whole one it is as new, and making one costs as much as a small
            # file.
            data: bytes = self._frame.decompress(stream, CHUNK_BYTES)
            if self._frame.eof and not self._frame.unused_data:
                return data
        except (zlib.error, RuntimeError):
            pass
        self._frame.reset()
        return None

    def separators(self, start: int, stop: int) -> Iterator[int]:
        """Positions of FILE_SEP that begin from `start` on and before `stop`, overlapping ones too."""
        while start < stop:
            at = self._load(start, len(FILE_SEP))
            found = self._window.find(FILE_SEP, at)
            if found < 0:
                # One may have begun in the last bytes of the window.
                start = max(start + 1, self._window_start + len(self._window) - len(FILE_SEP) + 1)
                if self._window_start + len(self._window) >= self.size:
                    return
                continue
            position = self._window_start + found
            if position >= stop:
                return
            yield position
            start = position + 1

    def path_at(self, position: int) -> str | None:
        """The path of an entry that would begin at `position`, None if none can."""
        keep = self.position
        self.position = position
        try:
            return self.read_path()
        except MalformedPackage:
            return None
        finally:
            self.position = keep

    def find_metadata(self) -> int:
        """Where the metadata entry begins: behind the last FILE_SEP that its name follows. Raises MalformedPackage."""
        mark = FILE_SEP + METADATA_NAME.encode() + PATH_SEP
        end = self.size
        while end > 0:
            start = max(0, end - WINDOW_BYTES)
            found = os.pread(self._fd, end - start + len(mark), start).rfind(mark)
            if found >= 0:
                return start + found + len(FILE_SEP)
            end = start
        if self.path_at(0) == METADATA_NAME:
            return 0
        raise MalformedPackage("package", f"holds no {METADATA_NAME}")

    def _up_to_separator(self, position: int) -> bytes:
        # For nearly all entries this is the whole stream. Bytes given to zlib beyond its end are copied, so a small
        # entry must not be given the window.
        at = self._load(position, FEED_BYTES)
        end = self._window.find(FILE_SEP, at + 1, at + FEED_BYTES)
        return self._window[at : end if end > 0 else at + FEED_BYTES]

    def _load(self, position: int, need: int) -> int:
        """Have `need` bytes from `position` on (or all there are) in the window; returns where in it they begin."""
        at = position - self._window_start
        if at < 0 or at + need > len(self._window):
            window_end = self._window_start + len(self._window)
            if at < 0 or at > len(self._window) or window_end < self.size:
                self._window = os.pread(self._fd, WINDOW_BYTES, position)
                self._window_start = position
                at = 0
        return at


def read_metadata(reader: PackageReader, limit: int = METADATA_LIMIT_BYTES) -> bytes:
    """The raw content of the metadata entry, which must be the last. Raises MalformedPackage, PackageTooLarge."""
    reader.position = reader.find_metadata()
    path = reader.read_path()
    data = b"".join(reader.content(path, limit))
    if reader.expects_entry:
        raise MalformedPackage(path, "is not the last entry of the package")
    return data


def read_metadata_of(package: str, limit: int = METADATA_LIMIT_BYTES) -> bytes:
    """read_metadata of the package file `package`, such as a worker's check package. OSError as it comes."""
    fd = os.open(package, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return read_metadata(PackageReader(fd, os.fstat(fd).st_size), limit)
    finally:
        os.close(fd)
