"""Trees for the jobs: made once below a stage, moved into a master and back, so that no job waits for files to be
written."""

import hashlib
import os
import random
import shutil
from pathlib import Path

from clusterd.settings import DEFAULT_RULES
from hashing.digest_cache import file_rows
from hashing.manifest import bucket_digests, content_digest
from hashing.walk import scan_shard
from tools.rig import workload
from tools.rig.compare import compare

PLACES = ("etc/shared", "etc/rules", "etc/decoders", "etc/lists", "var/multigroups", "etc/client.keys")
A_DIRECTORY = 500
"""Files in each directory of a flat tree."""


def lognormal_tree(stage: Path, files: int, mean_bytes: int) -> None:
    """The shape of the design document: 20,000 files with a mean of 10,450 bytes are 209 MB."""
    workload.generate(stage, files=files, size=mean_bytes)


def flat_tree(stage: Path, files: int, size: int) -> None:
    """`files` files of exactly `size` bytes, text and noise, in directories of A_DIRECTORY."""
    rng = random.Random(1)
    words = b" ".join(rng.choice(workload.WORDS).encode() for _ in range(20_000))
    noise = rng.randbytes(size)
    for place in PLACES[:-1]:
        (stage / place).mkdir(parents=True, exist_ok=True)
    for number in range(files):
        directory = stage / ("etc/rules", "etc/decoders", "etc/lists", "etc/shared")[number % 4]
        directory /= f"{number // 4 // A_DIRECTORY:03}"
        if number // 4 % A_DIRECTORY == 0:
            directory.mkdir(exist_ok=True)
        start = number * 37 % (len(words) // 2)
        content = f"{number} ".encode() + words[start : start + size // 2]
        (directory / f"file_{number:06}").write_bytes((content + noise)[:size])


def move(source: Path, target: Path) -> None:
    """The synchronised places of one root to another on the same file system, replacing what is there."""
    for place in PLACES:
        if not (source / place).exists():
            continue
        there = target / place
        if there.is_dir():
            shutil.rmtree(there)
        there.parent.mkdir(parents=True, exist_ok=True)
        os.rename(source / place, there)


def size_of(root: Path) -> tuple[int, int]:
    """Returns the number of synchronised files and their bytes."""
    found = [os.stat(root / path).st_size for path in workload.paths(root)]
    return len(found), sum(found)


def is_equal(master: Path, workers: list[Path]) -> bool:
    """Compares the first worker file by file, the others by number and size of their files: comparing all of them would
    take a minute."""
    return compare(master, workers[0]).is_equal and len({size_of(root) for root in workers}) == 1


def content_digest_of(root: Path) -> str:
    """Returns what a clusterd worker with these files sends in `syn_digest`."""
    rows = sorted(file_rows(scan_shard(str(root), DEFAULT_RULES, 0, 1).rows), key=lambda row: row.path)
    return content_digest(bucket_digests(rows))


def token(number: int) -> bytes:
    """Content of a changed file, different each time."""
    return f"# {number} {hashlib.sha256(str(number).encode()).hexdigest()}\n".encode() * 20


def remove(path: Path) -> None:
    """A file or a directory with everything in it; nothing there is fine."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
