"""One child process: fork, signals, how it ended. Knows nothing of why children live or die; run.py decides.

The supervisor has all signals in SIGNALS blocked from its start; a child is born with them blocked and unblocks those it
handles once its handlers are in place, so that no signal is ever lost or met by a default action in between.
"""

import contextlib
import ctypes
import faulthandler
import gc
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

import msgspec

from clusterd import stacks
from clusterd.exits import ExitCode
from clusterd.memory import bound_heaps

SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGIO})
"""Blocked in the supervisor, which waits for them; all but SIGCHLD are inherited blocked."""

CRASH_LOG_MODE = 0o640
_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_STDERR = 2
_libc = ctypes.CDLL(None, use_errno=True)


class ChildSpec(msgspec.Struct, frozen=True):
    """A process that the node needs. `main` runs in the child and returns its exit code; `name` is its row on the board.
    Children of one `stage` stop side by side, the lowest first, and are killed after `stop_s` seconds."""

    name: str
    main: Callable[[], int]
    stage: int = 1
    stop_s: float = 5.0


class BirthPlan(msgspec.Struct, frozen=True):
    """What a new child does before its work: `begin` first, file descriptors that are not for it are closed, stacks of a crash go
    to `crash_log`, what ends it unexpectedly is told to `on_crash` as a text with a stack."""

    close_fds: tuple[int, ...]
    crash_log: str
    on_crash: Callable[[str], None]
    begin: Callable[[], None]


class Child:
    """A living child. Nobody but `collect` takes its end from the system, so until then its pid is nobody else's."""

    def __init__(self, name: str, pid: int, incarnation: int, started_at: float) -> None:
        """`started_at`: seconds on the monotonic clock."""
        self.name = name
        self.pid = pid
        self.incarnation = incarnation
        self.started_at = started_at

    def send(self, number: signal.Signals) -> None:
        """Send a signal. A child that has ended and was not collected yet takes it silently."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def collect(self) -> int | None:
        """How it ended: exit code, or -N for signal N; None while it lives. To be called no more once it told."""
        found = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG)
        if found is None:
            return None
        return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status


def freeze() -> None:
    """Before the first fork: what was imported is never touched by the collector again, so children share its pages."""
    gc.collect()
    gc.freeze()


def fork(spec: ChildSpec, incarnation: int, now: float, plan: BirthPlan) -> Child:
    """A new process that runs `spec.main`. Raises OSError when the system has no room for one."""
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        _live(spec, parent, plan)
    return Child(spec.name, pid, incarnation, now)


def _live(spec: ChildSpec, parent: int, plan: BirthPlan) -> NoReturn:
    """The whole life of the child. Never returns into the supervisor's code, whatever happens."""
    status = int(ExitCode.FAILED)
    try:
        plan.begin()
        _be_born(spec.name, parent, plan)
        status = spec.main()
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ExitCode.FAILED)
    except BaseException:
        plan.on_crash(stacks.told())
    finally:
        os._exit(status)


def _be_born(name: str, parent: int, plan: BirthPlan) -> None:
    _set_death_signal(signal.SIGKILL)
    if os.getppid() != parent:
        # The supervisor died between the fork and the line above: nobody would ever end this process.
        os._exit(ExitCode.FAILED)
    # A session of its own: Ctrl-C at a terminal is for the supervisor, which stops its children in order; see also scheduling.py.
    os.setsid()
    bound_heaps()
    _libc.prctl(_PR_SET_NAME, f"clusterd-{name}".encode()[:15], 0, 0, 0)
    faulthandler.disable()  # it would write to a descriptor that is closed now
    for fd in plan.close_fds:
        os.close(fd)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    crash_log = os.open(plan.crash_log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, CRASH_LOG_MODE)
    if _is_null(_STDERR):
        # Nobody reads it: what a library says before it aborts stands beside the stacks, for one descriptor.
        os.dup2(crash_log, _STDERR)
        os.close(crash_log)
        crash_log = _STDERR
    faulthandler.enable(crash_log, all_threads=True)
    # For `clusterd support`: what each process is doing, while it goes on.
    faulthandler.register(signal.SIGUSR2, crash_log, all_threads=True)


def _is_null(fd: int) -> bool:
    try:
        return os.fstat(fd).st_rdev == os.stat(os.devnull).st_rdev
    except OSError:
        return False


def _set_death_signal(number: signal.Signals) -> None:
    if _libc.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"the parent-death signal cannot be set: {os.strerror(code)}")
