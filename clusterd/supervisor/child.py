"""One child process: fork, signals, exit status. When children are started and replaced is decided by run.py.

The supervisor blocks all signals in SIGNALS from its start. A child is born with them blocked and unblocks those that
it handles after its handlers are in place, so no signal is lost or meets a default action in between.
"""

import contextlib
import ctypes
import faulthandler
import gc
import os
import signal
from collections.abc import Callable, Collection
from typing import NoReturn

import msgspec

from clusterd import stacks
from clusterd.exits import ExitCode
from clusterd.memory import bound_heaps
from clusterd.scheduling import forgo_prompt_nice
from clusterd.signals import ROLE_WRITTEN
from clusterd.supervisor.standard_files import flush_streams

SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGIO, ROLE_WRITTEN})
"""Blocked in the supervisor, which waits for them; children inherit all but SIGCHLD blocked."""

CRASH_LOG_MODE = 0o640
_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_STDERR = 2
_libc = ctypes.CDLL(None, use_errno=True)


class ChildSpec(msgspec.Struct, frozen=True):
    """A process that the node needs. `main` runs in the child and returns its exit code; `name` is its row on the
    board. Children of one `stage` stop at the same time, lower stages first, and are killed after `stop_s` seconds.
    `prompt`: it calls `scheduling.run_promptly`; the others give up the right to a higher priority. `any_role`: its
    work does not depend on the node's role, so one that has worked in the last role never ends the node in the next."""

    name: str
    main: Callable[[], int]
    stage: int = 1
    stop_s: float = 5.0
    prompt: bool = False
    any_role: bool = False


class BirthPlan(msgspec.Struct, frozen=True):
    """What a new child does before its work: calls `begin`, closes the descriptors in `close_fds`, writes stacks of a
    crash to `crash_log`, and reports an unexpected end to `on_crash` as text with a stack."""

    close_fds: tuple[int, ...]
    crash_log: str
    on_crash: Callable[[str], None]
    begin: Callable[[], None]


class Child:
    """A living child. Only `collect` reaps it, so until then its pid cannot belong to another process."""

    def __init__(self, name: str, pid: int, incarnation: int, started_at: float) -> None:
        """`started_at`: seconds on the monotonic clock."""
        self.name = name
        self.pid = pid
        self.incarnation = incarnation
        self.started_at = started_at

    def send(self, number: signal.Signals) -> None:
        """Sends a signal. A child that has ended and was not reaped yet ignores it."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def collect(self) -> int | None:
        """Reaps the child. Returns its exit code, or -N for signal N; None while it lives. Do not call it again after
        it returned a code."""
        found = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG)
        if found is None:
            return None
        return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status


def reap_orphans(ours: Collection[int]) -> None:
    """Reaps processes that are not our children, where this is the first process of a container: it inherits what
    outlives its parent (what a hook has started, for example), and each would keep its place in the process table for
    ever. `ours`: pids that others wait for."""
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
            if ended.si_pid in ours:
                return  # what stands behind it has its turn when this one is gone
            os.waitid(os.P_PID, ended.si_pid, os.WEXITED)


def freeze() -> None:
    """Call before the first fork: the garbage collector never touches the imported objects again, so children share
    their pages."""
    gc.collect()
    gc.freeze()


def fork(spec: ChildSpec, incarnation: int, now: float, plan: BirthPlan) -> Child:
    """Forks a process that runs `spec.main`. Raises OSError when the system cannot create one."""
    flush_streams()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        _live(spec, parent, plan)
    return Child(spec.name, pid, incarnation, now)


def _live(spec: ChildSpec, parent: int, plan: BirthPlan) -> NoReturn:
    """Runs the child's whole life. Never returns into the supervisor's code."""
    status = int(ExitCode.FAILED)
    try:
        plan.begin()
        _be_born(spec, parent, plan)
        status = spec.main()
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ExitCode.FAILED)
    except BaseException:
        plan.on_crash(stacks.told())
    finally:
        os._exit(status)


def _be_born(spec: ChildSpec, parent: int, plan: BirthPlan) -> None:
    _set_death_signal(signal.SIGKILL)
    if os.getppid() != parent:
        # The supervisor died between the fork and the line above: nobody would ever end this process.
        os._exit(ExitCode.FAILED)
    # A session of its own: Ctrl-C at a terminal reaches only the supervisor, which stops its children in order; see
    # also scheduling.py.
    os.setsid()
    if not spec.prompt:
        forgo_prompt_nice()
    bound_heaps()
    _libc.prctl(_PR_SET_NAME, f"clusterd-{spec.name}".encode()[:15], 0, 0, 0)
    faulthandler.disable()  # it would write to a descriptor that is closed now
    for fd in plan.close_fds:
        os.close(fd)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    crash_log = os.open(plan.crash_log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, CRASH_LOG_MODE)
    if _is_null(_STDERR):
        # Nobody reads stderr, so it goes to the crash log too: what a library prints before it aborts then stands
        # beside the stacks.
        os.dup2(crash_log, _STDERR)
        os.close(crash_log)
        crash_log = _STDERR
    faulthandler.enable(crash_log, all_threads=True)
    # For `clusterd support`: the process writes its stacks and continues.
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
