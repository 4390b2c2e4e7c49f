"""Moving a damaged agent database out of the way: kept beside, never removed."""

import os
import time
from pathlib import Path

from clusterd.errors import StartFailure
from clusterd.rundir import STORE_SOCKETS
from clusterd.store.choice import REAL_DAEMON
from clusterd.store.schema import DATABASE, locked
from clusterd.wdb.stream import is_served

# The log first: a new database must never meet the log of an old one.
_PARTS = ("-wal", "-shm", "")


def renew(root: str) -> list[str]:
    """Move the database beside itself; returns the new paths, none when there was no database. A store that waits for one makes an
    empty one within seconds. Raises StartFailure while the database is in use or is another program's, OSError."""
    for name in STORE_SOCKETS:
        if is_served(f"{root}/{name}"):
            raise StartFailure(f"{name} is served: the agent database is in use and was not touched")
    if (Path(root) / REAL_DAEMON).exists():
        raise StartFailure(f"the agent database is that of {REAL_DAEMON} and was not touched")
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
