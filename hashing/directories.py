"""Open directories of one tree, reached through no link but those that may be followed (links.py), kept open while they
are needed.

All access to synchronised files goes through these: a path is never given to the kernel whole, so that nothing put in
the place of a directory in between can lead out of the tree.
"""

import os
from collections import OrderedDict
from types import TracebackType
from typing import Self

from hashing.atomic import FileOps
from hashing.digest import OPEN_DIRECTORY
from hashing.errors import FileVanished
from hashing.links import Links
from hashing.rules import Rules

NEW_MODE = 0o770
"""Mode of directories that are made (wire.md 5.9)."""


class Directories:
    """Directory descriptors below `root`, by path relative to it, at most `capacity` of them. Use as a context manager.

    A descriptor stays the directory it was when that is renamed or replaced. It belongs to this object and is valid
    until `capacity - 1` other paths were asked for, or `forget`.
    """

    def __init__(
        self,
        root: str,
        ops: FileOps | None = None,
        *,
        owner: tuple[int, int] | None = None,
        capacity: int = 64,
        rules: Rules | None = None,
    ) -> None:
        """`rules`: those whose links are followed; without, none is."""
        self._ops = ops if ops is not None else FileOps()
        self._owner = owner
        self._capacity = capacity
        self._open: OrderedDict[str, int] = OrderedDict()
        self.links = Links(root, rules)
        # The root is the operator's own word: links on the way to it are fine.
        self.root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()
        os.close(self.root_fd)

    def get(self, path: str) -> int:
        """The directory `path` ("" for the root). Raises FileVanished, UnsafePath (a link, not a directory),
        OSError."""
        fd = self._open.get(path)
        if fd is not None:
            self._open.move_to_end(path)
            return fd
        return self._keep(path, self.links.directory(self.root_fd, path))

    def make(self, path: str) -> int:
        """The same, made if missing with its parents, mode 0770, owner as given. Raises UnsafePath, OSError."""
        missing: list[str] = []
        while True:
            try:
                fd = self.get(path)
                break
            except FileVanished:
                if not path:
                    raise
                missing.append(path)
                path = path.rpartition("/")[0]
        for below in reversed(missing):
            fd = self._make(below, fd)
        return fd

    def _make(self, path: str, above_fd: int) -> int:
        name = path.rpartition("/")[2]
        try:
            self._ops.mkdir(name, NEW_MODE, dir_fd=above_fd)
        except FileExistsError:
            # Another process made it, or there is something else: opening tells.
            return self.get(path)
        fd = os.open(name, OPEN_DIRECTORY, dir_fd=above_fd)
        try:
            if self._owner is not None:
                self._ops.chown(fd, *self._owner)
            self._ops.chmod(fd, NEW_MODE)
        except BaseException:
            os.close(fd)
            raise
        return self._keep(path, fd)

    def forget(self, path: str) -> None:
        """Close the descriptor of a directory that was removed."""
        fd = self._open.pop(path, None)
        if fd is not None:
            os.close(fd)

    def _keep(self, path: str, fd: int) -> int:
        if len(self._open) >= self._capacity:
            os.close(self._open.popitem(last=False)[1])
        self._open[path] = fd
        return fd
