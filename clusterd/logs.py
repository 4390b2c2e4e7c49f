"""The log of a node: `{YYYY/MM/DD HH:MM:SS} {LEVEL}: [{tag}] [{subtag}] {message}` (wire.md 9.1).

Every process of the node appends to one file, each line in one write, so lines never mix. The file may be moved away at
any time (by logrotate, or our own nightly job) without notice: each process checks whether the file is still the same.
A process that cannot write reports it in its row of the board, which `clusterd status` reads, and tries again with each
line and each heartbeat.
"""

import errno
import json
import os
import time
from collections.abc import Callable, Hashable
from typing import Literal, Protocol, TextIO

from clusterd.foreground import Foreground
from clusterd.printable import printable, printable_log

LEVELS = {"DEBUG2": 5, "DEBUG": 10, "INFO": 20, "WARNING": 30, "ERROR": 40}
THRESHOLDS = (20, 10, 5)
"""Thresholds of the log levels 0, 1 and 2 (wire.md 7.4)."""
CHECK_S = 1.0
"""How often a process checks whether its file was moved away."""


OF_A_WORKER = "Worker "
"""How the tag of a master's lines about one worker begins."""
MOST_LINES = 600
MOST_CHARACTERS = 262144
PERIOD_S = 10.0
"""Lines about one worker are few, but a worker that has gone wrong may cause thousands in a second: this is what each
process writes of them in a period, before the disk is full of them. Those of DEBUG were asked for by an operator."""

TURNS = 5
TURN_S = 0.0005
"""How often, and how long each time, a process waits for another one to finish its line."""


class LogRow(Protocol):
    """The process's row of the board: reports the state of the log, and tells the level that an operator asked for."""

    on_stamp: Callable[[], None] | None

    def log_level(self) -> int | None: ...

    def set_log(self, lost: int, number: int) -> None: ...


class Log:
    """Writes lines. Never raises: with a full disk lines are lost and counted, and the node goes on. `lost`: total;
    `errno`: of the last attempt, 0 if it succeeded."""

    def __init__(
        self,
        path: str,
        level: int = 0,
        log_format: Literal["text", "json"] = "text",
        *,
        stream: TextIO | Foreground | None = None,
        descriptor: int | None = None,
    ) -> None:
        """`level` 0 to 2; `stream` gets a copy of each line (foreground); `descriptor`: the number that the file is
        open as, in place of what was (a daemon's standard output: it is open anyway)."""
        self._path = path
        self._threshold = THRESHOLDS[level]
        self._format = log_format
        self._stream = stream
        self._unread = 0
        self._descriptor = descriptor
        self._fd = -1
        self._identity: tuple[int, int] | None = None
        self._checked_at = 0.0
        self._tried_at = 0.0
        self._told = 0
        self._floods: FloodGate | None = None
        self._row: LogRow | None = None
        self._shown = (0, 0)
        self.lost = 0
        self.errno = 0

    def report_to(self, row: LogRow) -> None:
        """Reports to this row from now on. A child starts with no lost lines."""
        self._row = row
        self._shown = (0, 0)
        self.lost = self._told = self.errno = 0

    def report_to_nobody(self) -> None:
        """The board is closed: stops reporting."""
        self._row = None

    def bound_workers(self) -> None:
        """Bounds the lines about each worker from now on. For the processes of a master: a worker's own lines begin in
        the same way."""
        self._floods = FloodGate()

    def set_level(self, level: int) -> None:
        self._threshold = THRESHOLDS[level]

    def is_on(self, level: str) -> bool:
        """Whether lines of this level are written, for callers whose lines are expensive to build."""
        asked = self._row.log_level() if self._row is not None else None
        return LEVELS[level] >= (self._threshold if asked is None else THRESHOLDS[asked])

    def line(self, level: str, tag: str, subtag: str, text: str) -> None:
        """Writes one line (which may span several, as a traceback does). Text from outside cannot begin another line,
        nor reach the reader's terminal as control characters."""
        if not self.is_on(level):
            return
        if self._floods is not None and tag.startswith(OF_A_WORKER) and LEVELS[level] >= LEVELS["INFO"]:
            admitted = self._floods.admit(tag, len(text), time.monotonic())
            if admitted == "no":
                return
            if admitted == "the last":
                level, subtag, text = "WARNING", "Log", TOO_MUCH
        tag, subtag = printable(tag), printable(subtag)
        text = printable_log(text) if level == "ERROR" else printable(text)
        whole = self._whole(level, tag, subtag, text)
        self._append(whole.encode("utf-8", "backslashreplace"))
        if self._stream is not None:
            self._copy(self._stream, whole)

    def _copy(self, stream: TextIO | Foreground, whole: str) -> None:
        """The first line that is read again is preceded by the number of those that nobody read."""
        missing = f"{self._unread} lines were left out here: nobody read them."
        try:
            stream.write((self._whole("WARNING", "Cluster", "Log", missing) if self._unread else "") + whole)
            stream.flush()
            self._unread = 0
        except BlockingIOError:
            self._unread += 1
        except (OSError, ValueError):
            self._stream = None

    def _whole(self, level: str, tag: str, subtag: str, text: str) -> str:
        moment = time.strftime("%Y/%m/%d %H:%M:%S")
        if self._format == "json":
            return json.dumps({"time": moment, "level": level, "tag": tag, "subtag": subtag, "message": text}) + "\n"
        return f"{moment} {level}: [{tag}] [{subtag}] {text}\n"

    def _append(self, data: bytes) -> None:
        """The first line that can be written again is preceded by the number of lost lines."""
        try:
            self._follow()
            if self.lost > self._told:
                missing = f"{self.lost - self._told} lines could not be written here."
                self._write(self._whole("WARNING", "Cluster", "Log", missing).encode())
                self._told = self.lost
            if data:
                self._write(data)
        except OSError as failure:
            self._let_go()
            self.lost += 1 if data else 0
            self.errno = failure.errno or errno.EIO
        self._tell()

    def _write(self, data: bytes) -> None:
        """Writes a line at once. A full disk may have torn the previous line, ours or another process's: it gets its
        line end first."""
        view = memoryview(data if self._ends_a_line() else b"\n" + data)
        while view:
            view = view[os.write(self._fd, view) :]

    def _ends_a_line(self) -> bool:
        size = -1
        for _ in range(TURNS):
            before, size = size, os.fstat(self._fd).st_size
            if size == 0 or os.pread(self._fd, 1, size - 1) == b"\n":
                return True
            if size == before:
                return False
            time.sleep(TURN_S)
        return True

    def _tell(self) -> None:
        if self._row is not None and (self.lost, self.errno) != self._shown:
            self._shown = (self.lost, self.errno)
            self._row.set_log(self.lost, self.errno)
            self._row.on_stamp = self._try_again if self.errno else None

    def _try_again(self) -> None:
        """Lets a process without anything to log find out that the log can be written again."""
        now = time.monotonic()
        if now - self._tried_at >= CHECK_S:
            self._tried_at = now
            self._append(b"")

    def _follow(self) -> None:
        """Opens the file, and again after it was replaced or removed. While the new file cannot be opened, lines
        continue in the moved one, and `errno` says so."""
        now = time.monotonic()
        if self._fd >= 0 and not self.errno:
            if now - self._checked_at < CHECK_S:
                return
            self._checked_at = now
            try:
                found = os.stat(self._path)
                if (found.st_dev, found.st_ino) == self._identity:
                    return
            except OSError:
                pass
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o660)
        except OSError as failure:
            if self._fd < 0 or os.fstat(self._fd).st_nlink == 0:
                raise
            self.errno = failure.errno or errno.EIO
            return
        self._let_go()
        if self._descriptor is not None:
            os.dup2(fd, self._descriptor)
            os.close(fd)
            fd = self._descriptor
        status = os.fstat(fd)
        self._fd, self.errno = fd, 0
        self._identity = (status.st_dev, status.st_ino)
        self._checked_at = now

    def _let_go(self) -> None:
        if self._fd >= 0:
            if self._descriptor is None:
                os.close(self._fd)
            self._fd = -1

    def close(self) -> None:
        self._let_go()


