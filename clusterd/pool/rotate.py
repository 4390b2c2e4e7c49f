"""The log of a day that is over: moved to logs/cluster/{year}/{Mon}/cluster.log-{dd}.gz (wire.md 9.1)."""

import gzip
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from hashing.locks import locked_directory

MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
DIRECTORY_MODE = 0o750
FILE_MODE = 0o640
FOLLOW_S = 2.5
"""Processes look once a second whether their file was moved (clusterd/logs.py); until then they write to the moved
one."""

STEP_S = 0.1


def rotate_log(root: str, day: str, on_step: Callable[[], None], follow_s: float = FOLLOW_S) -> int:
    """Move the log of `day` (YYYY-MM-DD) away and compress it; returns how many files were made, 0 or 1.

    Safe to run again after a crash at any step: what was moved and not compressed yet is compressed then; a second
    log of the same day is appended to the first one's file. Raises OSError."""
    year, month, number = day.split("-")
    directory = Path(root) / "logs" / "cluster" / year / MONTHS[int(month) - 1]
    _make(directory, Path(root) / "logs")
    # A new sync process may ask for a rotation while a pool process still runs the one before: both would write beside
    # the same file.
    with locked_directory(directory, on_step):
        return _rotate(Path(root), directory, number, on_step, follow_s)


def _rotate(root: Path, directory: Path, number: str, on_step: Callable[[], None], follow_s: float) -> int:
    log = root / "logs" / "cluster.log"
    moved = directory / f"cluster.log-{number}"
    if not moved.exists():
        try:
            if log.stat().st_size == 0:
                return 0
            log.rename(moved)
        except FileNotFoundError:
            return 0
        _let_writers_follow(on_step, follow_s)
    _compress(moved, moved.with_name(f"{moved.name}.gz"), on_step)
    moved.unlink()
    return 1


def _make(directory: Path, above: Path) -> None:
    """The directory and its parents below `above`, with their mode whatever the umask."""
    if directory == above or directory.is_dir():
        return
    _make(directory.parent, above)
    directory.mkdir(exist_ok=True)
    directory.chmod(DIRECTORY_MODE)


def _let_writers_follow(on_step: Callable[[], None], follow_s: float) -> None:
    deadline = time.monotonic() + follow_s
    while time.monotonic() < deadline:
        on_step()
        time.sleep(STEP_S)


def _compress(source: Path, target: Path, on_step: Callable[[], None]) -> None:
    """gzip members follow one another in a valid file, so an earlier part of the day is kept in front."""
    beside = target.with_name(f".{target.name}.tmp")
    with open(beside, "wb") as out:
        os.fchmod(out.fileno(), FILE_MODE)
        if target.exists():
            with open(target, "rb") as earlier:
                shutil.copyfileobj(earlier, out)
        with open(source, "rb") as log, gzip.GzipFile(filename="", mode="wb", fileobj=out) as packed:
            while piece := log.read(1024 * 1024):
                packed.write(piece)
                on_step()
        out.flush()
        os.fsync(out.fileno())
    os.replace(beside, target)
