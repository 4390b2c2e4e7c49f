"""Deadlines for what other processes are to do, on a machine that has other things to do, too."""

import os
import time

LOOK_SHARE = 4
WAITED_SHARE = 20


class Patience:
    """A deadline that bears any load: a second counts as much as a process gets of a core in it. On two cores with 20
    busy processes a minute lasts ten."""

    def __init__(self, seconds: float) -> None:
        self._left = seconds
        self._began = self._looked = time.monotonic()
        self._rested, self._spent = self._looked, time.thread_time()

    def is_over(self) -> bool:
        """To be asked in each round of a loop that waits: the load is that of this moment."""
        now = time.monotonic()
        self._left -= (now - self._looked) / slowness()
        self._looked = now
        return self._left < 0

    def rest(self, least_s: float) -> None:
        """Sleeps until the next look: for `least_s`, or as long as the last look took (a quarter of a second at most),
        or four times the CPU time that it took here (a second at most), or a twentieth of the time since the first look
        (50 ms at most). So looking at thousands of files, or at one node again and again, does not take the CPU from
        the nodes that do the work."""
        now = time.monotonic()
        took_s, spent_s = now - self._rested, time.thread_time() - self._spent
        waited_s = (now - self._began) / WAITED_SHARE
        time.sleep(max(least_s, min(0.25, took_s), min(1.0, LOOK_SHARE * spent_s), min(0.05, waited_s)))
        self._rested, self._spent = time.monotonic(), time.thread_time()


def slowness() -> float:
    """How many times as long as on an idle machine something takes now."""
    return max(1.0, _runnable() / len(os.sched_getaffinity(0)))


def _runnable() -> int:
    """How many threads of this machine run or wait for a core."""
    with open("/proc/loadavg", encoding="ascii") as file:
        return max(1, int(file.read().split()[3].partition("/")[0]))
