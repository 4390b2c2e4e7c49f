"""Which code this is. All builds have one version number, and an upgrade replaces files under a running node: a digest
of our own files tells builds apart, wherever and however they are installed."""

import json
import os
import sys
from collections.abc import Iterator
from typing import NamedTuple

from clusterd.rundir import run_dir

PACKAGES = ("clusterd", "hashing", "ipc", "tools")
LEFT_OUT = ("__pycache__", "rig")
"""Directories whose files do not count: tools/rig stays in the checkout."""
DIGEST_BYTES = 6
CODE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class Build(NamedTuple):
    """`build`: the digest; `environment`: of Python; `code`: the directory of our packages; `stamp`: stays the same
    while no file is touched, so that the digest is not taken again."""

    build: str
    environment: str
    code: str
    stamp: str

    def shown(self) -> dict[str, str]:
        return {"build": self.build, "environment": self.environment, "code": self.code}


def installed(known: Build | None = None, code: str = CODE) -> Build:
    """Returns what the files are now from which this process was loaded. Takes about 12 ms of CPU, or 3 if they are
    those of `known`. Raises OSError."""
    files = sorted(_files(code, PACKAGES))
    stamp = _stamp(files)
    if known is not None and (known.code, known.stamp, known.environment) == (code, stamp, sys.prefix):
        return known
    return Build(_digest(code, files), sys.prefix, code, stamp)


def build_path(root: str) -> str:
    """Written by the supervisor at the start: what it was loaded from."""
    return f"{run_dir(root)}/build"


def note(root: str, build: Build) -> None:
    """Raises OSError."""
    with open(build_path(root), "w", encoding="utf-8") as file:
        json.dump(build._asdict(), file)


def noted(root: str) -> Build | None:
    """Returns what the running node was loaded from; None if it does not say, as older versions do not."""
    try:
        with open(build_path(root), encoding="utf-8") as file:
            found = json.loads(file.read(65536))
        return Build(*(str(found[name]) for name in Build._fields))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def difference(running: Build, now: Build) -> str:
    """Returns what an operator should know; empty if the node runs what is installed."""
    if running.build == now.build:
        return ""
    of = f" of {running.environment}" if running.environment != now.environment else ""
    there = f" in {now.environment}" if of else ""
    return f"this node runs build {running.build}{of}, and build {now.build} is installed{there}: clusterd restart"


def _files(code: str, names: tuple[str, ...]) -> Iterator[tuple[str, int, int, int]]:
    """Yields path, size, modification time and inode."""
    for name in names:
        with os.scandir(os.path.join(code, name)) as entries:
            for entry in entries:
                if entry.is_dir():
                    if entry.name not in LEFT_OUT:
                        yield from _files(code, (os.path.join(name, entry.name),))
                elif not entry.name.startswith(".") and not entry.name.endswith((".pyc", "~")):
                    found = entry.stat()
                    yield entry.path, found.st_size, found.st_mtime_ns, found.st_ino


def _stamp(files: list[tuple[str, int, int, int]]) -> str:
    sizes, times, inodes = (sum(column) for column in list(zip(*files, strict=True))[1:])
    return f"{len(files)}.{sizes}.{times}.{inodes}"


def _digest(code: str, files: list[tuple[str, int, int, int]]) -> str:
    from _blake2 import blake2b  # hashlib loads OpenSSL, which takes longer than the digest of a version should

    digest = blake2b(digest_size=DIGEST_BYTES)
    for path, *_ in files:
        with open(path, "rb", buffering=0) as file:
            content = file.read()
        digest.update(f"{os.path.relpath(path, code)}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()
