"""The status board: one row per process in a shared page, so that liveness needs no socket.

Each field has one writer. The supervisor writes name, pid, incarnation, restarts, the moment of the start by two
clocks, and the states starting, down and failed. The process itself writes heartbeat, counters, and the states ready
and stopping. An operator's command writes the log level of all, the process `election` the lease of this node, net the
term by which the node was deposed. A field is eight aligned bytes, written at once, so a reader sees the old or the new
value; two fields may be of different moments.
"""

import contextlib
import mmap
import os
import sys
import time
from bisect import bisect_left
from collections.abc import Callable
from typing import NamedTuple

MAGIC = 0x636C7573_74657264
ROWS = 64
NAME_BYTES = 16
COUNTERS = 42
ROW_BYTES = 512
"""Name, six fields, COUNTERS counters, and the fields that begin with _BEGUN."""
LATE_BOUNDS_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5)
"""Upper bounds of the buckets in which a loop counts how late its heartbeats were; one more bucket has the rest."""
STATES = ("down", "starting", "ready", "stopping", "failed")
# Fields are items of a memoryview of 64-bit words. struct.pack_into clears the place first, so a reader could see half
# a number.
_PID, _INCARNATION, _STATE, _RESTARTS, _HEARTBEAT, _STARTED = (NAME_BYTES + 8 * n for n in range(6))
_FIRST_COUNTER = NAME_BYTES + 48
_BEGUN, _LOG_LOST, _LOG_ERRNO, _OWN_BYTES, _LATE_US = (_FIRST_COUNTER + 8 * (COUNTERS + n) for n in range(5))
_LATE = _LATE_US + 8
_LATE_BUCKETS = len(LATE_BOUNDS_S) + 1
SUPERVISOR = "supervisor"
LOG_LEVELS = 3
_LEVEL, _UNTIL = 1, 2
"""Words of the page's head: the log level that an operator asked for plus 1 (0: none), and until when it holds
(CLOCK_MONOTONIC in nanoseconds)."""
_LEAD_TERM, _LEAD_UNTIL = 3, 4
"""The term in which this node may lead, and until when (CLOCK_BOOTTIME in nanoseconds, which goes on while the machine
sleeps). 0: it may not."""
FOR_EVER_NS = (1 << 64) - 1
HANDED_OVER_NS = 1
"""It may not, and another node is about to: an end long ago."""
_DEPOSED = 8
"""Word of the page's head, written by net: the highest term in which another node leads, by which this one was
deposed."""

NET_COUNTERS = (
    "connections",
    "handshakes",
    "refused",
    "frames_in",
    "frames_out",
    "bytes_in",
    "bytes_out",
    "work_max_us",
    "work_over_5ms",
    "local_clients",
    "requests",
    "slabs",
    "slabs_free",
    "refused_key",
    "refused_hello",
    "refused_name",
    "refused_cluster",
    "refused_version",
    "refused_silent",
)
SYNC_COUNTERS = ("jobs_queued", "jobs_running", "tasks", "slabs", "slabs_free", "hurry")
STORE_COUNTERS = ("connections", "requests", "commits", "writes")
API_COUNTERS = ("connections", "requests", "refused", "failed")
MONITOR_COUNTERS = (
    *("events", "lost", "unwritten", "rows", "bytes"),
    *("hooks_run", "hooks_failed", "hooks_dropped"),
    "verdict",
)
VERDICTS = ("", "OK", "DEGRADED", "DOWN")
"""The monitor's counter `verdict` is a place in this list, for the supervisor: the first one is not known (yet)."""
POOL_COUNTERS = ("jobs_done", "jobs_failed", "busy_us")


def counters_of(name: str) -> tuple[str, ...]:
    """The counters of the process with this name."""
    if name == "net":
        return NET_COUNTERS
    if name == "sync":
        return SYNC_COUNTERS
    if name == "store":
        return STORE_COUNTERS
    if name == "api":
        return API_COUNTERS
    if name == "monitor":
        return MONITOR_COUNTERS
    return POOL_COUNTERS if name.startswith("pool-") else ()


class RowSnapshot(NamedTuple):
    """A row at one moment. `heartbeat_ns` is CLOCK_MONOTONIC; the start is `begun_ns` on that clock and `started_at_ns`
    on the wall clock; 0 means never. `log_lost`: lines that the process could not write to the log; `log_errno`: why
    its last attempt failed, 0 if it did not. `own_bytes`: memory that no other process shares, as the process has
    measured it, 0 if it has not. `late`: how many heartbeats were late, by the buckets of LATE_BOUNDS_S (empty for a
    process without a loop), `late_s`: by how much in all."""

    name: str
    pid: int
    incarnation: int
    state: str
    restarts: int
    heartbeat_ns: int
    started_at_ns: int
    counters: dict[str, int]
    log_lost: int = 0
    log_errno: int = 0
    own_bytes: int = 0
    late: tuple[int, ...] = ()
    late_s: float = 0.0
    begun_ns: int = 0


