"""What an operator does about an agent database that cannot be used. Only a damaged one needs a backup or an empty one:
a lock or a full disk goes away, and whoever renews the database then has lost its agents for nothing.
"""

import errno
import sqlite3

from clusterd.errors import StartFailure
from clusterd.store.errors import OtherSchema

LOCKED = "another program has locked it"
"""`doctor` recognises the text by these words."""
_RENEW = "Put a backup in its place, or begin with an empty one: clusterd store renew (it keeps the old one)"
_ROOM = "Make room on its disk"
DISK = "Is its disk full, or does it fail? See df -h and dmesg"
_RIGHTS = "See the owner and the mode of the file and of its directory, and dmesg"
_BY_CODE = {
    sqlite3.SQLITE_BUSY: f"It is good, but {LOCKED}: lsof names it",
    sqlite3.SQLITE_LOCKED: f"It is good, but {LOCKED}: lsof names it",
    sqlite3.SQLITE_PROTOCOL: f"It is good, but {LOCKED}: lsof names it",
    sqlite3.SQLITE_FULL: _ROOM,
    sqlite3.SQLITE_READONLY: _RIGHTS,
    sqlite3.SQLITE_CANTOPEN: _RIGHTS,
    sqlite3.SQLITE_PERM: _RIGHTS,
    sqlite3.SQLITE_IOERR: DISK,
}


def advice(failure: BaseException) -> str:
    """Returns the words to put behind the failure, or "" where it says itself what to do."""
    cause = failure.__cause__ or failure
    if isinstance(cause, OSError):
        return _ROOM if cause.errno in (errno.ENOSPC, errno.EDQUOT) else _RIGHTS
    if isinstance(cause, sqlite3.Error):
        code = getattr(cause, "sqlite_errorcode", None)
        return "" if code is None else _BY_CODE.get(code & 0xFF, _RENEW)  # without a code it is not SQLite's own
    return _RENEW if isinstance(cause, StartFailure) and not isinstance(cause, OtherSchema) else ""
