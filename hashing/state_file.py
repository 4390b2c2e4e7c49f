"""Files of our own that outlive a process: msgpack in an LZ4 frame behind an xxh3 guard, replaced atomically.

    file = magic (8 bytes: "clusterd" has none of it, each kind its own) xxh3_64 of the frame (8 bytes, big-endian)
    frame

The guard detects damage and torn writes, so writing does not wait for the disk. After a power failure the file is
either whole, or refused and made anew.
"""

import contextlib
import os
from collections.abc import Mapping
from typing import Any

import lz4.frame
import msgspec
import xxhash

from hashing.atomic import FileOps
from hashing.errors import MalformedPackage
from hashing.write import write_atomic

MODE = 0o640
MAGIC_BYTES = 8
_HEAD = 16


def save_state(ops: FileOps, path: str, magic: bytes, value: object, *, durable: bool = False) -> None:
    """Replace the file at `path` by `value` (anything msgspec encodes). `magic` is 8 bytes: kind and version of the
    layout.

    The directory must exist. `durable`: for what cannot be made anew. OSError as it comes; the old file is then still
    there.
    """
    frame = lz4.frame.compress(msgspec.msgpack.encode(value), store_size=True)
    write_atomic(ops, path, magic + xxhash.xxh3_64_digest(frame) + frame, MODE, durable=durable)


def load_state(path: str, magic: bytes, decoder: msgspec.msgpack.Decoder[Any]) -> Any:
    """What save_state wrote, as the type of `decoder`.

    Raises FileNotFoundError, MalformedPackage when the file is damaged, of another kind or version, other OSError as it
    comes.
    """
    return load_state_of(path, {magic: decoder})


def load_state_of(path: str, decoders: Mapping[bytes, msgspec.msgpack.Decoder[Any]]) -> Any:
    """The same for a file of any of these kinds, by magic."""
    with open(path, "rb", buffering=0) as file:
        data = memoryview(file.read())
    decoder, frame = decoders.get(bytes(data[:MAGIC_BYTES])), data[_HEAD:]
    if decoder is None or data[MAGIC_BYTES:_HEAD] != xxhash.xxh3_64_digest(frame):
        raise MalformedPackage(path, "is damaged or of another version")
    try:
        return decoder.decode(lz4.frame.decompress(frame))
    except (msgspec.MsgspecError, RuntimeError) as error:
        raise MalformedPackage(path, f"does not decode: {error}") from error


def magic_of(path: str) -> bytes:
    """The kind of the file; empty if there is none. OSError as it comes."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read(MAGIC_BYTES)
    except FileNotFoundError:
        return b""


def remove_all_but(ops: FileOps, directory: str, prefix: str, keep: int) -> None:
    """Remove files of `directory` whose names begin with `prefix`, except the `keep` newest. OSError as it comes."""
    with os.scandir(directory) as entries:
        found = sorted(
            (
                (entry.stat(follow_symlinks=False).st_mtime_ns, entry.path)
                for entry in entries
                if entry.name.startswith(prefix)
            ),
            reverse=True,
        )
    for _, path in found[keep:]:
        with contextlib.suppress(FileNotFoundError):
            ops.unlink(path)
