"""Errors of the store, apart from SQLite's own."""

import sqlite3

from clusterd.errors import StartFailure


class StoreFailed(Exception):
    """The commit failed and nothing was written. The text says why (disk full, database locked)."""


class SocketTaken(Exception):
    """A live server holds one of the store's sockets. The text names it and says what to do."""


class OtherSchema(StartFailure):
    """The agent database is of another version of wazuh-db: good, and not for this store."""


class DatabaseMoved(Exception):
    """Another program has removed or replaced the file of the agent database while the store had it open."""


class NotLeading(sqlite3.OperationalError):
    """This master may not act now: nothing was written. To clients it is a failure of the database."""


class NotAnswered(ValueError):
    """The change is made, as far as that went, and nobody may be told so."""


class NotKept(StoreFailed):
    """The change is made and visible, but a power failure might undo it."""


class NotOnDisk(OSError):
    """A transaction was committed but could not be synced to disk."""
