"""Places of the tree that must be looked at, now or later."""

from collections.abc import Iterable

import msgspec

MOST_PENDING = 1000
"""Most places to look at; beyond this number a walk with all pool processes is quicker."""
LOOK_TWICE_S = 1.0
"""When a new directory is looked at again: files may have been created in it before it was watched."""


class Look(msgspec.Struct, frozen=True):
    """The places that one patch looks at: `paths` with everything below them, `directories` without. `named`: paths
    named by events, or due for their second, `late` look."""

    paths: set[str]
    directories: set[str]
    named: set[str]
    late: set[str]

    def __bool__(self) -> bool:
        return bool(self.paths or self.directories)

    @property
    def new(self) -> set[str]:
        """The paths named by events that nobody has looked at yet."""
        return self.named - self.late

    def covers(self, path: str) -> bool:
        """Returns whether this look covers the path."""
        paths, directories = self.paths, self.directories
        if path in paths or path in directories or path.rpartition("/")[0] in directories:
            return True
        if "" in paths or path == "...":
            return True
        at = path.find("/")
        while at >= 0:
            if path[:at] in paths:
                return True
            at = path.find("/", at + 1)
        return False


class Places:
    """Owns the places to look at, relative to the root, "" for all. Every `now` is seconds on the monotonic clock.

    `pending`: named by events. `_later`: new directories, and when to look at them again. `_again`: places whose
    changes may cause no events (a trailing slash: with everything below), looked at by every periodic scan."""

    def __init__(self) -> None:
        self.pending: set[str] = set()
        self._later: dict[str, float] = {}
        self._again: set[str] = set()

    def has_any(self) -> bool:
        """Whether any place waits, not counting those of periodic scans."""
        return bool(self.pending or self._later)

    def moments(self) -> list[float]:
        """When to look at the waiting places."""
        return list(self._later.values())

    def is_late(self, now: float) -> bool:
        return any(due <= now for due in self._later.values())

    def is_much(self, now: float | None = None) -> bool:
        """Whether a walk is quicker: for a periodic scan, or for the places that are due `now`."""
        if now is None:
            return len(self.pending) + len(self._again) > MOST_PENDING
        return len(self.pending) > MOST_PENDING or ("" in self._later and self._later[""] <= now)

    # ---- walks -------------------------------------------------------------------------------------------------------

    def take_all(self, now: float) -> set[str]:
        """Called when a walk begins. It covers every place named so far; places named from now on wait. If so many were
        named that some may be new directories, these are looked at twice. Returns what was taken, for `put_back`."""
        self._later.pop("", None)
        if len(self.pending) > MOST_PENDING:
            self._later[""] = now + LOOK_TWICE_S
        taken, self.pending = self.pending, set()
        return taken

    def put_back(self, taken: set[str]) -> None:
        """Called when the walk has failed."""
        self.pending |= taken

    def walked(self, again: Iterable[str], twice: Iterable[str] = (), twice_at: float | None = None) -> None:
        """Called after a walk, with all places whose changes may cause no events. `twice`: places that it looked at
        because they hold much that is new; they are looked at again, as in `looked`."""
        self._again = set(again)
        if twice_at is not None:
            self._look_later(twice, twice_at)

    # ---- patches -----------------------------------------------------------------------------------------------------

    def take(self, now: float, *, is_periodic: bool) -> Look:
        """Returns the places to look at now. The caller calls `looked` afterwards."""
        late = {path for path, due in self._later.items() if due <= now}
        again = self._again if is_periodic else set()
        paths = self.pending | late | {path.rstrip("/") for path in again if path.endswith("/")}
        look = Look(paths, {path for path in again if not path.endswith("/")}, self.pending | late, late)
        self.pending = set()
        return look

    def not_looked(self, look: Look) -> None:
        """Called when a walk follows instead of this look."""
        self.pending |= look.new

    def looked(
        self, look: Look, again: Iterable[str], trees: Iterable[str], twice_at: float | None, *, is_changed: bool
    ) -> None:
        """Called after a look. No event names files that were created in a new directory before it was watched, so
        `trees` are looked at again at `twice_at`; None where nothing is watched. `again`: found there, as in `walked`.
        `is_changed`: the look found a change."""
        self._again = {path for path in self._again if not look.covers(path.rstrip("/"))}
        self._again.update(again)
        for path in look.late:
            del self._later[path]
        if twice_at is not None:
            new = {path for path in trees if path in look.named and (is_changed or path not in look.late)}
            self._look_later(new, twice_at)

    def _look_later(self, paths: Iterable[str], at: float) -> None:
        self._later |= dict.fromkeys(paths, at)
        if len(self._later) > MOST_PENDING:
            self._later = {"": at}
