"""A SQLite database that another program removes or replaces while this process has it open (`rm`; `mv` of a backup).
SQLite goes on in the file that has no name any more, so what it writes is lost with the process; and the journal that
lies beside the new file is that of the old one: whoever opens the new file first mixes the two."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Literal

Moved = Literal["", "removed", "replaced"]
Inode = tuple[int, int]


class OpenDatabase:
    """Remembers which files they were. Made when the database has just been opened; `look` is asked often, while it is
    in use."""

    def __init__(self, path: str) -> None:
        """Raises OSError."""
        self._path = path
        self._file = _inode(path)
        self._journal = _inode(f"{path}-wal")

    def look(self) -> Moved:
        """What has become of the file of this path; nothing, as far as is known, where the disk does not say."""
        try:
            found = _inode(self._path)
            if found == self._file:
                self._journal = _inode(f"{self._path}-wal") or self._journal
                return ""
        except OSError:
            return ""
        return "removed" if found is None else "replaced"

    def remove_journal(self) -> None:
        """After the database is closed: what lies beside the path and belongs to the old file goes. A journal that came
        with the new file stays. Raises OSError."""
        if _inode(f"{self._path}-wal") == self._journal is not None:
            for ending in ("-wal", "-shm"):
                Path(f"{self._path}{ending}").unlink(missing_ok=True)


def _inode(path: str) -> Inode | None:
    with suppress(FileNotFoundError):
        found = os.stat(path)
        return found.st_dev, found.st_ino
    return None
