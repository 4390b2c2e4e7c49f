"""Faults of file operations, for the tests of the store."""

import errno


def disk_full(number: int, name: str) -> OSError | None:
    return OSError(errno.ENOSPC, "No space left on device") if name == "write" else None
