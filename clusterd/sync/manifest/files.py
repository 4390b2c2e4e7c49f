"""The manifest files of the state directory: which ones are kept, and which one was published last, across restarts of
the daemon."""

import contextlib
import os
from pathlib import Path

import msgspec

from hashing.atomic import FileOps
from hashing.errors import MalformedPackage
from hashing.manifest import kept_manifests
from hashing.state_file import load_state, save_state

KEPT = 3
KEPT_S = 30.0
KEPT_AT_MOST = 150
"""How many of the newest are kept, and how long a manifest that was current is kept in any case: jobs still wait for it
or compare with it."""
PREFIX = "manifest-"

_MAGIC = b"cdpublic"
_NAME = "published"


class ManifestFiles:
    """Owns the files. Digests are root digests; times are monotonic seconds."""

    def __init__(self, state_dir: str) -> None:
        self._state_dir = Path(state_dir)
        self.note_path = str(self._state_dir / _NAME)
        self._current = ""
        self._recent: dict[str, tuple[str, float]] = {}
        self._noted = self._files()
        """What the note on the disk needs: perhaps any file of an earlier process."""
        self.published_digest = self._load()
        """The manifest that was published last, by this process or an earlier one; empty if none was."""

    def publish(self, digest: str, base: str, now: float) -> None:
        """Records that this manifest, whose file needs that of `base`, is current."""
        if self._current in self._recent:
            self._recent[self._current] = (self._recent[self._current][0], now)
        self._recent.pop(digest, None)
        self._recent[digest] = (base, now)
        self._current = digest

    def note(self) -> None:
        """Notes for the next process which manifest is current, unless that is noted. Raises OSError: the note before
        stays."""
        if self.published_digest != self._current:
            save_state(FileOps(), self.note_path, _MAGIC, self._current)
            self.published_digest = self._current
        base, _ = self._recent[self._current]
        self._noted = {PREFIX + self._current, PREFIX + base}

    def tidy(self, now: float, *, keeps_noted: bool) -> None:
        """Removes files that are no longer needed, including those of earlier processes. `keeps_noted`: not those that
        the next process needs, which are older ones where `note` has failed."""
        digests = list(self._recent)
        old = [digest for digest in digests[:-KEPT] if now - self._recent[digest][1] > KEPT_S]
        for digest in {*old, *digests[:-KEPT_AT_MOST]}:
            del self._recent[digest]
        wanted = {PREFIX + digest for digest in self._recent} | {PREFIX + base for base, _ in self._recent.values()}
        if keeps_noted:
            wanted |= self._noted
        for name in self._files() - wanted:
            # A file that cannot be removed now is found again the next time.
            with contextlib.suppress(OSError):
                os.unlink(self._state_dir / name)

    def _files(self) -> set[str]:
        with contextlib.suppress(OSError):
            return {path.name for path in self._state_dir.glob(f"{PREFIX}*")}
        return set()

    def _load(self) -> str:
        try:
            return str(load_state(self.note_path, _MAGIC, msgspec.msgpack.Decoder(str)))
        except (OSError, MalformedPackage):
            # The note is lost. The newest manifest is the one that was published, or would have been next.
            with contextlib.suppress(OSError):
                return next(iter(kept_manifests(str(self._state_dir))), "")
            return ""
