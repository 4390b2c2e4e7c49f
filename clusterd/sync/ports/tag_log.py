"""Log lines of sync's tasks: one TagLog per tag and subtag (wire.md 9.2), and the dict texts of collected notes."""

from collections.abc import Iterable

from clusterd.clock import Clock
from clusterd.logs import Log
from hashing.errors import Note

CHECK = "Integrity check"
SYNC = "Integrity sync"
GUARD = "Integrity guard"
"""Subtags of several modules. What stock does not log is under a subtag of ours."""
AGAIN_S = 600.0
"""How often a failure that lasts is logged again."""
LEVELS = ("DEBUG2", "DEBUG", "WARNING", "ERROR")


class TagLog:
    """Writes lines under one tag and subtag."""

    def __init__(self, log: Log, tag: str, subtag: str) -> None:
        self._log = log
        self.tag = tag
        self.subtag = subtag

    def debug2(self, text: str) -> None:
        self._log.line("DEBUG2", self.tag, self.subtag, text)

    def debug(self, text: str) -> None:
        self._log.line("DEBUG", self.tag, self.subtag, text)

    def info(self, text: str) -> None:
        self._log.line("INFO", self.tag, self.subtag, text)

    def warning(self, text: str) -> None:
        self._log.line("WARNING", self.tag, self.subtag, text)

    def error(self, text: str) -> None:
        self._log.line("ERROR", self.tag, self.subtag, text)

    def collected(self, notes: Iterable[Note], *, levels: Iterable[str] = LEVELS) -> None:
        """One line per level, a Python dict text of path to its messages, as stock writes them (wire.md 5.1, 5.6)."""
        notes = list(notes)
        for level in levels:
            found: dict[str, list[str]] = {}
            for note in notes:
                if note.level == level and note.text:
                    found.setdefault(note.path, []).append(note.text)
            if found:
                self._log.line(level, self.tag, self.subtag, str(found))


class Outage:
    """A failure that repeats: logged when it begins, from time to time while it lasts, and when it is over."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._told_at: float | None = None

    def should_tell(self) -> bool:
        """Returns whether this failure should be logged."""
        now = self._clock.monotonic()
        if self._told_at is not None and now - self._told_at < AGAIN_S:
            return False
        self._told_at = now
        return True

    def is_over(self) -> bool:
        """Called when it works. Returns True if an outage has been logged before."""
        told, self._told_at = self._told_at is not None, None
        return told
