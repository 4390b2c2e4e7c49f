"""CPU priorities of the node's processes when every core is busy (architecture.md, section 1)."""

import contextlib
import ctypes
import os
import platform
import struct

from clusterd.rights import own_files_of_proc

BACKGROUND_NICE = 10
LONG_SLICE_NS = 3_000_000
PROMPT_SLICE_NS = 100_000
"""0.1 ms, the shortest slice. A process with a shorter slice preempts one with a longer slice as soon as it wakes up;
otherwise it may wait for the next tick, up to 4 ms. Linux 6.12 and later know slices, earlier ones ignore them."""

_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274, "riscv64": 274, "ppc64le": 355, "s390x": 345}
_ATTRIBUTES = struct.Struct("=IIQiIQQQII")
"""struct sched_attr of sched_setattr(2): size, policy, flags, nice, priority, runtime (the slice), four values unused
here."""


def compute() -> None:
    """For processes and threads whose results somebody waits for: they get the same share of the CPU as others, but let
    processes that wake up briefly run first."""
    with contextlib.suppress(PermissionError):
        # Some sandboxes forbid it; the node then works with slightly slower echoes.
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    _set_slice(os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0), LONG_SLICE_NS)


def run_in_background() -> None:
    """For a process with background work only: every other process goes first. Only root can undo it. Call it in the
    leader of its own session: where sessions share the CPU (autogroup), a process's nice value counts only within its
    session."""
    os.nice(BACKGROUND_NICE)
    with contextlib.suppress(OSError), own_files_of_proc(), open("/proc/self/autogroup", "w") as file:
        # Not available on every kernel, and limited to ten times a second for the whole system.
        file.write(str(BACKGROUND_NICE))
    compute()


def run_promptly() -> None:
    """For the process whose event loop peers wait for."""
    _set_slice(os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0), PROMPT_SLICE_NS)


def _set_slice(policy: int, nice: int, slice_ns: int) -> None:
    """No effect where the system lacks or forbids the call: only delays depend on it."""
    number = _SCHED_SETATTR.get(platform.machine())
    if number is None:
        return
    attributes = _ATTRIBUTES.pack(_ATTRIBUTES.size, policy, 0, nice, 0, slice_ns, 0, 0, 0, 0)
    ctypes.CDLL(None).syscall(number, 0, attributes, 0)
