"""Permissions to start a sync, granted by the master (wire.md 5.8). Knows only names and times."""

import msgspec


class Answer(msgspec.Struct, frozen=True):
    """`granted`, and whether that released a flag which had been held for too long."""

    granted: bool
    released: bool = False


class IntegrityPermissions:
    """Grants at most one permission per worker and local scan, and none while a check of that worker runs, for at most
    `max_locked_s`.

    A worker is `busy` from `begin` to `end`. Times are monotonic seconds.
    """

    def __init__(self, max_locked_s: float) -> None:
        self.max_locked_s = max_locked_s
        self._asked: set[str] = set()
        self._busy: dict[str, tuple[str, float]] = {}
        """The holder of each worker's flag, and since when."""

    def scan_ended(self) -> None:
        """Called when a local scan has ended, successful or not: every worker may ask again."""
        self._asked.clear()

    def ask(self, name: str, now: float) -> Answer:
        if name in self._asked:
            return Answer(False)
        self._asked.add(name)
        released = self.release_overdue(name, now)
        return Answer(name not in self._busy, released)

    def begin(self, name: str, holder: str, now: float) -> None:
        """Records that the check `holder` (its task id) of this worker begins; it replaces an earlier one."""
        self._busy[name] = holder, now

    def end(self, name: str, holder: str | None = None) -> None:
        """Records that the check has ended, or the worker's link. With `holder`: only if the flag is that check's, so
        that an old check does not release the flag of a newer one."""
        if name in self._busy and holder in (None, self._busy[name][0]):
            del self._busy[name]

    def is_free(self, name: str, now: float) -> bool:
        """Returns whether no check of this worker runs; an overdue one does not count."""
        return name not in self._busy or now - self._busy[name][1] > self.max_locked_s

    def release_overdue(self, name: str, now: float) -> bool:
        """Releases a flag that was held for too long. Returns whether there was one."""
        if name not in self._busy or not self.is_free(name, now):
            return False
        self.end(name)
        return True
