"""Links in a synchronised tree: which are followed, and how without being led elsewhere.

A configured directory may itself be a link: whoever may make one beside `etc` decides where the files lie. Below it a
link is followed only where its target is below one of the directories that the operator has listed
(`clusterd.link_targets`), or for a file inside its own configured directory. In both cases every link on the way must
have been made by root, by this user, or by the owner of the root.

Nothing is given to the kernel as a whole path. A target is walked part by part from `/`; every part is opened without
following it, and where that shows a link it is this link, already open, that is judged and read. So one that is put in
its place meanwhile is either not seen or judged itself.
"""

import errno
import os
import stat
from collections import deque
from collections.abc import Iterable

from hashing.digest import OPEN_DIRECTORY, open_directory, open_in_tree, open_regular
from hashing.errors import FileVanished, LinkToNothing, UnsafePath
from hashing.rules import Rules

MOST_LINKS = 40
"""On the way to one file, as the kernel has it."""
OPEN_PLACE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
FOREIGN = "is a link that another user has made"
LOOP = "is a link to a directory that it is in"
OUTSIDE = "is a link that leads out of the directories of clusterd.link_targets"


class Links:
    """Opens what lies below `root`, through the links that may be followed. Only numbers of descriptors are kept by
    others."""

    def __init__(self, root: str, rules: Rules | None = None, trusted: Iterable[int] = ()) -> None:
        """Without `rules` no link is followed. `trusted`: users whose links are followed, besides root and this one."""
        self.root = os.path.realpath(root)
        self._items = frozenset(way for item in rules.items for way in _way(item.key)) if rules else frozenset[str]()
        self._targets = tuple(os.path.realpath(target) for target in rules.link_targets) if rules else ()
        self._trusted = {0, os.geteuid(), *trusted}

    @property
    def any_below(self) -> bool:
        """Whether links to directories are followed anywhere but in the place of a configured directory."""
        return bool(self._targets)

    def directory(self, root_fd: int, path: str) -> int:
        """Open the directory `path` (relative to the root, which is open as `root_fd`). The caller closes it. Raises
        FileVanished, LinkToNothing with the path of the link, UnsafePath (a link that is not followed, not a
        directory), other OSError as it comes."""
        try:
            return open_directory(root_fd, path)
        except UnsafePath:
            if not self._items:
                raise
        fd, _ = self._through(root_fd, path)
        return fd

    def may_enter(self, dir_fd: int, name: str) -> bool:
        """Whether it is worth asking for a directory of this name; `directory` decides."""
        try:
            mode = os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_mode
        except OSError:
            return False
        return stat.S_ISDIR(mode) or (self.any_below and stat.S_ISLNK(mode))

    def is_followed(self, root_fd: int, path: str, *, before: bool = False) -> bool:
        """Whether `path`, a link, leads to a directory that is synchronised. `before`: whether it did so, which
        holds while what it led to is away or cannot be opened."""
        try:
            os.close(self.directory(root_fd, path))
        except LinkToNothing:
            return before
        except (FileVanished, UnsafePath):
            return False
        except OSError:
            return before
        return True

    def real(self, root_fd: int, path: str) -> str:
        """Where the directory `path` lies, without a link in it. Raises as `directory`."""
        fd, real = self._through(root_fd, path)
        os.close(fd)
        return real

    def file(self, root_fd: int, item: str, path: str) -> int:
        """Open file `path` of item `item` for reading: a regular file, or a link to one that is followed. Raises as
        `directory`."""
        directory, _, name = path.rpartition("/")
        try:
            # What links always could: to a file of the same item, whoever made them.
            return open_in_tree(self.root, item, path)
        except UnsafePath as error:
            if not self._items:
                raise
            first = error
        fd, real = self._through(root_fd, directory)
        try:
            mode = os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode
            if not stat.S_ISLNK(mode):
                return open_regular(fd, name)
            top = self.real(root_fd, item.rstrip("/"))
            return self._linked_file(fd, real, name, path, (top, *self._targets), first)
        except FileNotFoundError as error:
            raise FileVanished(path, "is not there") from error
        finally:
            os.close(fd)

    # ---- the way -----------------------------------------------------------------------------------------------------

    def _through(self, root_fd: int, path: str) -> tuple[int, str]:
        """The directory, and where it lies."""
        self._trusted.add(os.fstat(root_fd).st_uid)
        fd, real, done = os.open(".", OPEN_DIRECTORY, dir_fd=root_fd), self.root, ""
        passed = [real]
        try:
            for part in path.split("/"):
                if not part:
                    continue
                if part == "..":
                    raise UnsafePath(path, "leads upwards")
                done = f"{done}/{part}" if done else part
                below, real = self._step(fd, real, part, done, passed)
                os.close(fd)
                fd = below
                passed.append(real)
        except BaseException:
            os.close(fd)
            raise
        return fd, real

    def _step(self, fd: int, real: str, part: str, done: str, passed: list[str]) -> tuple[int, str]:
        try:
            return os.open(part, OPEN_DIRECTORY, dir_fd=fd), f"{real.rstrip('/')}/{part}"
        except FileNotFoundError as error:
            raise FileVanished(done, "its directory is not there") from error
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENOTDIR):
                raise
        place, target = self._resolve(fd, real, part, done)
        try:
            if not stat.S_ISDIR(os.fstat(place).st_mode):
                raise UnsafePath(done, "is not a directory")
            if done not in self._items:
                if not any(_is_below(target, allowed) for allowed in self._targets):
                    raise UnsafePath(done, OUTSIDE)
                if any(_is_below(one, target) for one in passed):
                    raise UnsafePath(done, LOOP)
            elif _is_below(self.root, target):
                raise UnsafePath(done, LOOP)
            return os.open(".", OPEN_DIRECTORY, dir_fd=place), target
        finally:
            os.close(place)

    def _linked_file(self, fd: int, real: str, name: str, path: str, tops: tuple[str, ...], first: UnsafePath) -> int:
        place, target = self._resolve(fd, real, name, path)
        try:
            if not any(_is_below(target, top) for top in tops):
                raise UnsafePath(path, first.text if not self._targets else OUTSIDE)
            if not stat.S_ISREG(os.fstat(place).st_mode):
                raise UnsafePath(path, "is not a regular file")
            # The way there once more, strictly: a place that was opened without reading cannot be read.
            above_fd = _strictly(os.path.dirname(target))
            try:
                found = open_regular(above_fd, os.path.basename(target))
            finally:
                os.close(above_fd)
            if _identity(found) != _identity(place):
                os.close(found)
                raise UnsafePath(path, "is a link whose target is being replaced")
            return found
        finally:
            os.close(place)

    def _resolve(self, fd: int, real: str, name: str, path: str) -> tuple[int, str]:
        """What `name` in the directory `real`, open as `fd`, leads to in the end: opened as a place only, and where
        it lies."""
        at, where, links = os.dup(fd), real, 0
        waiting = deque([name])
        try:
            while waiting:
                part = waiting.popleft()
                place = os.open(part, OPEN_PLACE, dir_fd=at)
                status = os.fstat(place)
                if not stat.S_ISLNK(status.st_mode):
                    os.close(at)
                    at, where = place, _joined(where, part)
                    if waiting and not stat.S_ISDIR(status.st_mode):
                        raise UnsafePath(path, "is a link to nothing")
                    continue
                try:
                    links += 1
                    if links > MOST_LINKS:
                        raise UnsafePath(path, "is one of too many links in a row")
                    if status.st_uid not in self._trusted:
                        raise UnsafePath(path, FOREIGN)
                    target = os.readlink("", dir_fd=place)
                finally:
                    os.close(place)
                waiting.extendleft(reversed([part for part in target.split("/") if part not in ("", ".")]))
                if target.startswith("/"):
                    os.close(at)
                    at, where = os.open("/", OPEN_PLACE), "/"
        except (FileNotFoundError, NotADirectoryError) as error:
            os.close(at)
            if path in self._items:
                raise UnsafePath(
                    path, "is a link to nothing"
                ) from error  # a disk that is not mounted: not an empty directory
            raise LinkToNothing(path, "is a link to nothing") from error
        except BaseException:
            os.close(at)
            raise
        return at, where


def _strictly(real: str) -> int:
    top = os.open("/", OPEN_DIRECTORY)
    try:
        return open_directory(top, real)
    finally:
        os.close(top)


def _joined(where: str, part: str) -> str:
    """`where` has no link in it, so `..` is the directory above it."""
    if part == "..":
        return os.path.dirname(where) or "/"
    return f"{where.rstrip('/')}/{part}"


def _is_below(path: str, top: str) -> bool:
    return path == top or path.startswith(top.rstrip("/") + "/")


def _way(key: str) -> list[str]:
    """The directory of an item and those on the way there."""
    parts = key.rstrip("/").split("/")
    return ["/".join(parts[: count + 1]) for count in range(len(parts))]


def _identity(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino
