"""Groups as directories of `etc/shared` (dapi.md 5.3, the end): lists, creates and removes them.

Functions pass on HashingError (FileVanished, UnsafePath) and OSError, except where they say otherwise.
"""

import contextlib
import hashlib
import os
import re
import shutil
import stat

from clusterd.dapi.files.tree_files import MOST_NAMES, TooManyFiles, mode_of, opened_directory, read_text, write_file
from clusterd.names import is_group_name
from hashing.atomic import FileOps
from hashing.digest import open_regular
from hashing.errors import FileVanished, HashingError

SHARED = "etc/shared"
MULTIGROUPS = "var/multigroups"
MERGED = "merged.mg"
DEFAULT = "default"
TEMPLATE = "agent-template.conf"
CONFIGURATION = "agent.conf"
EMPTY_CONFIGURATION = "<agent_config>\n</agent_config>\n"
"""The content of a new group's agent.conf where there is no template."""
LARGEST_TEMPLATE = 1024 * 1024
DIRECTORY_MODE = 0o700
_PIECE = 256 * 1024
_HASH = re.compile(r"[0-9a-f]{8}")


def may_be_group(name: str) -> bool:
    """Tells whether the name may be a group's: letters, digits, `.`, `_`, `-`, 255 at most; not `.`, `..` or `all`."""
    return is_group_name(name) and name != "all"


def directory_of(group: str) -> str:
    return f"{SHARED}/{group}"


def group_names(root: str) -> list[str]:
    """Returns them sorted. Raises TooManyFiles."""
    names = []
    with opened_directory(root, SHARED) as fd, os.scandir(fd) as entries:
        for seen, entry in enumerate(entries):
            if seen >= MOST_NAMES:
                raise TooManyFiles(SHARED, f"holds more than {MOST_NAMES} files")
            if may_be_group(entry.name) and entry.is_dir(follow_symlinks=False):
                names.append(entry.name)
    return sorted(names)


def group_exists(root: str, name: str) -> bool:
    """Tells whether the group's directory exists. A link is not a group."""
    if not may_be_group(name):
        return False
    try:
        mode = mode_of(root, SHARED, name)
    except FileVanished:
        return False
    return mode is not None and stat.S_ISDIR(mode)


def make_group(ops: FileOps, root: str, name: str) -> None:
    """Creates the directory, mode 0700, and its agent.conf from the template. Raises FileExistsError if anything of
    that name exists."""
    try:
        content = read_text(root, SHARED, TEMPLATE, LARGEST_TEMPLATE)
    except FileVanished:
        content = EMPTY_CONFIGURATION
    with opened_directory(root, SHARED) as fd:
        ops.mkdir(name, DIRECTORY_MODE, dir_fd=fd)
        try:
            _give_like_parent(ops, fd, name)
            write_file(ops, root, directory_of(name), CONFIGURATION, content.encode())
            ops.fsync(fd)
        except BaseException:
            # The first failure is the one to report. An empty group that stays behind can be deleted.
            with contextlib.suppress(OSError):
                shutil.rmtree(name, dir_fd=fd)
            raise


def remove_group(root: str, name: str) -> None:
    """Removes the directory with everything in it; follows no link. Raises FileVanished when it is not a group."""
    if not group_exists(root, name):
        raise FileVanished(directory_of(name), "is no group")
    with opened_directory(root, SHARED) as fd:
        shutil.rmtree(name, dir_fd=fd)


def merged_directory(names: str, group_hash: str) -> str:
    """Returns the directory of an agent's merged file: that of its only group, or of that combination of groups.
    `names`: joined by commas, with their hash, both from the database. "" for no group, and for an impossible name."""
    if "," in names:
        return f"{MULTIGROUPS}/{group_hash}" if _HASH.fullmatch(group_hash) else ""
    return directory_of(names) if may_be_group(names) else ""


def merged_sum(root: str, directory: str) -> str | None:
    """Returns the MD5 of the directory's merged file, None if there is no readable one."""
    try:
        return hash_of(root, directory, MERGED, "md5") if directory else None
    except (HashingError, OSError):
        return None


def hash_of(root: str, directory: str, name: str, algorithm: str) -> str | None:
    """Returns the file's digest in hexadecimal digits, None if it is missing or not a regular file."""
    with opened_directory(root, directory) as directory_fd:
        try:
            mode = os.stat(name, dir_fd=directory_fd, follow_symlinks=False).st_mode
            if not stat.S_ISREG(mode):
                return None
            fd = open_regular(directory_fd, name)
        except (FileNotFoundError, FileVanished):
            return None
    hasher = hashlib.new(algorithm, usedforsecurity=False)
    with open(fd, "rb", buffering=0) as file:
        while piece := file.read(_PIECE):
            hasher.update(piece)
    return hasher.hexdigest()


def _give_like_parent(ops: FileOps, shared_fd: int, name: str) -> None:
    """Sets owner and group of `etc/shared` on the new directory, as far as this process may."""
    like = os.fstat(shared_fd)
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=shared_fd)
    try:
        ops.chmod(fd, DIRECTORY_MODE)
        if os.geteuid() == 0:
            ops.chown(fd, like.st_uid, like.st_gid)
    finally:
        os.close(fd)
