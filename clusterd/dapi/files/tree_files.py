"""Reads, writes and removes small files of the installation for requests (dapi.md 5.6, 8). Files lie below one
directory of the root; sizes and numbers are bounded; no link is followed, except one that the operator put in the place
of a synchronised directory.

Directories are relative to the root, with `/` and without a slash at the end. All functions pass on FileVanished
(something is not there), UnsafePath (a link, `..`, no regular file) and OSError.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

from clusterd.names import is_utf8
from clusterd.settings import DEFAULT_RULES
from hashing.atomic import FileOps, create_temporary
from hashing.digest import open_directory, open_regular
from hashing.errors import FileVanished, HashingError, UnsafePath
from hashing.in_place import replace
from hashing.links import Links
from hashing.locks import lock

MOST_NAMES = 20_000
"""Most files and directories of one listing."""
DEEPEST = 8
"""Most levels of directories below the first one of a listing."""
MODE = 0o660
_LOCK_S = 5.0


class FileTooLarge(HashingError):
    """The file is larger than a request may read."""


class TooManyFiles(HashingError):
    """The directory holds more than a listing may contain."""


@contextmanager
def opened_directory(root: str, directory: str) -> Iterator[int]:
    """Yields a descriptor of the directory, open while the block runs."""
    root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fd = open_directory(root_fd, directory)
        except UnsafePath:
            # A synchronised directory may be a link that the operator made (hashing/links.py).
            fd = Links(root, DEFAULT_RULES).directory(root_fd, directory)
    finally:
        os.close(root_fd)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def locked_directory(root: str, directory: str) -> Iterator[None]:
    """Keeps other processes that call this function out of the directory while the block runs: two processes that check
    for a file and then write it must not overlap. Raises TimeoutError after 5 s of waiting."""
    with opened_directory(root, directory) as fd:
        try:
            lock(fd, _LOCK_S)
        except TimeoutError:
            raise TimeoutError(f"{directory} is being changed by another request") from None
        yield


def list_files(root: str, directory: str, *, depth: int = 0) -> list[tuple[str, str]]:
    """Returns (directory, name) of the regular files in the directory and `depth` levels below it, sorted. Leaves out
    names that begin with a dot and names that are not text. Raises TooManyFiles."""
    found: list[tuple[str, str]] = []
    waiting = [(directory, depth)]
    seen = 0
    while waiting:
        place, levels = waiting.pop()
        try:
            entries = _entries(root, place)
        except FileVanished:
            if place == directory:
                raise
            continue  # removed since its name was read
        seen += len(entries)
        if seen > MOST_NAMES:
            raise TooManyFiles(directory, f"holds more than {MOST_NAMES} files")
        for name, mode in entries:
            if name.startswith(".") or not is_utf8(name):
                continue
            if stat.S_ISREG(mode):
                found.append((place, name))
            elif levels and stat.S_ISDIR(mode):
                waiting.append((f"{place}/{name}", levels - 1))
    return sorted(found)


def _entries(root: str, directory: str) -> list[tuple[str, int]]:
    """Returns names with their type, links as links; not many more than MOST_NAMES."""
    found = []
    with opened_directory(root, directory) as fd, os.scandir(fd) as entries:
        for entry in islice(entries, MOST_NAMES + 1):
            if entry.is_file(follow_symlinks=False):
                found.append((entry.name, stat.S_IFREG))
            elif entry.is_dir(follow_symlinks=False):
                found.append((entry.name, stat.S_IFDIR))
            else:
                found.append((entry.name, 0))
    return found


def mode_of(root: str, directory: str, name: str) -> int | None:
    """Returns type and permissions of the file of this name, of a link itself; None if there is none."""
    with opened_directory(root, directory) as fd:
        try:
            return os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode
        except FileNotFoundError:
            return None


def read_text(root: str, directory: str, name: str, largest: int) -> str:
    """Returns the file's content; bytes that are not UTF-8 become U+FFFD. Raises FileTooLarge above `largest` bytes."""
    with opened_directory(root, directory) as directory_fd:
        fd = open_regular(directory_fd, name)
    with open(fd, "rb") as file:
        data = file.read(largest + 1)
    if len(data) > largest:
        raise FileTooLarge(f"{directory}/{name}", f"is larger than {largest} bytes")
    return data.decode(errors="replace")


def write_file(ops: FileOps, root: str, directory: str, name: str, data: bytes) -> None:
    """Creates or replaces the file, mode 0660. Writes the new content beside it and renames it over the old file, so a
    failure before that leaves the old file unchanged. A new file gets the group of its directory, if this process may
    set it; an existing one keeps owner and group."""
    with opened_directory(root, directory) as directory_fd:
        like = _stat(directory_fd, name)
        owner = like.st_uid if like is not None else -1
        group = (like or os.fstat(directory_fd)).st_gid
        fd, temporary = create_temporary(ops, name, MODE, dir_fd=directory_fd)
        try:
            try:
                _give(ops, fd, owner, group)
                ops.chmod(fd, MODE)
                ops.write(fd, data)
                ops.fsync(fd)
            finally:
                os.close(fd)
            replace(ops, temporary, name, dir_fd=directory_fd)
        except BaseException as failure:
            try:
                ops.unlink(temporary, dir_fd=directory_fd)
            except OSError as second:
                # The next attempt or the next start removes it. The first failure is the one to report.
                failure.add_note(f"{temporary} stays behind: {second}")
            raise
        ops.fsync(directory_fd)


def remove_file(ops: FileOps, root: str, directory: str, name: str) -> None:
    """Removes the regular file, or the link, of this name. Raises FileVanished when there is none."""
    with opened_directory(root, directory) as fd:
        try:
            ops.unlink(name, dir_fd=fd)
        except FileNotFoundError as error:
            raise FileVanished(f"{directory}/{name}", "is not there") from error
        ops.fsync(fd)


def _stat(directory_fd: int, name: str) -> os.stat_result | None:
    """Returns the status of the regular file of this name, None if there is none."""
    try:
        found = os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return found if stat.S_ISREG(found.st_mode) else None


def _give(ops: FileOps, fd: int, owner: int, group: int) -> None:
    # Only root can change the owner. A member of the group may set the group; any other user's file stays unchanged.
    for uid in dict.fromkeys((owner, -1)):
        try:
            ops.chown(fd, uid, group)
        except PermissionError:
            continue
        return
