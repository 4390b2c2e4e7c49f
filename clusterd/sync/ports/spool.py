"""Directory for received bytes and packages in the making: `queue/cluster/.clusterd/spool`, read by no other
program."""

import os
from pathlib import Path

from clusterd.errors import ClusterError
from clusterd.rundir import STATE
from clusterd.settings import Limits
from clusterd.sync.ports.ledger import Ledger, OverLimit
from clusterd.sync.ports.tag_log import TagLog
from clusterd.sync.ports.troubles import Troubles

SPOOL = "queue/cluster/.clusterd/spool"
AGAIN_S = 5.0
"""How long until the removal of files that could not be removed is tried again."""
AGAIN_FILES = 200
"""How many of them are tried at a time."""
LEFT = "removing spool files"
UNWRITABLE = "spool"
PROBE = b"x" * 4096
MAKE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
MODE = 0o660


class SpoolRefused(ClusterError):
    """Data of a peer cannot be accepted. The spool itself logs this once, so that callers need not log it for each
    request."""

    def __init__(self, why: str) -> None:
        super().__init__(1000, why)


class Spool:
    """Hands out file names that never repeat. A spool file belongs to the caller that got its name, until `remove`."""

    def __init__(
        self,
        root: str,
        incarnation: int,
        troubles: Troubles | None = None,
        log: TagLog | None = None,
        limits: Limits | None = None,
        *,
        is_master: bool = True,
    ) -> None:
        self.directory = str(Path(root) / SPOOL)
        self.state_dir = str(Path(root) / STATE)
        self._prefix = f"{incarnation}-"
        self._count = 0
        self._troubles = troubles or Troubles()
        self._log = log
        self._left: dict[str, None] = {}
        self._full: set[str] = set()
        self.ledger = Ledger(self.directory, limits or Limits(), is_master=is_master)
        self._again_at = 0.0

    def prepare(self) -> None:
        """Makes the directories and removes files of an earlier sync process. Called once, at start."""
        for directory in (self.directory, self.state_dir):
            os.makedirs(directory, mode=0o770, exist_ok=True)
        self.remove_earlier()

    def remove_earlier(self) -> None:
        """Removes files of earlier sync processes. Their jobs make some after the start of this one."""
        self.remove(*(entry.path for entry in os.scandir(self.directory) if not entry.name.startswith(self._prefix)))

    def new_path(self, kind: str) -> str:
        self._count += 1
        return f"{self.directory}/{self._prefix}{self._count}-{kind}"

    def admit(self, peer: str, size: int, whole: int) -> None:
        """Checks whether `size` more bytes of this peer are accepted, of something that will then have `whole` bytes.
        Raises SpoolRefused."""
        refused = self.ledger.why_not(peer, size, whole)
        if refused is not None:
            self._tell_full(refused)
            raise SpoolRefused(refused.text)

    def _tell_full(self, refused: OverLimit) -> None:
        self._full.add(refused.subject)
        text = (
            "Files and messages of other nodes are refused, but for small ones while there is a little: "
            f"{refused.text}."
        )
        self._troubles.begin(refused.subject, text, self._log, "ERROR")

    def create(self, kind: str) -> str:
        """Creates an empty file under a new name, so that a file in a table always exists. Raises SpoolRefused."""
        path = self.new_path(kind)
        try:
            os.close(os.open(path, MAKE, MODE))
        except OSError as failure:
            raise self.refused(failure.strerror or str(failure)) from failure
        return path

    def refused(self, why: str) -> SpoolRefused:
        """Returns what to raise when bytes of a peer could not be written. Logs it once, and shows it until `tidy`
        finds that writing works again."""
        text = (
            f"{self.directory} cannot be written ({why}): nothing is taken from other nodes until it can. See its "
            "disk, its inodes and who owns it."
        )
        self._troubles.begin(UNWRITABLE, text, self._log, "ERROR")
        return SpoolRefused(f"the spool of this node cannot be written: {why}")

    def remove(self, *paths: str) -> None:
        """Removes files that may not exist yet. Never raises, so that a failure does not interrupt other cleaning up.
        What cannot be removed now is tried again later."""
        for path in paths:
            self._remove(path)

    def tidy(self, now: float) -> None:
        """Called from time to time with the monotonic time: tries again what could not be removed or written, and
        measures the room."""
        if now < self._again_at:
            return
        self._again_at = now + AGAIN_S
        self.ledger.measure()
        low = self.ledger.why_low()
        if low is not None:
            self._tell_full(low)
        for subject in [subject for subject in self._full if self.ledger.is_over(subject)]:
            self._full.discard(subject)
            self._troubles.end(subject, "Files and messages of other nodes are taken again.", self._log)
        if UNWRITABLE in self._troubles.shown() and self._is_writable():
            self._troubles.end(UNWRITABLE, f"{self.directory} can be written again.", self._log)
        if self._left:
            self._remove_left()

    def _is_writable(self) -> bool:
        path = self.new_path("probe")
        try:
            fd = os.open(path, MAKE, MODE)
            try:
                return os.pwrite(fd, PROBE, 0) == len(PROBE)
            finally:
                os.close(fd)
        except OSError:
            return False
        finally:
            self.remove(path)

    def _remove_left(self) -> None:
        for path in list(self._left)[:AGAIN_FILES]:
            del self._left[path]  # one that fails again goes to the end
            self._remove(path)
        if not self._left:
            self._troubles.end(LEFT, "All files of the spool that were left could be removed.", self._log)

    def _remove(self, path: str) -> None:
        try:
            os.unlink(path)
            self.ledger.release(path)
        except FileNotFoundError:
            self.ledger.release(path)
        except OSError as failure:
            self._left[path] = None
            text = (
                f"Files of {self.directory} cannot be removed, {len(self._left)} are left ({failure.strerror}). They "
                "go as soon as it is possible: see whether the file system is mounted read-only or failing."
            )
            self._troubles.begin(LEFT, text, self._log, "ERROR")
