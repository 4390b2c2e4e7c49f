"""What processes have used: CPU time in nanoseconds of the scheduler's own count, memory that is theirs alone."""

import os
from pathlib import Path

import psutil


def family(pid: int) -> list[int]:
    """A process and all its descendants, as far as they live."""
    try:
        parent = psutil.Process(pid)
        return [pid, *(child.pid for child in parent.children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


def cpu_s(pids: list[int]) -> float:
    """CPU seconds so far of all threads that live; a process that is gone counts nothing."""
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
