"""Reads the node's log as entries, and filters them. Shows nothing."""

import json
import os
import re
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import BinaryIO, NamedTuple

from clusterd.logs import CHECK_S, LEVELS

LINE = re.compile(
    r"(\d{4}/\d\d/\d\d \d\d:\d\d:\d\d) (DEBUG2|DEBUG|INFO|WARNING|ERROR): \[([^\]]*)\] \[([^\]]*)\] ?(.*)"
)
BLOCK = 65536
POLL_S = 0.2
STRAGGLERS_S = 3 * CHECK_S
"""How long a log that was moved away is still read: each process looks once in CHECK_S where to write."""


class Entry(NamedTuple):
    """`text`: the whole entry as in the file, without its last line end. It has several lines if lines follow that
    begin no entry of their own (a stack)."""

    level: str
    tag: str
    subtag: str
    text: str


class WantedLines(NamedTuple):
    """`level`: the lowest level; `node`: only lines about this node (its tag, or its name in the text); `pattern`:
    found in the entry."""

    level: str = "DEBUG2"
    node: str = ""
    pattern: re.Pattern[str] | None = None

    def takes(self, entry: Entry) -> bool:
        if LEVELS[entry.level] < LEVELS[self.level]:
            return False
        if self.node and not is_about(entry, self.node):
            return False
        return self.pattern is None or self.pattern.search(entry.text) is not None


def is_about(entry: Entry, node: str) -> bool:
    if node in entry.tag.split():
        return True
    return re.search(rf"(?<![\w.-]){re.escape(node)}(?![\w-])", entry.text) is not None


def entry_of(line: str) -> Entry | None:
    """Returns the entry that a line begins, in either format; None for a line that continues the one before it."""
    found = LINE.fullmatch(line)
    if found is not None:
        return Entry(found[2], found[3], found[4], line)
    if line.startswith('{"time"'):
        try:
            row = json.loads(line)
            return Entry(row["level"], row["tag"], row["subtag"], line) if row["level"] in LEVELS else None
        except (ValueError, KeyError, TypeError):
            return None
    return None


def entries(lines: Iterable[str]) -> Iterator[Entry]:
    """Yields the entries. Lines before the first beginning of an entry are left out, because the rest of their entry is
    missing."""
    current: Entry | None = None
    for line in lines:
        begun = entry_of(line)
        if begun is not None:
            if current is not None:
                yield current
            current = begun
        elif current is not None:
            current = current._replace(text=f"{current.text}\n{line}")
    if current is not None:
        yield current


def last(path: str, count: int, wanted: WantedLines) -> tuple[list[Entry], int]:
    """Returns the last `count` entries that match, oldest first, and the offset up to which the file was read. Raises
    OSError."""
    with open(path, "rb") as file:
        end = file.seek(0, os.SEEK_END)
        found: deque[Entry] = deque()
        for entry in _backwards(file, end):
            if wanted.takes(entry):
                found.appendleft(entry)
                if len(found) >= count:
                    break
        return list(found), end


def _backwards(file: BinaryIO, end: int) -> Iterator[Entry]:
    """Yields entries from the last one to the first, in bounded memory."""
    later: list[str] = []
    for line in _lines_backwards(file, end):
        begun = entry_of(line)
        if begun is None:
            later.append(line)
            continue
        if later:
            begun = begun._replace(text="\n".join([begun.text, *reversed(later)]))
            later = []
        yield begun


def _lines_backwards(file: BinaryIO, end: int) -> Iterator[str]:
    rest, position, is_last = b"", end, True
    while position:
        start = max(0, position - BLOCK)
        file.seek(start)
        block = file.read(position - start) + rest
        if is_last:
            block, is_last = block.removesuffix(b"\n"), False
        rest, *lines = block.split(b"\n")
        for line in reversed(lines):
            yield line.decode("utf-8", "replace")
        position = start
    if rest:
        yield rest.decode("utf-8", "replace")


class _Followed:
    """One file of the log, read as it grows."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.until: float | None = None
        """Once another file has its name: how long processes may go on writing into this one. Monotonic seconds."""
        self._rest = b""

    def lines(self) -> list[str]:
        """The whole lines that have come since the last call; none once it has been read to its end."""
        while data := self.file.read(BLOCK):
            *lines, self._rest = (self._rest + data).split(b"\n")
            if lines:
                return [line.decode("utf-8", "replace") for line in lines]
        return []


def follow(path: str, offset: int, wanted: WantedLines) -> Iterator[Entry | None]:
    """Yields entries as they are written, from `offset` on; None while there are none. Continues in the file that
    replaces this one, and in this one as long as processes of the node may not have noticed."""
    files = _opened(path, offset)
    try:
        while True:
            for one in files:
                while lines := one.lines():
                    yield from (entry for entry in entries(lines) if wanted.takes(entry))
            now = time.monotonic()
            for one in [one for one in files if one.until is not None and now >= one.until]:
                files.remove(one)
                one.file.close()
            newest = files[-1] if files and files[-1].until is None else None
            if newest is None or _was_replaced(newest.file, path):
                if newest is not None:
                    newest.until = now + STRAGGLERS_S
                files += _opened(path, 0)
            yield None
            time.sleep(POLL_S)
    finally:
        for one in files:
            one.file.close()


def _opened(path: str, offset: int) -> list[_Followed]:
    """None, or one."""
    file = _open(path)
    if file is None:
        return []
    file.seek(offset)
    return [_Followed(file)]


def _open(path: str) -> BinaryIO | None:
    try:
        return open(path, "rb")
    except FileNotFoundError:
        return None


def _was_replaced(file: BinaryIO, path: str) -> bool:
    """Tells whether the file was moved away or truncated."""
    ours = os.fstat(file.fileno())
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return True
    return (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino) or there.st_size < file.tell()
