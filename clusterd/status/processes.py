"""The processes of a node as `status` shows them: from the board, and from /proc how much CPU they use."""

import os
import time
from typing import Any

from ipc.board import RowSnapshot

BACKGROUND_NAME = "pool-0"
"""The pool process with the lane "background" of ipc/job_queue.py."""
CPU_SAMPLE_S = 0.2
_TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")
_UTIME, _STIME = 11, 12
"""Fields of /proc/PID/stat after the name in brackets."""


def class_of(name: str) -> str:
    """The class of a process by its name on the board: `prompt`, `compute`, `background`, or `normal`."""
    if name == "net":
        return "prompt"
    if name == BACKGROUND_NAME:
        return "background"
    return "compute" if name.startswith("pool-") else "normal"


class ProcessReader:
    """Keeps how much CPU each process had used, so that its share is that between two reads."""

    def __init__(self, *, may_wait: bool) -> None:
        """`may_wait`: the first read of a process takes CPU_SAMPLE_S, or its CPU would be null."""
        self._may_wait = may_wait
        self._samples: dict[int, tuple[float, float]] = {}
        """Of each process the CPU seconds that it had used, and when."""
        self._is_new = False

    def begin(self, rows: list[RowSnapshot]) -> None:
        """Takes a sample of those processes that have none. What is done until `read` is called shortens its wait."""
        present = {row.pid for row in rows if row.pid}
        self._samples = {pid: sample for pid, sample in self._samples.items() if pid in present}
        for pid in present - self._samples.keys() if self._may_wait else ():
            used = _cpu_s(pid)
            if used is not None:
                self._samples[pid] = used, time.monotonic()
                self._is_new = True

    def read(self, rows: list[RowSnapshot]) -> list[dict[str, Any]]:
        """Returns the members of `processes`."""
        if self._is_new:
            since = max((at for _, at in self._samples.values()), default=0.0)
            time.sleep(max(0.0, since + CPU_SAMPLE_S - time.monotonic()))
            self._is_new = False
        return [self._facts(row) for row in rows]

    def _facts(self, row: RowSnapshot) -> dict[str, Any]:
        used = _cpu_s(row.pid) if row.pid and row.state not in ("down", "failed") else None
        lives = used is not None
        return {
            "name": row.name,
            "pid": row.pid if lives else None,
            "incarnation": row.incarnation,
            "state": row.state,
            "class": class_of(row.name),
            "silent_s": round(max(0.0, time.monotonic() - row.heartbeat_ns / 1e9), 1) if lives else None,
            "cpu_percent": None if used is None else self._percent(row.pid, used),
            "uss_bytes": row.own_bytes or None if lives else None,
            "restarts": row.restarts,
            "log_lines_lost": row.log_lost,
        }

    def _percent(self, pid: int, used_s: float) -> float | None:
        now, before = time.monotonic(), self._samples.get(pid)
        self._samples[pid] = used_s, now
        if before is None or now <= before[1]:
            return None
        return round(max(0.0, used_s - before[0]) / (now - before[1]) * 100, 1)


def _cpu_s(pid: int) -> float | None:
    """The CPU time of a process's threads so far; None for one that has ended or is hidden by /proc."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b") ")[2].split()
        return (int(fields[_UTIME]) + int(fields[_STIME])) * _TICK_S
    except (OSError, ValueError, IndexError):
        return None
