"""The files that a stock node synchronises and how it packs them: an independent implementation of wire.md section 5.
Imports nothing of clusterd."""

import hashlib
import json
import mmap
import os
import time
import uuid
import zlib
from pathlib import Path
from typing import Any

Metadata = dict[str, Any]
Files = dict[str, Metadata]
"""Path relative to the node's root to its metadata (5.2)."""

FILE_SEP = b"|@@//@@|"
PATH_SEP = b"|//@@//|"
METADATA = "files_metadata.json"
EXCLUDED_FILES = ("ar.conf", "ossec.conf")
EXCLUDED_EXTENSIONS = ("~", ".tmp", ".lock", ".swp")
ITEMS: dict[str, tuple[tuple[str, ...], bool, int, bool]] = {
    "etc/": (("client.keys",), False, 0o640, False),
    "etc/shared/": (("all",), True, 0o660, True),
    "var/multigroups/": (("merged.mg",), True, 0o660, True),
    "etc/rules/": (("all",), True, 0o660, False),
    "etc/decoders/": (("all",), True, 0o660, False),
    "etc/lists/": (("all",), True, 0o660, False),
}
"""Key to: names, recursive, permissions, remove_subdirs_if_empty (5.1)."""


def blake2b_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


def is_synchronised(key: str, name: str) -> bool:
    """Tells whether a base name below the directory `key` belongs to the synchronised set."""
    names = ITEMS[key][0]
    return (
        name not in EXCLUDED_FILES and not name.endswith(EXCLUDED_EXTENSIONS) and (names == ("all",) or name in names)
    )


def scan(root: Path) -> Files:
    """Returns every synchronised file of a node, as a stock node sees it; a file that vanishes meanwhile is left
    out."""
    found: Files = {}
    for key, (_, recursive, _, _) in ITEMS.items():
        for directory, below, names in os.walk(root / key):
            if not recursive:
                below.clear()
            for name in names:
                path = Path(directory, name)
                if not is_synchronised(key, name) or not path.is_file():
                    continue
                try:
                    entry: Metadata = {
                        "mod_time": path.stat().st_mtime,
                        "cluster_item_key": key,
                        "merged": ".merged" in name,
                        "hash": blake2b_of(path),
                    }
                except FileNotFoundError:
                    continue
                if entry["merged"]:
                    entry |= {"merge_type": "TYPE", "merge_name": str(path)}
                found[path.relative_to(root).as_posix()] = entry
    return found


def compare(master: Files, worker: Files) -> dict[str, Files]:
    """Returns the three groups of 5.5, in their order on the wire."""
    return {
        "missing": {path: entry for path, entry in master.items() if path not in worker},
        "extra": {path: entry for path, entry in worker.items() if path not in master},
        "shared": {
            path: entry for path, entry in master.items() if path in worker and worker[path]["hash"] != entry["hash"]
        },
    }


def package_name(node: str) -> str:
    return f"{node}-{time.time()}-{uuid.uuid4().hex}.zip"


def write_package(target: Path, root: Path, metadata: dict[str, Any], level: int = 1) -> None:
    """Builds a package as a stock node does (5.4, 5.6 without the limit): the contents of `missing` and `shared`, if
    `metadata` has these keys, then the metadata. Like stock it does not look for separators in compressed data."""
    groups = {"missing", "extra", "shared"} == set(metadata)
    with target.open("wb") as out:
        for path in [*metadata["missing"], *metadata["shared"]] if groups else []:
            try:
                content = (root / path).read_bytes()
            except FileNotFoundError:
                if path in metadata["shared"]:
                    metadata["extra"][path] = metadata["shared"].pop(path)
                metadata["missing"].pop(path, None)
                continue
            out.write(path.encode() + PATH_SEP + zlib.compress(content, level) + FILE_SEP)
        out.write(METADATA.encode() + PATH_SEP + zlib.compress(json.dumps(metadata).encode(), level))


def unpack(package: Path, into: Path) -> dict[str, Any]:
    """Unpacks as stock does: cuts at each FILE_SEP, path up to the first PATH_SEP. Returns the metadata.

    Raises zlib.error, ValueError (no separator, no metadata, bad JSON): the whole package is refused.
    """
    into.mkdir(mode=0o770, parents=True, exist_ok=True)
    if not package.stat().st_size:
        raise ValueError("not enough values to unpack (expected 2, got 1)")
    with package.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        start = 0
        while start < len(data):
            end = data.find(FILE_SEP, start)
            end = len(data) if end < 0 else end
            cut = data.find(PATH_SEP, start, end)
            if cut < 0:
                raise ValueError("not enough values to unpack (expected 2, got 1)")
            target = _inside(into, data[start:cut].decode())
            target.parent.mkdir(mode=0o770, parents=True, exist_ok=True)
            _decompress(data, cut + len(PATH_SEP), end, target)
            start = end + len(FILE_SEP)
    if not (into / METADATA).exists():
        raise ValueError("package without metadata")
    metadata: dict[str, Any] = json.loads((into / METADATA).read_bytes())
    return metadata


def apply(root: Path, unpacked: Path, groups: dict[str, Files]) -> list[str]:
    """Puts the files of an unpacked package in place (5.9); returns one text for each failure. Keeps the order of the
    groups."""
    problems = []
    emptied = set()
    for group, files in groups.items():
        if group not in ("missing", "extra", "shared"):
            continue
        for path, entry in files.items():
            target = _inside(root, path)
            item = ITEMS[entry["cluster_item_key"]]
            try:
                if group == "extra":
                    target.unlink(missing_ok=True)
                    if item[3]:
                        emptied.add(target.parent)
                    continue
                target.parent.mkdir(mode=0o770, parents=True, exist_ok=True)
                os.chmod(unpacked / path, item[2])
                os.replace(unpacked / path, target)
            except OSError as error:
                problems.append(f"Error processing {group} file '{path}': {error}")
    for directory in emptied:
        names = os.listdir(directory) if directory.is_dir() else None
        if names is not None and all(name in EXCLUDED_FILES for name in names):
            for name in names:
                (directory / name).unlink()
            directory.rmdir()
    return problems


def _inside(base: Path, path: str) -> Path:
    """Stock nodes do not check this. The rig does, because it runs on a user's machine."""
    if path.startswith("/") or ".." in path.split("/"):
        raise ValueError(f"path leaves the directory: {path!r}")
    return base / path


def _decompress(data: mmap.mmap, start: int, end: int, target: Path) -> None:
    stream = zlib.decompressobj()
    with target.open("wb") as out:
        while start < end and not stream.eof:
            piece = data[start : min(start + 1048576, end)]
            start += len(piece)
            out.write(stream.decompress(piece))
        out.write(stream.flush())
    if not stream.eof:
        raise zlib.error("Error -5 while decompressing data: incomplete or truncated stream")
