"""Keeps the run directory of a living node. If another program removes it, sync can never be replaced again (there is
no place for its sockets), and no command sees the board.

Every file has a second name in a hidden directory beside it. From there it gets its place back: board and sockets are
the same ones, and nobody who has them open notices anything.
"""

import contextlib
import errno
import os

from clusterd.rundir import board_path, run_dir

KEPT = ".clusterd-kept"


class RunFiles:
    def __init__(self, root: str) -> None:
        self._directory = run_dir(root)
        self._board = os.path.basename(board_path(root))
        self._kept = kept_dir(root)
        self._seen: dict[str, int] = {}
        """Names and inodes at the last look. What changes just now may be about to be removed, one file after the
        other: only what two looks have found is believed."""
        self._linked: dict[str, int] = {}

    def look(self) -> bool:
        """Returns whether files had to be put back. Raises OSError where they are gone for good."""
        found = _files(self._directory)
        if self._board not in found:
            self._put_back(found)
            return True
        if found not in (self._seen, self._linked):
            self._seen = found
        elif found != self._linked:
            self._link(found)
        return False

    def _put_back(self, found: dict[str, int]) -> None:
        os.makedirs(self._directory, 0o700, exist_ok=True)
        for name in self._linked.keys() - found.keys():
            with contextlib.suppress(FileNotFoundError, FileExistsError):
                os.link(f"{self._kept}/{name}", f"{self._directory}/{name}")
        if not os.path.lexists(f"{self._directory}/{self._board}"):
            why = "another program has removed what the node's processes find each other by: clusterd restart"
            raise OSError(errno.ENOENT, why, self._directory)

    def _link(self, found: dict[str, int]) -> None:
        """Gives each file its second name; a file system without hard links has none."""
        with contextlib.suppress(OSError):
            os.makedirs(self._kept, 0o700, exist_ok=True)
        for name in self._linked.keys() | found.keys():
            if self._linked.get(name) == found.get(name):
                continue
            with contextlib.suppress(OSError):
                os.unlink(f"{self._kept}/{name}")
            if name in found:
                with contextlib.suppress(OSError):
                    os.link(f"{self._directory}/{name}", f"{self._kept}/{name}", follow_symlinks=False)
        self._linked = found


def kept_dir(root: str) -> str:
    return f"{os.path.dirname(run_dir(root))}/{KEPT}"


def _files(directory: str) -> dict[str, int]:
    try:
        with os.scandir(directory) as entries:
            return {entry.name: entry.inode() for entry in entries if not entry.is_dir(follow_symlinks=False)}
    except FileNotFoundError:
        return {}
