"""What a walk over a tree has to tell beside the rows: what could not be read, what no event may tell of, and notes for
people."""

import os

from hashing.notes import Notes


class Findings:
    """`unread`: paths whose rows stay as they were, of directories with a trailing slash. `again`: see ShardScan.
    `noted` counts what was noted, so that whoever compares it knows whether something was."""

    def __init__(self, root: str) -> None:
        self._root = root
        self.unread: list[str] = []
        self.again: list[str] = []
        self.notes = Notes()
        self.noted = 0

    def note(self, level: str, path: str, text: str, why: str = "") -> None:
        self.noted += 1
        self.notes.add(level, path, text, why)

    def explain(self, error: OSError, path: str) -> str:
        """The system's reason with the full path, as Python words it for a stock node."""
        return str(OSError(error.errno, error.strerror, os.path.join(self._root, path)))


def bare_reason(error: OSError) -> str:
    """The reason without the path, for status."""
    return error.strerror or str(error)
