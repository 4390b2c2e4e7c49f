"""Reads the journal's file: for commands, while the node runs or not, and for the monitoring port. Writes nothing."""

import contextlib
import fnmatch
import itertools
import json
import os
import re
import sqlite3
from collections.abc import Callable, Generator
from typing import Any

import msgspec

MOST = 100_000
BUSY_MS = 2000


class JournalUnreadable(Exception):
    """The journal cannot be read; the text says why."""


class Filter(msgspec.Struct, frozen=True):
    """Which events are wanted; an empty member wants all. `after`, `before`: only events with a higher or a lower `seq`
    (0: any). `since`, `until`: wall-clock seconds. `kinds`: `worker`, or with an outcome `worker:lost`. `node`: what
    happened to or through this node. `path`: a pattern as of a shell for paths of files; of a change only the files
    that match are told."""

    after: int = 0
    since: float | None = None
    until: float | None = None
    kinds: tuple[str, ...] = ()
    node: str = ""
    path: str = ""
    before: int = 0


class JournalReader:
    """Reads one journal. Opens the file for each call, so that nothing is held between two."""

    def __init__(self, path: str, most_bytes: int | None = None) -> None:
        """`most_bytes`: fewer than `limit` are found when they are as large as this, but at least one; None: any
        size."""
        self._path = path
        self._most_bytes = most_bytes

    def latest(self, wanted: Filter = Filter(), limit: int = 100) -> list[dict[str, Any]]:  # noqa: B008  # frozen
        """Newest first, at most `limit`. No file: none. Raises JournalUnreadable."""
        return self._first(wanted, "DESC", limit)

    def following(self, wanted: Filter = Filter(), limit: int = 1000) -> list[dict[str, Any]]:  # noqa: B008  # frozen
        """Oldest first, at most `limit`: for whoever goes on behind `wanted.after`. Raises JournalUnreadable."""
        return self._first(wanted, "ASC", limit)

    def last_seq(self) -> int:
        """The number of the last event, 0 without one. Raises JournalUnreadable."""
        found = self.latest(limit=1)
        return int(found[0]["seq"]) if found else 0

    def _first(self, wanted: Filter, order: str, limit: int) -> list[dict[str, Any]]:
        for is_last in (False, True):
            try:
                with contextlib.closing(self._events(wanted, order)) as events:
                    return list(itertools.islice(events, max(0, min(limit, MOST))))
            except (sqlite3.Error, OSError, ValueError) as failure:
                # Perhaps the monitor has begun to write meanwhile (see _connect).
                if is_last:
                    raise JournalUnreadable(f"{self._path} cannot be read: {failure}") from failure
        return []

    def _events(self, wanted: Filter, order: str) -> Generator[dict[str, Any], None, None]:
        connection = _connect(self._path)
        if connection is None:
            return
        size = 0
        try:
            condition, values = _condition(wanted)
            matches = re.compile(fnmatch.translate(wanted.path)).match
            for (data,) in connection.execute(
                f"SELECT data FROM events WHERE {condition} ORDER BY seq {order}", values
            ):
                event = _matching(json.loads(data), wanted, matches)
                if event is None:
                    continue
                yield event
                size += len(msgspec.json.encode(event)) if wanted.path else len(data)
                if self._most_bytes is not None and size >= self._most_bytes:
                    return
        finally:
            connection.close()


def _connect(path: str) -> sqlite3.Connection | None:
    """None where no event was ever written."""
    try:
        with open(path, "rb") as file:
            if not file.read(1):
                return None
    except FileNotFoundError:
        return None
    quoted = path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    # Nobody has it open, and it is read as it lies there: SQLite would make files beside it, of the reader's user. The
    # same where the reader may not write the log beside it.
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


def _condition(wanted: Filter) -> tuple[str, list[Any]]:
    parts, values = ["seq > ?"], [wanted.after]
    if wanted.before:
        parts.append("seq < ?")
        values.append(wanted.before)
    if wanted.since is not None:
        parts.append("at >= ?")
        values.append(int(wanted.since * 1000))
    if wanted.until is not None:
        parts.append("at <= ?")
        values.append(int(wanted.until * 1000))
    kinds: list[str] = []
    for kind in wanted.kinds:
        name, _, outcome = kind.partition(":")
        kinds.append("(kind = ? AND outcome = ?)" if outcome else "kind = ?")
        values += [name, outcome] if outcome else [name]  # type: ignore[list-item]
    if kinds:
        parts.append(f"({' OR '.join(kinds)})")
    if wanted.path:
        parts.append("kind IN ('change', 'sync')")
        literal = wanted.path[: min((wanted.path + mark).index(mark) for mark in "*?[")]
        if literal.isascii() and literal.isprintable() and '"' not in literal and "\\" not in literal:
            parts.append("instr(data, ?) > 0")
            values.append(literal)  # type: ignore[arg-type]
    return " AND ".join(parts), values


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
