"""Listening unix sockets that outlive the processes that serve them: while a node changes its role, whoever connects
waits in the queue of such a socket for the next process, instead of being refused (docs/ha.md).

The supervisor makes them and keeps them until it ends; its children have them by fork.
"""

import contextlib
import os
import socket
from collections.abc import Iterable

UMASK = 0o117
BACKLOG = 512


class _Door:
    """A listening socket and the file that leads to it."""

    def __init__(self, path: str) -> None:
        """Takes the place of whatever socket is at `path`. Raises OSError."""
        self.path = path
        new = f"{path}.next"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(new)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            before = os.umask(UMASK)
            try:
                self.socket.bind(new)
            finally:
                os.umask(before)
            self.socket.listen(BACKLOG)
            self.inode = os.stat(new).st_ino
            os.rename(new, path)
        except OSError:
            self.socket.close()
            with contextlib.suppress(OSError):
                os.unlink(new)
            raise

    @property
    def is_in_place(self) -> bool:
        try:
            return os.stat(self.path).st_ino == self.inode
        except OSError:
            return False


class Doors:
    """Owner of the sockets, in the supervisor. A copy in each child is what that child was born with."""

    def __init__(self) -> None:
        self._doors: dict[str, _Door] = {}

    def keep(self, paths: Iterable[str]) -> None:
        """Where a socket of this node is in one of these places a new one takes it, which the processes that are about
        to end do not have: who connects from now on is served by the next ones. Where that fails, whoever connects
        while the processes change is refused."""
        for path in paths:
            before = self._doors.pop(path, None)
            is_ours = os.path.exists(path) if before is None else before.is_in_place
            if before is not None:
                before.socket.close()
            if is_ours:
                with contextlib.suppress(OSError):
                    self._doors[path] = _Door(path)

    def inherited(self, path: str) -> socket.socket | None:
        """In a child: the socket that listens there already. The child does not remove its file."""
        door = self._doors.get(path)
        return door.socket if door is not None and door.is_in_place else None

    def descriptors(self, *but: str) -> tuple[int, ...]:
        """All, but those of these paths."""
        return tuple(door.socket.fileno() for path, door in self._doors.items() if path not in but)

    def close(self) -> None:
        """Nobody is let in any more."""
        for door in self._doors.values():
            if door.is_in_place:
                with contextlib.suppress(OSError):
                    os.unlink(door.path)
            door.socket.close()
        self._doors.clear()


doors = Doors()
"""Those of this node."""
