"""When a node whose files are watched looks at all of them again, and at which priority (see architecture.md, "The
manifest follows changes")."""

RETRY_S = 1.0
WALK_S = 300.0
"""Interval of walks while files are watched and no full walk is configured; also of attempts to watch again."""
LATE_S = 60.0


class Confirming:
    """Remembers when everything was looked at last. A walk that only confirms what events have reported runs in the
    background, and ends when something waits for the manifest. The next such walk runs at normal priority; so does one
    that found no quiet moment for LATE_S, so that it completes however much happens. Every `now` is seconds on the
    monotonic clock."""

    def __init__(self, full_walk_s: float) -> None:
        """`full_walk_s`: how often every file is read; 0: never."""
        self.full_walk_s = full_walk_s
        self.is_in_background = False
        self._gave_way = False
        self._walked_at = 0.0
        self._full_walk_at: float | None = None
        self._not_before = 0.0

    @property
    def pause_s(self) -> float:
        return self.full_walk_s or WALK_S

    def walk_begins(self, now: float) -> None:
        """Records any walk; the first one counts as one that reads everything."""
        if self._full_walk_at is None:
            self._full_walk_at = now

    def walk_ended(self, began: float, *, full: bool) -> None:
        self._walked_at = began
        if full:
            self._full_walk_at = began

    def is_full_due(self, now: float) -> bool:
        return self._full_walk_at is not None and 0 < self.full_walk_s <= now - self._full_walk_at

    def due_at(self) -> float:
        at = self._walked_at + WALK_S
        if self._full_walk_at is not None and self.full_walk_s > 0:
            at = min(at, self._full_walk_at + self.full_walk_s)
        return max(at, self._not_before)

    def is_due(self, now: float, *, is_quiet: bool) -> bool:
        """`is_quiet`: there is no other work now."""
        return now >= self.due_at() + (0.0 if is_quiet else LATE_S)

    def begin(self, now: float, *, is_quiet: bool) -> None:
        self._not_before = now + RETRY_S
        self.is_in_background = is_quiet and not self._gave_way

    def end(self, now: float, *, gave_way: bool = False, failed: bool = False) -> None:
        self.is_in_background = False
        self._gave_way = gave_way or (failed and self._gave_way)
        if failed:
            self._not_before = now + min(self.pause_s, WALK_S)
