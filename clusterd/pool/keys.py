"""Whether the agent keys on this master's disk are what its workers should have (clusterd/key_guard.py)."""

import contextlib
import os

from clusterd.agent_keys import KEY_FILE
from clusterd.key_guard import KeyContent, KeyRules, load_accepted, note_accepted, written_by_authd
from clusterd.rundir import STATE
from clusterd.settings import Settings
from hashing.directories import Directories
from hashing.errors import HashingError
from hashing.live_manifest import Changes, LiveManifest
from hashing.rules import Rules

ITEM = "etc/"
BEING_WRITTEN = f"{KEY_FILE} is being written to"


def may_be_sent(settings: Settings, digest: bytes) -> bool:
    """Whether a content of the file that is newer than the manifest may be sent all the same: registrations go on
    while packages are made. A deletion (empty digest) waits."""
    rules = KeyRules(settings.clusterd.max_key_loss_share, settings.clusterd.key_loss_from)
    state_dir = f"{settings.root}/{STATE}"
    if not rules.is_on or digest in written_by_authd(state_dir):
        return True
    return bool(digest) and KeyGuard(settings.root, state_dir, rules, settings.rules).is_no_loss(digest)


class KeyGuard:
    """Looks at one update of the manifest: first `doubts`, and once the update is made, `note`."""

    def __init__(self, root: str, state_dir: str, rules: KeyRules, items: Rules) -> None:
        self._root = root
        self._items = items
        self._state_dir = state_dir
        self._rules = rules
        self._content: KeyContent | None = None

    def doubts(self, live: LiveManifest, changes: Changes, *, allow: bool = False) -> str:
        """Why what `changes` say of the file should not be applied to `live`; empty if it should. `allow`: a person
        has said that the keys are meant to be gone."""
        if not self._rules.is_on or allow or KEY_FILE not in live:
            return ""
        if KEY_FILE not in changes:
            return f"{KEY_FILE} cannot be read" if KEY_FILE in live.held else ""
        row = changes[KEY_FILE]
        content = KeyContent(None) if row is None else self._read()
        if content is None or content.digest != (b"" if row is None else row.digest):
            return BEING_WRITTEN
        self._content = content
        if content.digest in written_by_authd(self._state_dir)[-1:]:  # an older one may be a backup put back
            return ""
        loss = content.loss(self._known(live), self._rules)
        return "" if loss is None else loss.text

    def is_no_loss(self, digest: bytes) -> bool:
        """Whether the file still has the content with this digest, and it lacks nothing of what was accepted last."""
        content, records = self._read(), load_accepted(self._state_dir)
        if content is None or content.digest != digest or not records:
            return False
        return content.loss(records[-1].ids, self._rules) is None

    def _known(self, live: LiveManifest) -> list[int]:
        """The ids in the content that the manifest has; where that was not noted, in the one before."""
        row = live.get(KEY_FILE)
        records = load_accepted(self._state_dir)
        for record in reversed(records):
            if row is not None and record.digest == row.digest:
                return record.ids
        return records[-1].ids if records else []

    def note(self, live: LiveManifest) -> None:
        """The manifest is made: its content of the file is the one to compare the next with. On a full disk that
        waits for a later update: until then the one before is."""
        with contextlib.suppress(OSError):
            self._note(live)

    def _note(self, live: LiveManifest) -> None:
        if not self._rules.is_on or KEY_FILE in live.held:
            return
        row = live.get(KEY_FILE)
        digest = b"" if row is None else row.digest
        records = load_accepted(self._state_dir)
        if records and records[-1].digest == digest:
            return
        content = self._content
        if content is None or content.digest != digest:
            content = KeyContent(None) if row is None else self._read()
        if content is not None and content.digest == digest:
            note_accepted(self._state_dir, content)

    def _read(self) -> KeyContent | None:
        try:
            with Directories(self._root, rules=self._items) as directories:
                fd = directories.links.file(directories.root_fd, ITEM, KEY_FILE)
            with os.fdopen(fd, "rb") as file:
                return KeyContent(file.read())
        except (HashingError, OSError):
            return None
