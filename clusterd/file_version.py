"""Tells one state of a file from another without reading it."""

import os

FileVersion = tuple[int, int, int, int, int]
"""Device, inode, size, mtime_ns, ctime_ns. Only the last one changes when a program keeps size and time (`cp -p`,
`rsync -t`, an editor that restores the time)."""


def version_of(status: os.stat_result) -> FileVersion:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def version_at(path: str | os.PathLike[str]) -> FileVersion | None:
    """None if there is no such file. Raises OSError."""
    try:
        return version_of(os.stat(path))
    except FileNotFoundError:
        return None
