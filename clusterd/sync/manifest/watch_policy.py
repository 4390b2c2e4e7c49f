"""Whether this node's files are watched, why not, and when watching is tried again."""

from collections.abc import Callable

from clusterd.clock import Clock
from clusterd.sync.manifest.confirming import RETRY_S, Confirming
from clusterd.sync.manifest.watcher import CannotWatch, MakeNotify, Watcher
from clusterd.sync.ports.tag_log import TagLog
from hashing.rules import Rules


class WatchPolicy:
    """Owns the watcher. Whenever watching begins or ends, the caller must look at everything, because no event names
    what happened meanwhile."""

    def __init__(
        self,
        root: str,
        rules: Rules | None,
        clock: Clock,
        confirming: Confirming,
        log: TagLog | None,
        found: Callable[[set[str]], None],
        must_walk: Callable[[], None],
        wake: Callable[[], None],
        make_notify: MakeNotify,
    ) -> None:
        """Without `rules` nothing is watched. `found`: gets the paths of events; `must_walk`: called when events do not
        name all changes; `wake`: called when a walk is due soon."""
        self.rules = rules
        self._clock = clock
        self._confirming = confirming
        self._log = log
        self._must_walk = must_walk
        self._wake = wake
        self._watcher = Watcher(root, found, self._lost, make_notify)
        self.unwatched = "" if rules is not None else "switched off"
        """Why files are not watched; empty while they are, and before the first scan."""
        self._again_at = 0.0
        self._pauses = 0
        self._told = ""

    @property
    def is_watching(self) -> bool:
        return self._watcher.is_watching

    @property
    def try_again_at(self) -> float | None:
        """When watching is tried again (monotonic); None while files are watched or should not be."""
        return None if self.rules is None or self.is_watching else self._again_at

    def adopt(self, rules: Rules | None) -> None:
        """Takes the settings of a reload."""
        self.rules = rules
        self._again_at = 0.0

    def pause(self) -> None:
        """Does not begin to watch until `resume` was called as often; `stop` ends current watching."""
        self._pauses += 1

    def resume(self) -> None:
        self._pauses -= 1

    async def stop(self) -> None:
        """Ends watching and its threads."""
        await self._watcher.stop()

    async def care(self) -> None:
        """Begins to watch if it should, and begins again where a watched directory has been replaced. The walk that
        follows finds what was missed."""
        if self.rules is None:
            await self._watcher.stop()
            self.unwatched = "switched off"
            return
        if self.is_watching and self._watcher.rules == self.rules and not self._watcher.is_stale():
            return
        if self._pauses or (not self.is_watching and self._clock.monotonic() < self._again_at):
            return
        self._must_walk()
        try:
            await self._watcher.start(self.rules)
        except CannotWatch as refusal:
            self._lost(str(refusal), refusal.is_passing)
            return
        self.unwatched = self._told = ""

    def _lost(self, reason: str, is_passing: bool) -> None:
        """Called when there are no events any more: until the next full walk, or for a short time where the reason
        `is_passing`."""
        self.unwatched = reason
        self._must_walk()
        pause = RETRY_S if is_passing else self._confirming.pause_s
        self._again_at = self._clock.monotonic() + pause
        self._wake()
        if not is_passing and reason != self._told:
            self._told = reason
            if self._log is not None:
                self._log.warning(f"Files are not watched, but looked at from time to time: {reason}.")
