"""What a job has changed in the manifest, file by file, for the journal."""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress

import msgspec

from clusterd.messages.journal import DIGEST_BYTES, MOST_FILES, FileChange
from clusterd.messages.manifest import PIECE_HEAD, MostlyListed
from hashing.live_manifest import LiveManifest
from hashing.manifest import FileMeta

MOST_LISTED = 20_000
"""Files of one change that are listed; more are counted."""
MOST_PIECE_BYTES = 48 << 10
"""Bytes of one piece: it must fit into one event, and a single one into the job's result."""
ROW_BYTES = 60
"""A file of a piece without its path, at most."""


class ChangeNote:
    """Made before a manifest is changed, asked afterwards. `paths`: of rows that may change, besides those that are
    held."""

    def __init__(self, live: LiveManifest, paths: Iterable[str]) -> None:
        self._live = live
        self._before = {path: live.get(path) for path in (*paths, *live.held)}
        self._withheld = frozenset(live.withheld)

    def files(self) -> Iterator[FileChange]:
        """By path. A file whose content is the same is none of them, whatever became of its time."""
        live = self._live
        withheld = set(live.withheld) - self._withheld
        for path in sorted({*self._before, *withheld}):
            before, now = self._before.get(path), live.get(path)
            if path in withheld:
                yield _change(path, "withheld", now, now)
            elif before is None and now is not None:
                yield _change(path, "added", before, now)
            elif before is not None and now is None:
                yield _change(path, "deleted", before, now)
            elif before is not None and now is not None and before.digest != now.digest:
                yield _change(path, "changed", before, now)

    def listed(self, path: str) -> MostlyListed | None:
        """What sync is told; None where nothing has changed. What is too large for a message is written to the file
        `path`. Where that is not possible the files are only counted: no manifest waits for the journal."""
        counts = _Counts()
        pieces: list[tuple[_Counts, bytes]] = []
        piece: list[FileChange] = []
        size = total = 0
        for file in self.files():
            total += 1
            counts.add(file.what)
            if total > MOST_LISTED:
                continue
            grows = len(file.path.encode()) + ROW_BYTES
            if piece and (len(piece) >= MOST_FILES or size + grows > MOST_PIECE_BYTES):
                pieces.append(_piece(piece))
                piece, size = [], 0
            piece.append(file)
            size += grows
        if not total:
            return None
        pieces.append(_piece(piece))
        listed = MostlyListed(*counts.values(), unlisted=max(0, total - MOST_LISTED))
        if len(pieces) == 1:
            return msgspec.structs.replace(listed, files=pieces[0][1])
        try:
            with open(path, "wb") as out:
                for own, data in pieces:
                    out.write(PIECE_HEAD.pack(len(data), *own.values()) + data)
        except OSError:
            with suppress(OSError):
                os.unlink(path)
            return msgspec.structs.replace(listed, unlisted=total)
        return msgspec.structs.replace(listed, path=path)


class _Counts:
    def __init__(self) -> None:
        self._counts = dict.fromkeys(("added", "changed", "deleted", "withheld"), 0)

    def add(self, what: str) -> None:
        self._counts[what] += 1

    def values(self) -> tuple[int, int, int, int]:
        added, changed, deleted, withheld = self._counts.values()
        return added, changed, deleted, withheld


def _piece(files: list[FileChange]) -> tuple[_Counts, bytes]:
    counts = _Counts()
    for file in files:
        counts.add(file.what)
    return counts, msgspec.msgpack.encode(files)


def _change(path: str, what: str, before: FileMeta | None, now: FileMeta | None) -> FileChange:
    return FileChange(
        path,
        what,
        None if before is None else before.size,
        None if now is None else now.size,
        None if before is None else before.digest[:DIGEST_BYTES],
        None if now is None else now.digest[:DIGEST_BYTES],
    )
