"""Where received bytes and packages in the making wait: `queue/cluster/.clusterd/spool`, read by nobody else."""

import contextlib
import os
from pathlib import Path

SPOOL = "queue/cluster/.clusterd/spool"
STATE = "queue/cluster/.clusterd/state"


class Spool:
    """Hands out file names that never repeat. A spool file belongs to who asked for its name, until `remove`."""

    def __init__(self, root: str, incarnation: int) -> None:
        self.directory = str(Path(root) / SPOOL)
        self.state_dir = str(Path(root) / STATE)
        self._prefix = f"{incarnation}-"
        self._count = 0

    def prepare(self) -> None:
        """Make the directories and remove what an earlier sync process left. Called once, at start."""
        for directory in (self.directory, self.state_dir):
            os.makedirs(directory, mode=0o770, exist_ok=True)
        for entry in os.scandir(self.directory):
            if not entry.name.startswith(self._prefix):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(entry.path)

    def new_path(self, kind: str) -> str:
        self._count += 1
        return f"{self.directory}/{self._prefix}{self._count}-{kind}"

    def remove(self, *paths: str) -> None:
        """Remove files that may or may not have been made yet."""
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
