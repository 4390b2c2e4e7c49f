"""Collects notes for people, bounded: 20,000 failures on a full disk must not become a message of megabytes."""

from hashing.errors import HashingError, Note

MAX_NOTES = 200


class Notes:
    """Keeps the first MAX_NOTES of each level and counts the others."""

    def __init__(self) -> None:
        self._kept: list[Note] = []
        self._counts: dict[str, int] = {}

    def add(self, level: str, path: str, text: str, why: str = "") -> None:
        count = self._counts.get(level, 0)
        self._counts[level] = count + 1
        if count < MAX_NOTES:
            self._kept.append(Note(level, path, text, why))

    def all(self) -> list[Note]:
        """The notes kept and, per level that had more (but DEBUG2, which is only a trace), one that says how many
        more."""
        more = [
            Note(level, "...", f"and {count - MAX_NOTES} more files")
            for level, count in self._counts.items()
            if count > MAX_NOTES and level != "DEBUG2"
        ]
        return self._kept + more


def explain(error: Exception) -> str:
    """The reason of an error, for a sentence that already names the path."""
    if isinstance(error, HashingError):
        return error.text
    if isinstance(error, OSError) and error.strerror:
        return f"[Errno {error.errno}] {error.strerror}"
    return str(error)
