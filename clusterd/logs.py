"""The log of a node: `{YYYY/MM/DD HH:MM:SS} {LEVEL}: [{tag}] [{subtag}] {message}` (wire.md 9.1).

Every process of the node appends to the same file, a line a write, so that lines never mix. Whoever moves the file away
(logrotate, or our own nightly job) need not tell anybody: a process looks whether the file is still the same one.
"""

import json
import os
import sys
import time
from collections.abc import Hashable
from typing import Literal, TextIO

from clusterd.printable import printable, printable_log

LEVELS = {"DEBUG2": 5, "DEBUG": 10, "INFO": 20, "WARNING": 30, "ERROR": 40}
THRESHOLDS = (20, 10, 5)
"""Of log levels 0, 1 and 2 (wire.md 7.4)."""
CHECK_S = 1.0
"""How often a process looks whether its file was moved away."""


class Log:
    """Writes lines. Never raises: with a full disk lines are lost and counted, the node goes on."""

    def __init__(
        self,
        path: str,
        level: int = 0,
        log_format: Literal["text", "json"] = "text",
        *,
        stream: TextIO | None = None,
    ) -> None:
        """`level` 0 to 2; `stream` gets a copy of each line (foreground)."""
        self._path = path
        self._threshold = THRESHOLDS[level]
        self._format = log_format
        self._stream = stream
        self._fd = -1
        self._identity: tuple[int, int] | None = None
        self._checked_at = 0.0
        self.lost = 0

    def set_level(self, level: int) -> None:
        self._threshold = THRESHOLDS[level]

    def is_on(self, level: str) -> bool:
        """Whether lines of this level are written: for lines that cost something to make."""
        return LEVELS[level] >= self._threshold

    def line(self, level: str, tag: str, subtag: str, text: str) -> None:
        """Write one line (which may span several, as a traceback does). Whatever others have put into its texts cannot begin
        another one, nor reach the terminal of whoever reads it."""
        if not self.is_on(level):
            return
        tag, subtag, text = printable(tag), printable(subtag), printable_log(text)
        moment = time.strftime("%Y/%m/%d %H:%M:%S")
        if self._format == "json":
            entry = {"time": moment, "level": level, "tag": tag, "subtag": subtag, "message": text}
            whole = json.dumps(entry) + "\n"
        else:
            whole = f"{moment} {level}: [{tag}] [{subtag}] {text}\n"
        self._append(whole.encode("utf-8", "backslashreplace"))
        if self._stream is not None:
            try:
                self._stream.write(whole)
                self._stream.flush()
            except (OSError, ValueError):
                self._stream = None

    def _append(self, data: bytes) -> None:
        try:
            self._follow()
            view = memoryview(data)
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError:
            self.lost += 1

    def _follow(self) -> None:
        """Open the file, again if another one has taken its place or it is gone."""
        now = time.monotonic()
        if self._fd >= 0:
            if now - self._checked_at < CHECK_S:
                return
            self._checked_at = now
            try:
                found = os.stat(self._path)
                if (found.st_dev, found.st_ino) == self._identity:
                    return
            except FileNotFoundError:
                pass
            os.close(self._fd)
            self._fd = -1
        self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o660)
        status = os.fstat(self._fd)
        self._identity = (status.st_dev, status.st_ino)
        self._checked_at = now

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def stderr_stream() -> TextIO:
    """Where the foreground's copy goes."""
    return sys.stderr


class RateLimiter:
    """One line per key and `period_s`; what was left out in between is counted. Remembers at most `keys` keys."""

    def __init__(self, period_s: float, keys: int = 4096) -> None:
        self._period_s = period_s
        self._keys = keys
        self._seen: dict[Hashable, tuple[float, int]] = {}

    def admit(self, key: Hashable, now: float) -> int | None:
        """None: leave this one out. Else how many were left out since the last one that was admitted."""
        since, left_out = self._seen.get(key, (float("-inf"), 0))
        if now - since < self._period_s:
            self._seen[key] = (since, left_out + 1)
            return None
        self._seen.pop(key, None)
        if len(self._seen) >= self._keys:
            del self._seen[next(iter(self._seen))]
        self._seen[key] = (now, 0)
        return left_out
