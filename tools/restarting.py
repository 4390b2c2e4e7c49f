"""Looks whether a node could start again, before it is stopped for that."""

import contextlib
import errno
import os
from collections.abc import Iterator

from clusterd.pidfile import DIRECTORY, UNFINISHED
from clusterd.settings import Settings
from clusterd.supervisor.privileges import PrivilegeProblem, answer_as, owner_to_become, tree_problem
from tools.units import size

ROOM_BYTES = 256 * 1024
ROOM_FILES = 32
"""What a start writes below DIRECTORY (pid file, board, sockets), and as much again for what may fail otherwise."""
HELD = f"{DIRECTORY}/{UNFINISHED}room"
"""By its name the next start removes it, should this command be killed."""


@contextlib.contextmanager
def room_to_start(settings: Settings) -> Iterator[str]:
    """Holds the room that a start needs, so that nobody takes it while the node stops. Yields what a start would fail
    at, as the node's user would; empty if nothing is known to."""
    root = settings.root
    try:
        owner = owner_to_become(settings.clusterd.owner)
    except PrivilegeProblem as problem:
        yield str(problem)
        return
    try:
        yield _problem(root) if owner is None else answer_as(owner, lambda: _problem(root))
    finally:
        with contextlib.suppress(OSError):
            os.unlink(f"{root}/{HELD}")


def _problem(root: str) -> str:
    """Leaves the file that holds the room."""
    problem = tree_problem(root)
    if problem:
        return problem
    directory = f"{root}/{DIRECTORY}"
    try:
        found = os.statvfs(directory)
        if found.f_files and found.f_favail < ROOM_FILES:
            return f"a start needs {ROOM_FILES} inodes in {directory}, where {found.f_favail} are free"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(f"{root}/{HELD}", flags, 0o600)
        try:
            os.posix_fallocate(fd, 0, ROOM_BYTES)
        finally:
            os.close(fd)
    except OSError as failure:
        if failure.errno in (errno.ENOSPC, errno.EDQUOT):
            return f"a start needs {size(ROOM_BYTES)} in {directory}: {failure.strerror}; make room first"
        return f"a start cannot write in {directory}: {failure.strerror}"
    return ""
