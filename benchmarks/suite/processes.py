"""What processes have used: CPU time in nanoseconds of the scheduler's own count, memory that is not shared."""

import contextlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil


def family(pid: int) -> list[int]:
    """Returns a process and all its living descendants."""
    try:
        parent = psutil.Process(pid)
        return [pid, *(child.pid for child in parent.children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


def cpu_s(pids: list[int]) -> float:
    """Returns the CPU seconds so far of all living threads; a process that has ended counts nothing."""
    total = 0
    for pid in pids:
        try:
            threads = os.listdir(f"/proc/{pid}/task")
        except FileNotFoundError:
            continue
        for thread in threads:
            try:
                total += int(Path(f"/proc/{pid}/task/{thread}/schedstat").read_text().split()[0])
            except (FileNotFoundError, ProcessLookupError):
                continue
    return total / 1e9


@dataclass
class Peak:
    """The highest values seen, in MB."""

    uss: float = 0.0
    pss: float = 0.0


@contextlib.contextmanager
def peak_of(pid: int, pause_s: float = 0.05) -> Iterator[Peak]:
    """Looks at a process and its descendants repeatedly during the block. That stops each of them for a moment, so no
    run with it may measure anything else."""
    found = Peak()
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(pause_s):
            uss, pss = memory_mb(family(pid))
            found.uss, found.pss = max(found.uss, uss), max(found.pss, pss)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()


def memory_mb(pids: list[int]) -> tuple[float, float]:
    """(USS, PSS) of all of them together in MB."""
    uss = pss = 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        for line in text.splitlines():
            if line.startswith(("Private_Clean:", "Private_Dirty:", "Private_Hugetlb:")):
                uss += int(line.split()[1])
            elif line.startswith("Pss:"):
                pss += int(line.split()[1])
    return uss / 1024, pss / 1024
