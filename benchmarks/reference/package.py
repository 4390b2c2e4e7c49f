"""Packages (wire.md 5.4, 5.6): made anew for each worker on the loop, unpacked in one go."""

import asyncio
import json
import os
import time
import uuid
import zlib
from pathlib import Path
from typing import Any

from benchmarks.reference.tree import Files

FILE_SEP = b"|@@//@@|"
PATH_SEP = b"|//@@//|"
METADATA = "files_metadata.json"
READ_BYTES = 10 * 1024 * 1024
PACK_TURN = 100
"""Files packed before other work of the loop gets its turn. Without it an echo would wait for the whole package."""


def new_path(spool: Path, node: str) -> Path:
    return spool / f"{node}-{time.time()}-{uuid.uuid4().hex}.zip"


def compressed(data: bytes, level: int) -> bytes:
    """Returns a zlib stream that does not contain the separator (5.4): where it would, the stream is flushed in its
    middle."""
    stream = zlib.compress(data, level)
    if FILE_SEP not in stream:
        return stream
    first, *others = data.split(FILE_SEP)
    half = zlib.compressobj(level)
    pieces = [half.compress(first)]
    for other in others:
        pieces += [half.compress(FILE_SEP[:4]), half.flush(zlib.Z_FULL_FLUSH), half.compress(FILE_SEP[4:] + other)]
    return b"".join(pieces) + half.flush()


async def pack(target: Path, root: Path, groups: dict[str, Files], limit: int, level: int) -> bool:
    """Writes the contents of missing and shared files up to `limit` bytes, then the metadata. Returns True if some
    files wait for the next check."""
    size = 0
    is_full = False
    with target.open("wb") as out:
        for group in ("missing", "shared"):
            for number, path in enumerate(list(groups[group])):
                if number % PACK_TURN == PACK_TURN - 1:
                    await asyncio.sleep(0)
                entry = b""
                if not is_full:
                    try:
                        with open(os.path.join(root, path), "rb") as file:
                            entry = path.encode() + PATH_SEP + compressed(file.read(), level) + FILE_SEP
                    except FileNotFoundError:
                        gone = groups[group].pop(path)
                        if group == "shared":
                            groups["extra"][path] = gone
                        continue
                    is_full = size + len(entry) > limit
                if is_full:
                    del groups[group][path]
                    continue
                size += len(entry)
                out.write(entry)
        _write_metadata(out, groups, level)
    return is_full


def pack_metadata(target: Path, files: Files, level: int) -> None:
    """Writes what a worker sends in every check."""
    with target.open("wb") as out:
        _write_metadata(out, files, level)


def _write_metadata(out: Any, metadata: Any, level: int) -> None:
    out.write(METADATA.encode() + PATH_SEP + zlib.compress(json.dumps(metadata).encode(), level))


def unpack(package: Path, into: Path) -> Any:
    """Unpacks every entry to a file below `into`; returns the metadata. Raises zlib.error, ValueError, OSError."""
    made: set[str] = set()
    rest = b""
    with package.open("rb") as file:
        while data := file.read(READ_BYTES):
            *parts, rest = (rest + data).split(FILE_SEP)
            for part in parts:
                _unpack_entry(part, into, made)
    _unpack_entry(rest, into, made)
    return json.loads((into / METADATA).read_bytes())


def _unpack_entry(part: bytes, into: Path, made: set[str]) -> None:
    name, stream = part.split(PATH_SEP, 1)
    path = name.decode()
    if path.startswith("/") or ".." in path.split("/"):
        raise ValueError(f"path leaves the directory: {path!r}")
    target = os.path.join(into, path)
    directory = os.path.dirname(target)
    if directory not in made:
        os.makedirs(directory, mode=0o770, exist_ok=True)
        made.add(directory)
    with open(target, "wb") as file:
        file.write(zlib.decompress(stream))
