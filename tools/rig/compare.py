"""Compares two nodes' synchronised directories, file by file. An independent check: it hashes by itself and uses no
manifest."""

import fnmatch
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tools.rig.peer_files import ITEMS
from tools.rig.workload import paths


@dataclass
class Comparison:
    """`equal`: files with equal content. The lists hold paths: only on one side, different content, a mode on the
    worker that is not that of its directory's rule (text: `path: 0644 instead of 0660`), temporary files left behind on
    the worker."""

    equal: int = 0
    missing: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)
    wrong_mode: list[str] = field(default_factory=list)
    leftover: list[str] = field(default_factory=list)

    @property
    def is_equal(self) -> bool:
        return not (self.missing or self.extra or self.differing or self.wrong_mode or self.leftover)

    @property
    def total(self) -> int:
        """Number of files on the master."""
        return self.equal + len(self.missing) + len(self.differing)

    def lines(self) -> Iterator[str]:
        """Returns one line per finding, for people."""
        for word in ("missing", "extra", "differing", "wrong_mode", "leftover"):
            for path in getattr(self, word):
                yield f"{word.replace('_', ' ')}: {path}"


def compare(master: Path, worker: Path) -> Comparison:
    """Compares a worker with its master, given their roots. Files that vanish meanwhile count as absent."""
    result = Comparison()
    ours, theirs = set(paths(master)), set(paths(worker))
    result.extra = sorted(theirs - ours)
    for path in sorted(ours):
        if path not in theirs:
            result.missing.append(path)
            continue
        try:
            same = _same_content(master / path, worker / path)
            mode = stat.S_IMODE((worker / path).stat().st_mode)
        except FileNotFoundError:
            result.missing.append(path)
            continue
        if not same:
            result.differing.append(path)
            continue
        result.equal += 1
        wanted = mode_of(path)
        if mode != wanted:
            result.wrong_mode.append(f"{path}: {mode:04o} instead of {wanted:04o}")
    for key in ITEMS:
        result.leftover += sorted(
            path.relative_to(worker).as_posix() for path in _temporary(worker / key, key != "etc/")
        )
    return result


def _temporary(directory: Path, is_recursive: bool) -> Iterator[Path]:
    """Returns the temporary files of an interrupted application. os.walk, unlike Path.rglob, tolerates a directory that
    vanishes meanwhile."""
    for place, inner, names in os.walk(directory):
        yield from (Path(place, name) for name in fnmatch.filter(names, ".clusterd-*.tmp"))
        if not is_recursive:
            inner.clear()


def _same_content(one: Path, other: Path) -> bool:
    """Compares byte by byte. filecmp would use a cache of sizes and times, which tampering may have preserved."""
    with one.open("rb") as first, other.open("rb") as second:
        while True:
            piece = first.read(262144)
            if piece != second.read(262144):
                return False
            if not piece:
                return True


def mode_of(path: str) -> int:
    """Returns the mode that a worker gives to a synchronised file (wire.md 5.1)."""
    key = next(key for key in reversed(ITEMS) if path.startswith(key))
    return ITEMS[key][2]
