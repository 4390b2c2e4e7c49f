"""What can go wrong in the store, apart from SQLite's own errors."""


class StoreFailed(Exception):
    """What was written could not be committed: nothing of it happened. The text says why (disk full, database locked)."""


class SocketTaken(Exception):
    """A live server holds one of the store's sockets. The text names it and says what to do."""


class NotKept(StoreFailed):
    """It has happened, and everybody sees it, but it might not survive a power cut."""


class NotOnDisk(OSError):
    """A transaction was committed and could not be synced."""
