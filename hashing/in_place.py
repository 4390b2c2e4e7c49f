"""The one exception to renaming: nothing can be renamed over a file that is itself a mount point (a single-file volume
of a container, a subPath of Kubernetes). Its content is overwritten in place, and a copy of the old content is kept
beside it until the new one is complete: after a crash in between, the next write completes the new content, or `heal`
restores the old.

A reader may see it half written. Writers and healers of one file take turns by a lock on it.
"""

import errno
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from hashing.atomic import FileOps, create_temporary, is_abandoned, is_kept, is_temporary, kept_name
from hashing.errors import UnsafePath
from hashing.locks import lock

OnStep = Callable[[], object]
PIECE_BYTES = 1024 * 1024
PATIENCE_S = 5.0
LONGEST_WRITE_S = 86400.0
"""A temporary file that nobody has written to for so long is nobody's, even if a process has its writer's id: in a
container those of the next life have the same ones."""
_OPEN = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def _no_step() -> None:
    return


def replace(ops: FileOps, temporary: str, name: str, *, dir_fd: int, on_step: OnStep = _no_step) -> bool:
    """Rename `temporary` over `name`; if that is a mount point, copy it there instead and remove `temporary`. True
    if it was copied, and is on the disk then. OSError as it comes, TimeoutError when another process writes the file
    for 5 s, UnsafePath for a mount point that is no regular file; the file is then as it was, or `heal` makes it so."""
    try:
        ops.rename(temporary, name, dir_fd=dir_fd)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
    else:
        if _is_kept(name, dir_fd):
            # It was a mount point before a crash: `heal` would put what is older than this in the place of it.
            ops.unlink(kept_name(name), dir_fd=dir_fd)
        return False
    with _opened(name, dir_fd, PATIENCE_S) as target_fd:
        source_fd = os.open(temporary, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
        try:
            _keep(ops, target_fd, name, dir_fd, on_step)
            try:
                _pour(ops, source_fd, target_fd, on_step)
                _take_mode(ops, source_fd, target_fd)
            except OSError:
                # Removed at once where that works; else the next write or heal removes it.
                with suppress(OSError):
                    _restore(ops, target_fd, name, dir_fd, on_step)
                raise
            ops.unlink(kept_name(name), dir_fd=dir_fd)
            ops.unlink(temporary, dir_fd=dir_fd)
        finally:
            os.close(source_fd)
    return True


def heal(ops: FileOps, kept: str, names: list[str], *, dir_fd: int) -> bool:
    """Give the file among `names`, those of the directory, whose old content is kept as `kept` that content back. False
    where another process is about to do so, or to complete the new one: nothing happens then. OSError as it comes."""
    name = next((name for name in names if kept_name(name) == kept), None)
    if name is None:
        ops.unlink(kept, dir_fd=dir_fd)  # whose it was is gone
        return True
    try:
        with _opened(name, dir_fd, 0.0) as target_fd:
            _restore(ops, target_fd, name, dir_fd, _no_step)
    except (TimeoutError, UnsafePath):
        return False
    return True


def sweep(ops: FileOps, dir_fd: int, names: list[str]) -> int:
    """Remove what dead processes have left of temporary files among `names`, those of the directory, and heal what
    they were writing in place. Returns how many. What fails is left."""
    count = 0
    for name in filter(is_temporary, names):
        try:
            if is_kept(name):
                count += heal(ops, name, names, dir_fd=dir_fd)
            elif is_abandoned(name) or _is_old(name, dir_fd):
                ops.unlink(name, dir_fd=dir_fd)
                count += 1
        except OSError:
            continue
    return count


def _is_old(name: str, dir_fd: int) -> bool:
    return time.time() - os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_mtime > LONGEST_WRITE_S


@contextmanager
def _opened(name: str, dir_fd: int, patience_s: float) -> Iterator[int]:
    """Lock the file for this process while the block runs."""
    fd = os.open(name, _OPEN, dir_fd=dir_fd)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise UnsafePath(name, "is a mount point and no regular file")
        try:
            lock(fd, patience_s)
        except TimeoutError:
            raise TimeoutError(errno.ETIMEDOUT, "is being written by another process") from None
        yield fd
    finally:
        os.close(fd)


def _keep(ops: FileOps, target_fd: int, name: str, dir_fd: int, on_step: OnStep) -> None:
    """Keep a whole copy of the old content beside the file, synced to the disk. A copy that is there already was
    left by a crash: the file may be torn since, so that copy still is the old content."""
    if _is_kept(name, dir_fd):
        return
    fd, temporary = create_temporary(ops, name, 0o600, dir_fd=dir_fd)
    try:
        try:
            _pour(ops, target_fd, fd, on_step)
        finally:
            os.close(fd)
        ops.rename(temporary, kept_name(name), dir_fd=dir_fd)
    except OSError:
        with suppress(OSError):
            ops.unlink(temporary, dir_fd=dir_fd)
        raise
    ops.fsync(dir_fd)


def _is_kept(name: str, dir_fd: int) -> bool:
    try:
        os.stat(kept_name(name), dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _restore(ops: FileOps, target_fd: int, name: str, dir_fd: int, on_step: OnStep) -> None:
    kept = kept_name(name)
    try:
        fd = os.open(kept, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    except FileNotFoundError:
        return  # the new content was completed meanwhile
    try:
        _pour(ops, fd, target_fd, on_step)
    finally:
        os.close(fd)
    ops.unlink(kept, dir_fd=dir_fd)


def _pour(ops: FileOps, source_fd: int, target_fd: int, on_step: OnStep) -> None:
    """Make the content of the one file that of the other, on the disk."""
    os.lseek(target_fd, 0, os.SEEK_SET)
    size = 0
    while piece := os.pread(source_fd, PIECE_BYTES, size):
        ops.write(target_fd, piece)
        size += len(piece)
        on_step()
    ops.truncate(target_fd, size)
    ops.fsync(target_fd)


def _take_mode(ops: FileOps, source_fd: int, target_fd: int) -> None:
    mode = os.fstat(source_fd).st_mode & 0o7777
    if os.fstat(target_fd).st_mode & 0o7777 != mode:
        with suppress(PermissionError):  # the mount may belong to another user: only the content matters
            ops.chmod(target_fd, mode)
