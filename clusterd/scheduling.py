"""Who of the node's processes runs first when every core is busy (architecture.md, section 1)."""

import contextlib
import ctypes
import os
import platform
import struct

from clusterd.rights import own_files_of_proc

BACKGROUND_NICE = 10
LONG_SLICE_NS = 3_000_000
PROMPT_SLICE_NS = 100_000
"""0.1 ms, the shortest there is. A process that wakes up is let in at once before one with a longer slice; otherwise it may
wait for the next tick, up to 4 ms later. Linux 6.12 and later know slices, earlier ones take no notice."""

BACKGROUND_NAME = "pool-0"
"""The pool process that has the lane "background" of ipc/job_queue.py."""

_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274, "riscv64": 274, "ppc64le": 355, "s390x": 345}
_ATTRIBUTES = struct.Struct("=IIQiIQQQII")
"""struct sched_attr of sched_setattr(2): size, policy, flags, nice, priority, runtime (the slice), four values unused here."""


def class_of(name: str) -> str:
    """The class of a process by its name on the board: `prompt`, `compute`, `background`, or `normal`."""
    if name == "net":
        return "prompt"
    if name == BACKGROUND_NAME:
        return "background"
    return "compute" if name.startswith("pool-") else "normal"


def compute() -> None:
    """For processes, and threads, that compute what somebody waits for: they have the same share of the CPU as others, but let
    those in that wake up for a moment."""
    with contextlib.suppress(PermissionError):
        # Some sandboxes forbid it; the node then works with somewhat later echoes.
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    _set_slice(os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0), LONG_SLICE_NS)


def run_in_background() -> None:
    """For a process that does only what nobody waits for: everybody else goes first. There is no way back for a process that
    is not root's. To be called by the leader of a session of its own: where sessions share the CPU fairly among them
    (autogroup), the nice value of a process counts only inside its session."""
    os.nice(BACKGROUND_NICE)
    with contextlib.suppress(OSError), own_files_of_proc(), open("/proc/self/autogroup", "w") as file:
        # Not on every kernel, and at most ten times a second in the whole system.
        file.write(str(BACKGROUND_NICE))
    compute()


def run_promptly() -> None:
    """For the process with the event loop that peers wait for."""
    _set_slice(os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0), PROMPT_SLICE_NS)


def _set_slice(policy: int, nice: int, slice_ns: int) -> None:
    """Without effect where the system does not know the call or forbids it: nothing depends on it but delays."""
    number = _SCHED_SETATTR.get(platform.machine())
    if number is None:
        return
    attributes = _ATTRIBUTES.pack(_ATTRIBUTES.size, policy, 0, nice, 0, slice_ns, 0, 0, 0, 0)
    ctypes.CDLL(None).syscall(number, 0, attributes, 0)
