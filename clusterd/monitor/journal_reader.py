"""Reads the journal's file: for commands, while the node runs or not, and for the monitoring port. Writes nothing."""

import contextlib
import fnmatch
import heapq
import json
import operator
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from clusterd.errors import PlainFailure

MOST = 100_000
BUSY_MS = 2000
LARGEST_SEQ = (1 << 63) - 1
WITH_PATHS = ("change", "sync")
"""Kinds of events that name files."""


class JournalUnreadable(PlainFailure):
    """The journal cannot be read; the text says why."""


class Filter(msgspec.Struct, frozen=True):
    """A filter for events; an empty member lets all pass. `after`, `before`: only events with a higher or a lower `seq`
    (0: any). `since`, `until`: wall-clock seconds. `kinds`: `worker`, or with an outcome `worker:lost`. `node`: events
    at this node or through it. `path`: a shell pattern for paths of files; a change then lists only the files that
    match."""

    after: int = 0
    since: float | None = None
    until: float | None = None
    kinds: tuple[str, ...] = ()
    node: str = ""
    path: str = ""
    before: int = 0


class Page(msgspec.Struct, frozen=True):
    """The events found. `stopped_at`: reading stopped at this `seq`, because of size or time, before there were `limit`
    of them: continue behind it. None: there are no more, or `limit`."""

    events: list[dict[str, Any]]
    stopped_at: int | None = None