TOO_MUCH = (
    f"More than {MOST_LINES} lines or {MOST_CHARACTERS // 1024} KiB about this worker in {PERIOD_S:g} s: the others of "
    "this time are left out."
)


class FloodGate:
    """Counts the lines of each tag. Remembers at most `tags` of them."""

    def __init__(self, tags: int = 4096) -> None:
        self._tags = tags
        self._spent: dict[str, tuple[float, int, int]] = {}

    def admit(self, tag: str, size: int, now: float) -> Literal["yes", "the last", "no"]:
        """Whether a line of `size` characters is written; "the last": the text that no more are, in its place."""
        since, lines, characters = self._spent.get(tag, (now, 0, 0))
        if now - since >= PERIOD_S:
            since, lines, characters = now, 0, 0
        was_full = lines > MOST_LINES or characters > MOST_CHARACTERS
        self._spent.pop(tag, None)
        if len(self._spent) >= self._tags:
            del self._spent[next(iter(self._spent))]
        self._spent[tag] = since, lines + 1, characters + size
        if was_full:
            return "no"
        return "yes" if lines < MOST_LINES and characters + size <= MOST_CHARACTERS else "the last"


class RateLimiter:
    """Allows one line per key and `period_s` and counts the others. Remembers at most `keys` keys."""

    def __init__(self, period_s: float, keys: int = 4096) -> None:
        self._period_s = period_s
        self._keys = keys
        self._seen: dict[Hashable, tuple[float, int]] = {}

    def admit(self, key: Hashable, now: float) -> int | None:
        """None: suppress this line. Else how many were suppressed since the last one."""
        since, left_out = self._seen.get(key, (float("-inf"), 0))
        if now - since < self._period_s:
            self._seen[key] = (since, left_out + 1)
            return None
        self._seen.pop(key, None)
        if len(self._seen) >= self._keys:
            del self._seen[next(iter(self._seen))]
        self._seen[key] = (now, 0)
        return left_out
