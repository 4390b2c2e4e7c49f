"""BLAKE2b of open files through a reused buffer, xxh3 of bytes, and the functions that open synchronised files for
reading: only regular files, without waiting for a FIFO, and never through a link out of the tree (wire.md 5.2, C10)."""

import errno
import os
import stat
from collections.abc import Callable
from hashlib import blake2b

from hashing.errors import FileVanished, UnsafePath

DIGEST_BYTES = 64
BUFFER_BYTES = 256 * 1024
"""Small enough to stay in a core's cache between read and hash, large enough that the read call itself costs
nothing. 1 MiB was measured slower."""

OPEN_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | os.O_NOFOLLOW
"""Flags with which a file of the tree is opened. O_NONBLOCK: a FIFO put in its place must not stop the scan."""

OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW


class Buffer:
    """A read buffer, made once and used for many files. `lists` is the argument of os.readv; `view` the same bytes."""

    __slots__ = ("lists", "size", "view")

    def __init__(self, size: int = BUFFER_BYTES) -> None:
        self.size = size
        self.view = memoryview(bytearray(size))
        self.lists = [self.view]


def read_digest(fd: int, buffer: Buffer, on_step: Callable[[], None] | None = None) -> tuple[bytes, int]:
    """BLAKE2b-512 (64 bytes) of the regular file from where `fd` stands to its end, and how many bytes that were.

    `on_step` is called after every full buffer, as a heartbeat while a large file is read. A short read ends a regular
    file, so a small file costs one read. OSError as it comes.
    """
    view, lists, size = buffer.view, buffer.lists, buffer.size
    read = os.readv(fd, lists)
    if read < size:
        return blake2b(view[:read]).digest(), read
    hasher = blake2b()
    total = 0
    while read == size:
        hasher.update(view)
        total += read
        if on_step is not None:
            on_step()
        read = os.readv(fd, lists)
    hasher.update(view[:read])
    return hasher.digest(), total + read


def digest_fd(fd: int, buffer: Buffer) -> bytes:
    """BLAKE2b-512 (64 bytes) of the regular file from where `fd` stands to its end. OSError as it comes."""
    return read_digest(fd, buffer)[0]


def open_regular(dir_fd: int | None, name: str) -> int:
    """Open a regular file for reading, relative to a directory; its last part may not be a link. The caller closes the
    fd.

    Raises FileVanished when it is not there, UnsafePath when it is a link or anything but a regular file, other OSError
    (no permission) as it comes.
    """
    try:
        fd = os.open(name, OPEN_FILE, dir_fd=dir_fd)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileVanished(name, "is not there") from error
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise UnsafePath(name, "is a link" if error.errno == errno.ELOOP else "is not a regular file") from error
        raise
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise UnsafePath(name, "is not a regular file")
    return fd


def open_directory(root_fd: int | None, path: str) -> int:
    """Open the directory `path` (relative to `root_fd`, parts separated by `/`, "" for itself) through no link.

    The caller closes the fd. Raises FileVanished when a part is missing, UnsafePath when a part is a link, `..` or not
    a directory, other OSError as it comes.
    """
    fd = os.open(".", OPEN_DIRECTORY, dir_fd=root_fd)
    for part in path.split("/"):
        if not part:
            continue
        try:
            if part == "..":
                raise UnsafePath(path, "leads upwards")
            below = os.open(part, OPEN_DIRECTORY, dir_fd=fd)
        except FileNotFoundError as error:
            raise FileVanished(path, "its directory is not there") from error
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                raise UnsafePath(path, f"{part} is a link or not a directory") from error
            raise
        finally:
            os.close(fd)
        fd = below
    return fd


def open_linked(root: str, item: str, path: str) -> int:
    """Open the regular file that the link `path` leads to, if it lies inside the directory of the same item.

    `root` absolute, `item` and `path` relative to it. A link to a file counts as a file (wire.md 5.1). A link out of
    its item would hand any file of the machine to the whole cluster. The target is resolved once and then opened
    without following anything, so a link changed in between cannot lead further. The caller closes the fd. Raises
    FileVanished (also: a link to nothing), UnsafePath, other OSError as it comes.
    """
    top = os.path.realpath(os.path.join(root, item))
    target = os.path.realpath(os.path.join(root, path))
    if not target.startswith(top + "/"):
        raise UnsafePath(path, "is a link that leads out of its directory")
    directory, _, name = target[len(top) + 1 :].rpartition("/")
    top_fd = os.open(top, OPEN_DIRECTORY)
    try:
        fd = open_directory(top_fd, directory)
    finally:
        os.close(top_fd)
    try:
        return open_regular(fd, name)
    finally:
        os.close(fd)


def open_in_tree(root: str, item: str, path: str) -> int:
    """Open file `path` of item `item` for reading, as the scan does: a regular file, or a link to one inside the item,
    and no link among its directories. The caller closes the fd. Raises FileVanished, UnsafePath, other OSError as it
    comes.
    """
    directory, _, name = path.rpartition("/")
    root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd = open_directory(root_fd, directory)
    finally:
        os.close(root_fd)
    try:
        if stat.S_ISLNK(_lstat_mode(fd, name)):
            return open_linked(root, item, path)
        return open_regular(fd, name)
    finally:
        os.close(fd)


def _lstat_mode(dir_fd: int, name: str) -> int:
    try:
        return os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_mode
    except FileNotFoundError as error:
        raise FileVanished(name, "is not there") from error