class JournalReader:
    """Reads one journal. Opens the file for each call, so that it holds nothing between two."""

    def __init__(
        self,
        path: str,
        most_bytes: int | None = None,
        most_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`most_bytes`: a call returns fewer than `limit` events once they are this large, but at least one; `most_s`:
        the longest reading of one call. None: without a bound. `clock`: seconds."""
        self._path = path
        self._most_bytes = most_bytes
        self._most_s = most_s
        self._clock = clock

    def latest(self, wanted: Filter = Filter(), limit: int = 100) -> list[dict[str, Any]]:  # noqa: B008  # frozen
        """Returns at most `limit` events, newest first; none without a file. Raises JournalUnreadable."""
        return self.latest_page(wanted, limit).events

    def latest_page(self, wanted: Filter, limit: int) -> Page:
        """Works like `latest`; to continue behind `stopped_at`, pass it as `before`."""
        return self._page(wanted, "DESC", limit)

    def following(self, wanted: Filter = Filter(), limit: int = 1000) -> list[dict[str, Any]]:  # noqa: B008  # frozen
        """Returns at most `limit` events, oldest first, for a reader that continues behind `wanted.after`. Raises
        JournalUnreadable."""
        return self._page(wanted, "ASC", limit).events

    def last_seq(self) -> int:
        """Returns the number of the last event, 0 without one. Raises JournalUnreadable."""
        found = self.latest(limit=1)
        return int(found[0]["seq"]) if found else 0

    def _page(self, wanted: Filter, order: str, limit: int) -> Page:
        for is_last in (False, True):
            try:
                connection = _connect(self._path)
                if connection is None:
                    break
                with contextlib.closing(connection):
                    return self._read(connection, wanted, order, max(0, min(limit, MOST)))
            except (sqlite3.Error, OSError, ValueError) as failure:
                # The monitor may have begun to write meanwhile (see _connect).
                if is_last:
                    raise JournalUnreadable(f"{self._path} cannot be read: {failure}") from failure
        return Page([])

    def _read(self, connection: sqlite3.Connection, wanted: Filter, order: str, limit: int) -> Page:
        until = None if self._most_s is None else self._clock() + self._most_s
        matches = re.compile(fnmatch.translate(wanted.path)).match
        events: list[dict[str, Any]] = []
        size = 0
        for seq, data in _rows(connection, wanted, order) if limit else ():
            event = None if data is None else _matching(json.loads(data), wanted, matches)
            if data is not None and event is not None:
                events.append(event)
                if len(events) == limit:
                    break
                size += len(msgspec.json.encode(event)) if wanted.path else len(data)
                if self._most_bytes is not None and size >= self._most_bytes:
                    return Page(events, seq)
            if until is not None and self._clock() >= until:
                return Page(events, seq)
        return Page(events)


def _connect(path: str) -> sqlite3.Connection | None:
    """Opens the file. Returns None if no event was ever written."""
    try:
        with open(path, "rb") as file:
            if not file.read(1):
                return None
    except FileNotFoundError:
        return None
    quoted = path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    # No process has it open, so it is read as immutable: SQLite would otherwise make files beside it that belong to the
    # reader's user. The same if the reader may not write the log beside it.
    modes = ("mode=ro", "immutable=1") if os.path.exists(f"{path}-wal") else ("immutable=1",)
    for mode in modes:
        connection = sqlite3.connect(f"file:{quoted}?{mode}", uri=True, timeout=BUSY_MS / 1000)
        try:
            if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'events'").fetchone() is None:
                connection.close()
                return None
            return connection
        except BaseException as failure:
            connection.close()
            if mode == modes[-1] or not isinstance(failure, sqlite3.OperationalError):
                raise
    return None


def _rows(connection: sqlite3.Connection, wanted: Filter, order: str) -> Iterable[tuple[int, str | None]]:
    """Yields `seq` and data of the events that may match, in order; without data those that do not. Every row is
    yielded, so that the caller knows after each how far it has read."""
    after, before = wanted.after, wanted.before or LARGEST_SEQ
    if wanted.since is not None and not after:
        (lowest,) = connection.execute("SELECT min(seq) FROM events WHERE at >= ?", (_ms(wanted.since),)).fetchone()
        after = LARGEST_SEQ if lowest is None else lowest - 1
    if wanted.until is not None and not wanted.before:
        (highest,) = connection.execute("SELECT max(seq) FROM events WHERE at <= ?", (_ms(wanted.until),)).fetchone()
        before = 0 if highest is None else highest + 1
    names = {kind.partition(":")[0] for kind in wanted.kinds}
    if wanted.path:
        names = names & set(WITH_PATHS) if names else set(WITH_PATHS)
        if not names:
            return ()
    condition, values = _condition(wanted)
    chosen = f"SELECT seq, CASE WHEN {condition} THEN data END FROM events"
    span, ends = "seq > ? AND seq < ?", [after, before]
    if not names:
        return connection.execute(f"{chosen} WHERE {span} ORDER BY seq {order}", [*values, *ends])
    of_one = f"{chosen} INDEXED BY events_kind WHERE kind = ? AND {span} ORDER BY seq {order}"
    found = [connection.execute(of_one, [*values, name, *ends]) for name in sorted(names)]
    return heapq.merge(*found, key=operator.itemgetter(0), reverse=order == "DESC")


def _condition(wanted: Filter) -> tuple[str, list[Any]]:
    parts, values = ["1"], list[Any]()
    if wanted.since is not None:
        parts.append("at >= ?")
        values.append(_ms(wanted.since))
    if wanted.until is not None:
        parts.append("at <= ?")
        values.append(_ms(wanted.until))
    kinds: list[str] = []
    for kind in wanted.kinds:
        name, _, outcome = kind.partition(":")
        kinds.append("(kind = ? AND outcome = ?)" if outcome else "kind = ?")
        values += [name, outcome] if outcome else [name]
    if kinds:
        parts.append(f"({' OR '.join(kinds)})")
    # A row whose raw text already rules it out need not be parsed.
    longest = max(re.split(r"[*?]", wanted.path.partition("[")[0]), key=len)
    for literal in (longest, wanted.node):
        if literal and literal.isascii() and literal.isprintable() and '"' not in literal and "\\" not in literal:
            parts.append("instr(data, ?) > 0")
            values.append(literal)
    return " AND ".join(parts), values


def _ms(seconds: float) -> int:
    return int(seconds * 1000)


def _matching(event: dict[str, Any], wanted: Filter, matches: Callable[[str], object]) -> dict[str, Any] | None:
    if wanted.node and wanted.node not in (event.get("worker") or event.get("through") or event.get("node"),):
        return None
    if wanted.path:
        member = "files" if event["kind"] == "change" else "left_out"
        found = [one for one in event.get(member, ()) if matches(one["path"])]
        if not found:
            return None
        event[member] = found
    return event
