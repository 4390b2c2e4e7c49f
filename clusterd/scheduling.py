"""CPU priorities of the node's processes when every core is busy (architecture.md, section 1)."""

import contextlib
import ctypes
import os
import platform
import resource
import struct
import time

from clusterd.rights import own_files_of_proc

BACKGROUND_NICE = 10
PROMPT_NICE = -10
"""About nine times the weight of a process with nice 0. Whoever has used more than its share of a core waits until the
others have had theirs, and the kernel looks only at its next tick, up to 4 ms later. A process that uses a fifth of a
core, but in short bursts, is often in that state; with this weight hardly ever."""
LONG_SLICE_NS = 3_000_000
PROMPT_SLICE_NS = 100_000
"""0.1 ms, the shortest slice. A process with a shorter slice preempts one with a longer slice as soon as it wakes up;
otherwise it may wait for the next tick, up to 4 ms. Linux 6.12 and later know slices, earlier ones ignore them."""

_MOST_NICE = 20 - PROMPT_NICE
"""How RLIMIT_NICE counts."""
_SESSION_TRIES = 3
_SESSION_PAUSE_S = 0.11
"""The kernel takes nice values of sessions ten times a second, for the whole system, from all but root."""

_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274, "riscv64": 274, "ppc64le": 355, "s390x": 345}
_ATTRIBUTES = struct.Struct("=IIQiIQQQII")
"""struct sched_attr of sched_setattr(2): size, policy, flags, nice, priority, runtime (the slice), four values unused
here."""


def allow_prompt_nice() -> None:
    """For the supervisor while it is root: one of its children may take PROMPT_NICE, although all of them run as
    another user. No effect where the system forbids it (a container)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NICE)
    if hard != resource.RLIM_INFINITY and hard < _MOST_NICE:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NICE, (soft, _MOST_NICE))


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
    _set_nice_of_session(BACKGROUND_NICE)
    compute()


def run_promptly() -> None:
    """For the process whose event loop peers wait for, in the leader of its own session. Where the system does not
    permit the nice value, the slice is all it gets."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NICE)
    resource.setrlimit(resource.RLIMIT_NICE, (hard, hard))
    with contextlib.suppress(PermissionError):
        os.nice(PROMPT_NICE)
        _set_nice_of_session(PROMPT_NICE)
    resource.setrlimit(resource.RLIMIT_NICE, (soft, soft))
    _set_slice(os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0), PROMPT_SLICE_NS)


def forgo_prompt_nice() -> None:
    """For every other child: neither it nor a program that it starts may take PROMPT_NICE any more. `LimitNICE` of
    systemd gives the right at once, without a step that a process has to take."""
    resource.setrlimit(resource.RLIMIT_NICE, (0, 0))


def _set_nice_of_session(nice: int) -> None:
    """No effect where the kernel shares the CPU between processes only."""
    for _ in range(_SESSION_TRIES):
        try:
            with own_files_of_proc(), open("/proc/self/autogroup", "w") as file:
                file.write(str(nice))
        except BlockingIOError:
            time.sleep(_SESSION_PAUSE_S)
        except OSError:
            return
        else:
            return


def _set_slice(policy: int, nice: int, slice_ns: int) -> None:
    """No effect where the system lacks or forbids the call: only delays depend on it."""
    number = _SCHED_SETATTR.get(platform.machine())
    if number is None:
        return
    attributes = _ATTRIBUTES.pack(_ATTRIBUTES.size, policy, 0, nice, 0, slice_ns, 0, 0, 0, 0)
    ctypes.CDLL(None).syscall(number, 0, attributes, 0)
