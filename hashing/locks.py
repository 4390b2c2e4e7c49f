"""Locks between processes (flock). The kernel releases a lock when the last descriptor of its opening is closed, so a
killed process leaves none behind."""

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_TICK_S = 0.02


def lock(fd: int, patience_s: float | None = None, on_wait: Callable[[], object] | None = None) -> None:
    """Takes the exclusive lock of an open file or directory. While another opening of it holds the lock, calls
    `on_wait` every 20 ms. Raises TimeoutError after `patience_s`; without it, waits for ever."""
    if patience_s is None and on_wait is None:
        fcntl.flock(fd, fcntl.LOCK_EX)
        return
    deadline = None if patience_s is None else time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(errno.ETIMEDOUT, "another process holds the lock") from None
        if on_wait is not None:
            on_wait()
        time.sleep(_TICK_S)


@contextmanager
def locked_directory(directory: Path, on_wait: Callable[[], object] | None = None) -> Iterator[None]:
    """Keeps other processes that call this function for `directory` waiting while the block runs. Raises OSError."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        lock(fd, on_wait=on_wait)
        yield
    finally:
        os.close(fd)
