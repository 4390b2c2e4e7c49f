"""Tells the journal which files of this node have changed when a manifest is published."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import msgspec

from clusterd.messages.journal import MANIFEST_DIGITS, AnyEvent, ChangeEvent
from clusterd.messages.manifest import PIECE_HEAD, ManifestBuilt, MostlyListed

MOST_PENDING = 64
"""Most jobs whose changes wait for one manifest; usually there are two or three."""


Counts = tuple[int, int, int, int]
"""Numbers of files added, changed, deleted, withheld."""


class ChangeEvents:
    """Owns the changes that are not published yet, and the files to which jobs write them."""

    def __init__(
        self,
        tell: Callable[[AnyEvent], None],
        new_path: Callable[[], str],
        remove: Callable[[str], None],
        soon: Callable[[Callable[[], None]], object] = lambda work: work(),
    ) -> None:
        """`soon`: calls a function in one of the next turns of the loop. A large change becomes several events, sent
        one by one so that other work can run in between."""
        self._tell = tell
        self._new_path = new_path
        self._remove = remove
        self._soon = soon
        self._pending: list[MostlyListed] = []
        self._path = ""

    def path(self) -> str:
        """Returns the path to which the next job may write changes that do not fit into its result."""
        self._path = self._new_path()
        return self._path

    def job_failed(self) -> None:
        """Removes what the last job may have written."""
        self._remove(self._path)

    def note(self, built: ManifestBuilt) -> None:
        """Takes the changes of a job that has ended."""
        if built.listed is None:
            self._remove(self._path)  # a job that died in between, perhaps
            return
        if len(self._pending) >= MOST_PENDING:
            self._forget(self._pending.pop(0))
        self._pending.append(built.listed)

    def published(self, content: str, source: str, seconds: float) -> None:
        """Tells the journal the changes that have led to the manifest with this content digest."""
        pending, self._pending = self._pending, []
        for listed in pending:
            whole = listed.added, listed.changed, listed.deleted, listed.withheld
            try:
                pieces = [(whole, listed.files)] if listed.files else list(_pieces(listed.path))
            except OSError:
                pieces = []
            finally:
                self._forget(listed)
            left = tuple(count - sum(own[n] for own, _ in pieces) for n, count in enumerate(whole))
            told = _Told(content[:MANIFEST_DIGITS], source, round(seconds, 3), listed.unlisted, left)
            self._tell_part(told, pieces or [((0, 0, 0, 0), b"\x90")], 0)

    def _tell_part(self, told: "_Told", pieces: list[tuple[Counts, bytes]], number: int) -> None:
        counts, files = pieces[number]
        is_last = number + 1 == len(pieces)
        if is_last:  # with those that are not listed
            counts = tuple(one + more for one, more in zip(counts, told.left, strict=True))  # type: ignore[assignment]
        added, changed, deleted, withheld = counts
        event = ChangeEvent(
            manifest=told.manifest,
            source=told.source,
            added=added,
            changed=changed,
            deleted=deleted,
            withheld=withheld,
            unlisted=told.unlisted if is_last else 0,
            files=msgspec.Raw(files),  # type: ignore[arg-type]  # encoded by the job
            part=number + 1,
            parts=len(pieces),
            seconds=told.seconds,
        )
        self._tell(event)
        if not is_last:
            self._soon(lambda: self._tell_part(told, pieces, number + 1))

    def _forget(self, listed: MostlyListed) -> None:
        if listed.path:
            self._remove(listed.path)


class _Told(NamedTuple):
    """Returns the fields that all events of a change have in common; `left`: files that no event lists."""

    manifest: str
    source: str
    seconds: float
    unlisted: int
    left: tuple[int, ...]


def _pieces(path: str) -> Iterator[tuple[Counts, bytes]]:
    with open(path, "rb") as file:
        while head := file.read(PIECE_HEAD.size):
            length, added, changed, deleted, withheld = PIECE_HEAD.unpack(head)
            yield (added, changed, deleted, withheld), file.read(length)
