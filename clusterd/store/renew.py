"""Moves a damaged agent database aside; it is kept, never deleted."""

import os
import time
from pathlib import Path

from clusterd.errors import StartFailure
from clusterd.rundir import REAL_DAEMON, STORE_SOCKETS
from clusterd.store.schema import DATABASE, locked
from clusterd.wdb.stream import is_served

# Move the write-ahead log first: a new database must never meet the log of the old one.
_PARTS = ("-wal", "-shm", "")


def renew(root: str) -> list[str]:
    """Renames the database within its directory; returns the new paths, none if there was no database. A store that
    waits for a database creates an empty one within seconds. Raises OSError, and StartFailure while the database is in
    use or belongs to another program."""
    for name in STORE_SOCKETS:
        if is_served(f"{root}/{name}"):
            raise StartFailure(
                f"{name} is served: the agent database is in use, and was not touched; to renew it stop the node first"
            )
    if (Path(root) / REAL_DAEMON).exists():
        raise StartFailure(f"the agent database is that of the manager's {REAL_DAEMON} and was not touched")
    moved = []
    stamp = time.strftime("%Y%m%d-%H%M%S")
    with locked(root):
        for part in _PARTS:
            source = Path(root) / f"{DATABASE}{part}"
            target = f"{root}/{DATABASE}.damaged-{stamp}{part}"
            if source.exists() and not os.path.lexists(target):
                source.rename(target)
                moved.append(target)
    return moved[::-1]