class BoardRow:
    """One process's row. `on_stamp`, if set in the process, is called with each heartbeat."""

    def __init__(self, words: memoryview, offset: int, name: str) -> None:
        self._words = words
        self._offset = offset
        self.name = name
        self.on_stamp: Callable[[], None] | None = None
        self._places = {counter: (offset + _FIRST_COUNTER) // 8 + n for n, counter in enumerate(counters_of(name))}

    @property
    def _late_fields(self) -> range:
        return range(_LATE, _LATE + 8 * _LATE_BUCKETS, 8)

    def _get(self, field: int) -> int:
        return int(self._words[(self._offset + field) // 8])

    def _put(self, field: int, value: int) -> None:
        self._words[(self._offset + field) // 8] = value

    # ---- the process itself ------------------------------------------------------------------------------------------

    def stamp(self) -> None:
        """Writes the heartbeat."""
        self._put(_HEARTBEAT, time.monotonic_ns())
        if self.on_stamp is not None:
            self.on_stamp()

    def set_log(self, lost: int, number: int) -> None:
        """Records the state of this process's log: how many lines are lost, and the errno of the last attempt."""
        self._put(_LOG_LOST, lost)
        self._put(_LOG_ERRNO, number)

    def set_own_bytes(self, count: int) -> None:
        self._put(_OWN_BYTES, count)

    def late(self, seconds: float) -> None:
        """Counts a heartbeat that came so much later than it was due: for so long the loop did something else."""
        bucket = bisect_left(LATE_BOUNDS_S, seconds)
        self._put(_LATE + 8 * bucket, self._get(_LATE + 8 * bucket) + 1)
        self._put(_LATE_US, self._get(_LATE_US) + int(max(0.0, seconds) * 1e6))

    def log_level(self) -> int | None:
        """See Board.log_level."""
        return _asked_level(self._words)

    def set_ready(self) -> None:
        self.stamp()
        self._put(_STATE, STATES.index("ready"))

    def set_stopping(self) -> None:
        self._put(_STATE, STATES.index("stopping"))

    def add(self, counter: str, count: int) -> None:
        place = self._places[counter]
        self._words[place] += count

    def get(self, counter: str) -> int:
        return int(self._words[self._places[counter]])

    def set(self, counter: str, count: int) -> None:
        self._words[self._places[counter]] = count

    # ---- the supervisor ----------------------------------------------------------------------------------------------

    def begin(self, pid: int, incarnation: int) -> None:
        """Assigns the row to a new process: its heartbeat and counters start anew."""
        for place in self._places.values():
            self._words[place] = 0
        for field in (_LOG_LOST, _LOG_ERRNO, _OWN_BYTES, _LATE_US, *self._late_fields):
            self._put(field, 0)
        self._put(_PID, pid)
        self._put(_INCARNATION, incarnation)
        self._put(_STARTED, time.time_ns())
        self._put(_BEGUN, time.monotonic_ns())
        self._put(_HEARTBEAT, time.monotonic_ns())
        self._put(_STATE, STATES.index("starting"))

    def set_pid(self, pid: int) -> None:
        self._put(_PID, pid)

    def set_down(self, *, failed: bool = False) -> None:
        """The process has ended; `failed`: it will not be replaced."""
        self._put(_PID, 0)
        self._put(_STATE, STATES.index("failed" if failed else "down"))

    def set_restarts(self, count: int) -> None:
        self._put(_RESTARTS, count)

    @property
    def state(self) -> str:
        """As in a snapshot, at a fraction of its cost."""
        state = self._get(_STATE)
        return STATES[state] if state < len(STATES) else "down"

    def snapshot(self) -> RowSnapshot:
        late = tuple(self._get(field) for field in self._late_fields)
        return RowSnapshot(
            self.name,
            self._get(_PID),
            self._get(_INCARNATION),
            self.state,
            self._get(_RESTARTS),
            self._get(_HEARTBEAT),
            self._get(_STARTED),
            {counter: int(self._words[place]) for counter, place in self._places.items()},
            self._get(_LOG_LOST),
            self._get(_LOG_ERRNO),
            self._get(_OWN_BYTES),
            late if any(late) else (),
            self._get(_LATE_US) / 1e6,
            self._get(_BEGUN),
        )


class Board:
    """The page with all rows. Rows are never removed."""

    def __init__(self, memory: memoryview, unmap: Callable[[], None]) -> None:
        """`unmap`: called when no view of the memory is left."""
        self._memory = memory
        self._unmap = unmap
        self._words = memory.cast("Q")
        self._rows: dict[str, BoardRow] = {}

    @classmethod
    def create(cls, path: str) -> "Board":
        """Creates the file (0600); the supervisor does so once, before it forks. An existing file is unlinked and not
        truncated: truncation would kill its readers. Raises OSError."""
        from ipc.mapping import Mapping  # loads ctypes: not for those who only read

        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            # Allocate it: on a full disk the first access to a hole would be a SIGBUS, in our process or in a reader's.
            os.posix_fallocate(fd, 0, (ROWS + 1) * ROW_BYTES)
            mapping = Mapping(fd, (ROWS + 1) * ROW_BYTES)
        finally:
            os.close(fd)
        board = cls(mapping.memory, mapping.close)
        board._words[0] = MAGIC
        return board

    @classmethod
    def open(cls, path: str) -> "Board":
        """Maps an existing board for reading; keeps a descriptor of it until `close`. Raises OSError, or ValueError for
        a file that is no board."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if os.fstat(fd).st_size != (ROWS + 1) * ROW_BYTES:
                raise ValueError(f"{path} is no status board")
            mapping = mmap.mmap(fd, (ROWS + 1) * ROW_BYTES, access=mmap.ACCESS_READ)
        finally:
            os.close(fd)
        board = cls(memoryview(mapping), mapping.close)
        if board._words[0] != MAGIC:
            board.close()
            raise ValueError(f"{path} is no status board")
        return board

    def add_row(self, name: str) -> BoardRow:
        """Adds a row for a process; in the supervisor, before the fork. Raises ValueError when the board is full."""
        encoded = name.encode()
        if len(encoded) > NAME_BYTES:
            raise ValueError(f"a process name has at most {NAME_BYTES} bytes: {name}")
        for place in range(ROWS):
            offset = (place + 1) * ROW_BYTES
            if not self._name_at(offset):
                self._memory[offset : offset + len(encoded)] = encoded
                return self.row(name)
        raise ValueError(f"the board has no room for more than {ROWS} processes")

    def row(self, name: str) -> BoardRow:
        """The row of this process. Raises KeyError for an unknown name."""
        row = self._rows.get(name)
        if row is None:
            for place in range(ROWS):
                offset = (place + 1) * ROW_BYTES
                if self._name_at(offset) == name:
                    row = self._rows[name] = BoardRow(self._words, offset, name)
                    return row
            raise KeyError(name)
        return row

    def rows(self) -> list[RowSnapshot]:
        """All rows in the order in which they were added."""
        names = [self._name_at((place + 1) * ROW_BYTES) for place in range(ROWS)]
        return [self.row(name).snapshot() for name in names if name]

    def depose(self, term: int) -> None:
        """In net: another node leads in this term. No process of this node acts as a master of it or an earlier one."""
        self._words[_DEPOSED] = max(term, self._words[_DEPOSED])

    @property
    def deposed_term(self) -> int:
        """The term by which this node was deposed since it was started; 0: it was not."""
        return int(self._words[_DEPOSED])

    def log_level(self) -> int | None:
        """The log level (0 to 2) that an operator asked for while the node runs; None without one, or when its time is
        over."""
        return _asked_level(self._words)

    def log_level_left_s(self) -> float:
        """For how many more seconds that level holds."""
        return max(0.0, (self._words[_UNTIL] - time.monotonic_ns()) / 1e9)

    def set_lead(self, term: int, until_ns: int) -> None:
        """In the process `election` only. `until_ns` 0: this node does not lead; FOR_EVER_NS: without an end;
        HANDED_OVER_NS."""
        if term != self._words[_LEAD_TERM]:
            # No reader may see the end of one term beside the number of another: see `lead`.
            self._words[_LEAD_UNTIL] = 0
            self._words[_LEAD_TERM] = term
        self._words[_LEAD_UNTIL] = until_ns

    def lead(self) -> tuple[int, int]:
        """The term in which this node may lead and until when. An end that is read belongs to the term that is read
        after it, or to an earlier one."""
        until_ns = int(self._words[_LEAD_UNTIL])
        return int(self._words[_LEAD_TERM]), until_ns

    def close(self) -> None:
        self._rows.clear()
        self._words.release()
        self._memory.release()
        self._unmap()

    def _name_at(self, offset: int) -> str:
        return bytes(self._memory[offset : offset + NAME_BYTES]).rstrip(b"\0").decode()


def ask_log_level(path: str, level: int | None, for_s: float) -> None:
    """Sets the log level of every process of the node at this board for that time; None: back to the configured level.
    Raises OSError, or ValueError for a file that is no board."""
    Board.open(path).close()
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        until = time.monotonic_ns() + int(for_s * 1e9)
        # Write the end first: a level must never be without one.
        for place, value in ((_UNTIL, until), (_LEVEL, 0 if level is None else level + 1)):
            os.pwrite(fd, value.to_bytes(8, sys.byteorder), place * 8)
    finally:
        os.close(fd)


def _asked_level(words: memoryview) -> int | None:
    asked = int(words[_LEVEL])
    return asked - 1 if 0 < asked <= LOG_LEVELS and time.monotonic_ns() < words[_UNTIL] else None
