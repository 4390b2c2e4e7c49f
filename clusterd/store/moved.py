"""What the store does when another program has removed or replaced the file of its agent database."""

import os
import sqlite3
import time
from contextlib import suppress
from pathlib import Path

from clusterd.store.engine import Engine
from clusterd.store.schema import DATABASE, MODE, locked
from hashing.atomic import sync_path


def rescue(root: str, engine: Engine) -> str:
    """Keeps all that the engine has, whose work has ended, and closes it: in the place of a file that was removed, or
    beside the one that is there now. Returns what has happened, for people. Raises OSError, sqlite3.Error: the engine
    is not closed, and this may be tried again."""
    path = Path(root) / DATABASE
    kept = Path(f"{path}.in-use-{time.strftime('%Y%m%d-%H%M%S')}")
    with locked(root):
        try:
            kept.touch(MODE)
            kept.chmod(MODE)
            engine.copy(str(kept))
            sync_path(kept)
        except BaseException:
            kept.unlink(missing_ok=True)
            raise
        engine.close()
        engine.file.remove_journal()
        if _takes_place(kept, path):
            return (
                f"Another program has removed the agent database {path} while this node used it. All of it is put "
                "back. To begin with an empty one, stop the node and run clusterd store renew."
            )
    return (
        f"Another program has replaced the agent database {path} while this node used it. The node goes on with what "
        f"is there now; what it had is kept in {kept}."
    )


def _takes_place(kept: Path, path: Path) -> bool:
    """Never over what another program has just put there. Returns whether nothing was there."""
    try:
        os.link(kept, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without links
        if path.exists():
            return False
        kept.rename(path)
        return True
    with suppress(OSError):  # the other name of the same file
        kept.unlink()
    return True


def is_lost(failure: Exception) -> bool:
    """Whether `rescue` has failed for good: what the engine has open is spoilt, too. A full disk, for example, may have
    room again."""
    code = getattr(failure, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)
