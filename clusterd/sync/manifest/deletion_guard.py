"""When a master decides about files that have vanished in great numbers, and what it reports about files that it
withholds.

Jobs judge the rows themselves (hashing/protection.py, clusterd/key_guard.py)."""

from clusterd.agent_keys import KEY_FILE
from clusterd.clock import Clock
from clusterd.key_guard import KeyRules
from clusterd.messages.manifest import ManifestBuilt
from clusterd.sync.ports.tag_log import TagLog
from clusterd.sync.ports.troubles import Troubles
from hashing.protection import LEAST_FILES

QUIET_S = 1.0
SHORT_QUIET_S = 0.25
LONGEST_QUIET_S = 10.0
"""Files that vanish together are judged once nothing more has vanished for this time, the short one while there are
fewer than 50 of them; and after the longest one in any case."""
EVERYTHING = KeyRules(share=1.0)
"""A worker follows its master in every deletion of keys."""
VANISHED, KEYS = "files that have vanished", "agent keys"
"""Subjects of `problems` in the status."""


class DeletionGuard:
    """Owns the deletion that is going on. `max_delete_share`, and that of `key_rules`: 1 where nothing is withheld."""

    def __init__(
        self, clock: Clock, log: TagLog | None, troubles: Troubles, max_delete_share: float, key_rules: KeyRules
    ) -> None:
        self._clock = clock
        self._log = log
        self._troubles = troubles
        self.max_delete_share = max_delete_share
        self.key_rules = key_rules
        self._settling_since: float | None = None
        self._lost_since = 0.0
        self._lost_at = 0.0
        self._settling = 0
        self._withheld = 0
        self._present = 0
        self._present_before = 0
        self._present_at_first = 0

    @property
    def is_on(self) -> bool:
        """Whether new scans are compared with the manifest that was published last."""
        return self.max_delete_share < 1 or self.key_rules.is_on

    @property
    def is_settling(self) -> bool:
        """Whether vanished files wait to be judged."""
        return self._settling_since is not None

    def judge_at(self) -> float:
        """When the waiting files are judged; monotonic."""
        since = self._lost_at if self._settling_since is None else self._settling_since
        quiet = QUIET_S if self._settling >= LEAST_FILES else SHORT_QUIET_S
        return min(max(self._lost_at, since) + quiet, since + LONGEST_QUIET_S)

    def lost_just_now(self) -> int:
        """Returns how many files there are less than before this deletion."""
        return max(0, self._present_at_first - self._present) if self._is_losing() else 0

    def is_due(self, vanished: int, settling: int) -> bool:
        """Records that a scan has found `vanished` files missing, of which `settling` wait. Returns whether they must
        be judged at once."""
        now = self._clock.monotonic()
        if vanished:
            if not self._is_losing():
                self._lost_since, self._present_at_first = now, self._present_before
            self._lost_at = now
        if not settling:
            self._settling_since = None
            return False
        if self._settling_since is None:
            self._settling_since = now
        return now >= self.judge_at()

    def judged(self) -> None:
        """Records that no file waits any more."""
        self._settling_since = None

    def _is_losing(self) -> bool:
        """Returns whether a deletion is going on, to which files that vanish now belong."""
        if self._settling_since is not None:
            return True
        now = self._clock.monotonic()
        return now - self._lost_at <= QUIET_S and now - self._lost_since <= LONGEST_QUIET_S

    def accept(self, before: ManifestBuilt | None, built: ManifestBuilt) -> None:
        """Called when a job has made `built` out of `before`. Reports which files are withheld, or that none are any
        more."""
        self._settling, self._present = built.settling, _present(built)
        self._present_before = _present(before or built)
        if built.is_unguarded and self._log is not None:
            self._log.warning(
                "No record can be read of the files that the workers were told of last: had many vanished since, the "
                "workers would delete them, too."
            )
        had, self._withheld = self._withheld, built.withheld - bool(built.doubt)
        if self._withheld > had:
            text = (
                f"{self._withheld} of {built.files} files have vanished from this master at once. The workers keep "
                "theirs: "
                'put the files back, or run "clusterd sync --allow-delete" to have them deleted there, too.'
            )
            self._troubles.begin(VANISHED, text)
            if self._log is not None:
                self._log.warning(text)
        if not self._withheld:
            self._troubles.end(VANISHED)
        if built.doubt:
            self._troubles.begin(KEYS, f"{built.doubt}. Until then the workers keep theirs.", self._log)
        else:
            self._troubles.end(KEYS, f"{KEY_FILE} is synchronised again.", self._log)


def _present(built: ManifestBuilt) -> int:
    """Files that exist, or existed until a moment ago."""
    return built.files - built.withheld
