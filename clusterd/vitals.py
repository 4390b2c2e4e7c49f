"""Finds out from /proc what a process without heartbeats does: compute, wait for a core, wait for the disk, or
nothing."""

import contextlib
import os
import time

import msgspec

_TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")
_STATE, _UTIME, _STIME = 0, 11, 12
"""Fields of /proc/PID/stat after the name in brackets."""
HIDDEN = "?"
"""The state of a process that /proc does not show (hidepid: nobody may look at a process that guards its memory)."""
STARVED_SHARE = 0.01
"""A hidden process that computes for at least this part of a time may have waited for a core in the rest: one that does
nothing uses less for its timers, and one among a hundred busy ones gets more of two cores. Or it hangs while one of its
threads works."""


class Sample(msgspec.Struct, frozen=True):
    """One sample of a process. `cpu_s`: CPU time of its threads so far; `queued_s`: time they have waited for a core;
    `state`: of its first thread, as ps shows it (R: runs or waits for a core, D: waits for the disk, S: sleeps, T:
    stopped by a signal, t: stopped by a debugger), or HIDDEN."""

    cpu_s: float
    queued_s: float
    state: str


class Spent(msgspec.Struct):
    """How a process has spent its time since some moment. A process that waits for a core is slow, not stuck."""

    idle_s: float = 0.0
    cpu_s: float = 0.0
    disk_s: float = 0.0
    queued_s: float = 0.0
    held_s: float = 0.0
    """Stopped by a debugger: somebody examines it, so it must not be ended."""
    unseen_s: float = 0.0
    """Of a hidden process that computes now and then: it waited for a core, or for something else."""

    def add(self, lasted_s: float, before: Sample | None, after: Sample | None) -> None:
        """What the process did between two samples. Time that no counter explains is attributed to the state at the
        end: the system adds a wait for a core to its counter only when it is over, and a kernel may have no such
        counter. A process that has ended counts as idle."""
        if before is None or after is None:
            self.idle_s += lasted_s
            return
        cpu_s = max(0.0, after.cpu_s - before.cpu_s)
        queued_s = min(max(0.0, after.queued_s - before.queued_s), lasted_s)
        rest_s = max(0.0, lasted_s - cpu_s - queued_s)
        self.cpu_s += cpu_s
        self.queued_s += queued_s
        if after.state == "R":
            self.queued_s += rest_s
        elif after.state == HIDDEN and cpu_s >= STARVED_SHARE * lasted_s:
            self.unseen_s += rest_s
        elif after.state == "D":
            self.disk_s += rest_s
        elif after.state == "t":
            self.held_s += rest_s
        else:
            self.idle_s += rest_s

    @property
    def waited_s(self) -> float:
        """Time that the process could not influence, as far as one can see."""
        return self.queued_s + self.disk_s + self.held_s + self.unseen_s

    @property
    def busy_s(self) -> float:
        """Time after which it must give a sign of life, though it may be at work."""
        return self.cpu_s + self.disk_s + self.unseen_s

    def __str__(self) -> str:
        parts = (
            (self.idle_s, "idle"),
            (self.cpu_s, "computing"),
            (self.disk_s, "waiting for the disk"),
            (self.queued_s, "waiting for a core"),
            (self.held_s, "held by a debugger"),
            (self.unseen_s, "working now and then"),
        )
        return ", ".join(f"{seconds:.0f} s {what}" for seconds, what in parts if seconds >= 0.5)


class Watch:
    """The time of one life of a child, by how it was spent. `silence` restarts with each heartbeat, `start` never
    does."""

    def __init__(self) -> None:
        self.silence = Spent()
        self.start = Spent()
        self.warned = False
        self._heard = -1
        self._before: Sample | None = None
        self._at: float | None = None

    def look(self, pid: int, heartbeat: int, now: float, shortest_s: float) -> None:
        """Records the child's last heartbeat and what it has done since the last sample. `shortest_s`: minimum time
        between two samples."""
        if self._at is None or now - self._at >= shortest_s:
            sample = read(pid)
            if self._at is not None:
                for spent in (self.silence, self.start):
                    spent.add(now - self._at, self._before, sample)
            self._before, self._at = sample, now
        if heartbeat != self._heard:
            self._heard, self.silence, self.warned = heartbeat, Spent(), False

    def skip(self) -> None:
        """The supervisor did not run for a while, and neither did the child: that time does not count."""
        self._at = None


def read(pid: int) -> Sample | None:
    """None for a process that has ended. Of one that /proc hides the system still tells the CPU time."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b") ")[2].split()
    except OSError:
        return _hidden(pid)
    if len(fields) <= _STIME:
        return None
    cpu_s = (int(fields[_UTIME]) + int(fields[_STIME])) * _TICK_S
    return Sample(cpu_s, _queued_s(pid), fields[_STATE].decode("ascii", "replace"))


def _hidden(pid: int) -> Sample | None:
    try:
        # What clock_getcpuclockid(3) returns for another process, of which Python has only the one for threads.
        return Sample(time.clock_gettime((~pid << 3) | 2), 0.0, HIDDEN)
    except OSError:
        return None


def _queued_s(pid: int) -> float:
    """0 where the kernel does not count it."""
    total = 0
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with (
                contextlib.suppress(OSError, ValueError, IndexError),
                open(f"/proc/{pid}/task/{thread}/schedstat") as file,
            ):
                total += int(file.read().split()[1])
    return total / 1e9
