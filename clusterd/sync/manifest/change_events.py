"""Tells the journal which files of this node have changed, when a manifest is published."""

from collections.abc import Callable, Iterator

import msgspec

from clusterd.messages.journal import MANIFEST_DIGITS, AnyEvent, ChangeEvent
from clusterd.messages.manifest import ManifestBuilt, MostlyListed

MOST_PENDING = 64
"""Jobs whose changes wait for one manifest; there are two or three as a rule."""
LENGTH_BYTES = 4


class ChangeEvents:
    """Owner of the changes that are not published yet, and of the files that jobs write them to."""

    def __init__(
        self,
        tell: Callable[[AnyEvent], None],
        new_path: Callable[[], str],
        remove: Callable[[str], None],
    ) -> None:
        self._tell = tell
        self._new_path = new_path
        self._remove = remove
        self._pending: list[MostlyListed] = []
        self._path = ""

    def path(self) -> str:
        """Where the next job may write what finds no room in its result."""
        self._path = self._new_path()
        return self._path

    def note(self, built: ManifestBuilt) -> None:
        """A job has ended."""
        if built.listed is None:
            self._remove(self._path)  # a job that died in between, perhaps
            return
        if len(self._pending) >= MOST_PENDING:
            self._forget(self._pending.pop(0))
        self._pending.append(built.listed)

    def published(self, content: str, source: str, seconds: float) -> None:
        """These changes have led to the manifest with that content digest."""
        pending, self._pending = self._pending, []
        for listed in pending:
            try:
                pieces = [listed.files] if listed.files else list(_pieces(listed.path))
            except OSError:
                pieces = []
            finally:
                self._forget(listed)
            self._tell_pieces(listed, pieces, content[:MANIFEST_DIGITS], source, round(seconds, 3))

    def _tell_pieces(
        self, listed: MostlyListed, pieces: list[bytes], manifest: str, source: str, seconds: float
    ) -> None:
        left = {
            "added": listed.added,
            "changed": listed.changed,
            "deleted": listed.deleted,
            "withheld": listed.withheld,
        }
        parts = max(1, len(pieces))
        for part, files in enumerate(pieces or [b"\x90"], 1):
            counts = dict.fromkeys(left, 0)
            if part < parts:
                for row in msgspec.msgpack.decode(files, type=list[tuple[str, str, object, object, object, object]]):
                    counts[row[1]] += 1
                left = {what: count - counts[what] for what, count in left.items()}
            else:
                counts = left
            event = ChangeEvent(
                manifest=manifest,
                source=source,
                **counts,
                unlisted=listed.unlisted if part == parts else 0,
                files=msgspec.Raw(files),  # type: ignore[arg-type]  # encoded by the job
                part=part,
                parts=parts,
                seconds=seconds,
            )
            self._tell(event)

    def _forget(self, listed: MostlyListed) -> None:
        if listed.path:
            self._remove(listed.path)


def _pieces(path: str) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while size := file.read(LENGTH_BYTES):
            yield file.read(int.from_bytes(size, "big"))
