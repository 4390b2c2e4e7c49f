"""Leave to start a sync, given by the master (wire.md 5.8). Knows names and times only."""

import msgspec


class Answer(msgspec.Struct, frozen=True):
    """`granted`, and whether a flag held for too long was released to grant it."""

    granted: bool
    released: bool = False


class IntegrityPermissions:
    """At most one leave per worker and local scan; none while a check of that worker runs, for at most `max_locked_s`.

    A worker is `busy` from `begin` to `end`. Times are monotonic seconds.
    """

    def __init__(self, max_locked_s: float) -> None:
        self._max_locked_s = max_locked_s
        self._asked: set[str] = set()
        self._busy_since: dict[str, float] = {}
        self._holder: dict[str, str] = {}

    def set_max_locked(self, max_locked_s: float) -> None:
        self._max_locked_s = max_locked_s

    def scan_ended(self) -> None:
        """A local scan ended, in success or failure: everyone may ask again."""
        self._asked.clear()

    def ask(self, name: str, now: float) -> Answer:
        if name in self._asked:
            return Answer(False)
        self._asked.add(name)
        released = self.release_overdue(name, now)
        return Answer(name not in self._busy_since, released)

    def begin(self, name: str, holder: str, now: float) -> None:
        """The check `holder` (its task id) of this worker begins; a later one takes over from an earlier."""
        self._busy_since[name] = now
        self._holder[name] = holder

    def end(self, name: str, holder: str | None = None) -> None:
        """The check ended. With `holder`, only if it is still that check's flag (an old one must not free a new
        one's)."""
        if holder is None or self._holder.get(name) == holder:
            self._busy_since.pop(name, None)
            self._holder.pop(name, None)

    def is_free(self, name: str, now: float) -> bool:
        """Whether no check of it runs; one that is overdue does not count."""
        since = self._busy_since.get(name)
        return since is None or now - since > self._max_locked_s

    def release_overdue(self, name: str, now: float) -> bool:
        """Release a flag that was held for too long; True if it was."""
        if name not in self._busy_since or not self.is_free(name, now):
            return False
        self.forget(name)
        return True

    def forget(self, name: str) -> None:
        """The worker's link is gone."""
        self._busy_since.pop(name, None)
        self._holder.pop(name, None)
