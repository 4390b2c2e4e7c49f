"""Puts a `merged.mg` into empty groups. Only files travel, so a group whose directory on the master holds no
synchronised file would reach no worker, and handing it out there would fail. Where remoted runs it writes a `merged.mg`
into every group; where our store serves a master, this module writes the file that remoted would write for a group
without files, and removes it when other files arrive.
"""

import os
import time
from collections.abc import Iterable

from hashing.atomic import FileOps, create_temporary
from hashing.directories import Directories
from hashing.errors import FileVanished, HashingError
from hashing.rules import Rules, item_of

SHARED = "etc/shared"
NAME = "merged.mg"
MODE = 0o660
SURE_S = 2.0
"""How long a directory must have been empty before it gets the file: it may be about to be removed or filled."""
DEEPEST = 32


class EmptyGroups:
    """Owns the `merged.mg` files that it made and recognises them by their content. Blocking: call it in a thread."""

    def __init__(self, root: str, ops: FileOps | None = None) -> None:
        self._root = root
        self._ops = ops or FileOps()
        self._empty_since: dict[str, float] = {}
        self._filled: dict[str, int] = {}
        """Groups that have files of their own, with the mtime of their directory: listed again only when that
        changes."""

    def look(self, groups: Iterable[str], rules: Rules) -> list[str]:
        """Checks the directories of these groups. Returns what failed, as sentences without a full stop."""
        problems: list[str] = []
        names = set(groups)
        self._empty_since = {name: at for name, at in self._empty_since.items() if name in names}
        self._filled = {name: at for name, at in self._filled.items() if name in names}
        with Directories(self._root, capacity=DEEPEST + 4, rules=rules) as directories:
            for name in sorted(names):
                try:
                    self._care(directories, name, rules)
                except (HashingError, OSError) as failure:
                    reason = getattr(failure, "strerror", None) or getattr(failure, "text", None) or failure
                    problems.append(
                        f"The empty group {name} cannot be carried to the workers: {SHARED}/{name}: {reason}"
                    )
        return problems

    def _care(self, directories: Directories, name: str, rules: Rules) -> None:
        path, now = f"{SHARED}/{name}", time.monotonic()
        if item_of(rules, f"{path}/{NAME}") is None:
            return
        try:
            fd = directories.get(path)
            changed_at = os.fstat(fd).st_mtime_ns
            if self._filled.get(name) == changed_at:
                return
            has_direct, has_any = self._files(directories, path, rules)
            is_ours = has_any and _content(fd, len(content_of(name)) + 1) == content_of(name)
            if is_ours:
                others, below = self._files(directories, path, rules, besides=NAME)
                if others or below:
                    self._ops.unlink(NAME, dir_fd=fd)
            elif has_any:
                self._empty_since.pop(name, None)
                if has_direct:
                    self._filled[name] = changed_at
            elif now - self._empty_since.setdefault(name, now) >= SURE_S:
                self._make(fd, content_of(name))
                del self._empty_since[name]  # whoever removes the file, perhaps with its group, has as long again
        except (FileNotFoundError, FileExistsError, FileVanished):
            return  # removed since it was listed, or filled

    def _files(self, directories: Directories, path: str, rules: Rules, besides: str = "") -> tuple[bool, bool]:
        """Two answers: whether a synchronised file other than `besides` lies directly in the directory, and whether one
        lies anywhere below it."""
        below: list[str] = []
        with os.scandir(directories.get(path)) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    below.append(entry.name)
                elif entry.name != besides and item_of(rules, f"{path}/{entry.name}") is not None:
                    return True, True
        if path.count("/") >= DEEPEST:
            return False, bool(below)
        return False, any(self._files(directories, f"{path}/{name}", rules)[1] for name in below)

    def _make(self, dir_fd: int, data: bytes) -> None:
        fd, temporary = create_temporary(self._ops, NAME, MODE, dir_fd=dir_fd)
        try:
            try:
                above = os.fstat(dir_fd)
                if os.geteuid() == 0:
                    self._ops.chown(fd, above.st_uid, above.st_gid)
                self._ops.chmod(fd, MODE)
                self._ops.write(fd, data)
            finally:
                os.close(fd)
            os.link(temporary, NAME, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)  # never over a file that has just come
        finally:
            self._ops.unlink(temporary, dir_fd=dir_fd)


def content_of(group: str) -> bytes:
    """The content that remoted writes for a group without files: the group's name and no entry."""
    return f"#{group}\n".encode()


def _content(dir_fd: int, most: int) -> bytes:
    try:
        fd = os.open(NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=dir_fd)
    except OSError:
        return b""
    try:
        return os.read(fd, most)
    finally:
        os.close(fd)
