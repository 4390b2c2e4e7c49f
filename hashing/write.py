"""Replace a whole file from memory."""

import os

from hashing.atomic import OPEN_DIRECTORY, Data, FileOps, create_temporary
from hashing.in_place import replace


def write_atomic(ops: FileOps, path: str, data: Data, mode: int, *, durable: bool = True) -> None:
    """Replace the content of `path` by `data`, or leave it as it was.

    `mode` is set whatever the umask is. With `durable` the content is on disk before the rename, and the rename after
    it; without, a power failure may leave the file empty or torn. That is only for files with a checksum that can be
    made anew. The directory must exist. OSError as it comes; then nothing is left beside the target, unless that fails
    too.
    """
    directory, name = os.path.split(path)
    dir_fd = os.open(directory or ".", OPEN_DIRECTORY)
    try:
        fd, temporary = create_temporary(ops, name, mode, dir_fd=dir_fd)
        try:
            try:
                ops.chmod(fd, mode)
                ops.write(fd, data)
                if durable:
                    ops.fsync(fd)
            finally:
                os.close(fd)
            replace(ops, temporary, name, dir_fd=dir_fd)
        except OSError:
            _remove_quietly(ops, temporary, dir_fd)
            raise
        if durable:
            ops.fsync(dir_fd)
    finally:
        os.close(dir_fd)


def _remove_quietly(ops: FileOps, name: str, dir_fd: int) -> None:
    # Report the first failure; the sweep of the next start removes the file.
    try:
        ops.unlink(name, dir_fd=dir_fd)
    except OSError:
        return
