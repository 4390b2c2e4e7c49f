"""The start and the end of a supervisor: its user, pid file and logs, and what an earlier life has left. In between
runs the loop (supervisor.py). Whoever started it hears whether the node serves."""

import contextlib
import errno
import faulthandler
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from clusterd import stacks
from clusterd.build import Build, installed, note
from clusterd.errors import with_place
from clusterd.exits import ExitCode
from clusterd.foreground import Foreground
from clusterd.framework import location
from clusterd.logs import Log
from clusterd.pidfile import AlreadyRunning, claim
from clusterd.rights import keep_memory_private, too_many_rights
from clusterd.rundir import problem_path, root_problem
from clusterd.scheduling import allow_prompt_nice
from clusterd.settings import Settings
from clusterd.store.choice import choose
from clusterd.supervisor import privileges, sweep
from clusterd.supervisor.child import CRASH_LOG_MODE, SIGNALS, ChildSpec
from clusterd.supervisor.code_access import access_warning, unreadable_code
from clusterd.supervisor.family import SUBTAG, TAG, Timing
from clusterd.supervisor.plan import NodeResources, lasting_plan, plan
from clusterd.supervisor.preload import preload
from clusterd.supervisor.standard_files import open_closed_ones
from clusterd.supervisor.starter import CouldNotStart, Starter
from clusterd.supervisor.supervisor import Plans, Supervisor
from ipc.board import SUPERVISOR

STDIN, STDOUT = 0, 1
OTHER_FILES = 512
"""Open files other than connections: channels, logs, files of jobs."""


def supervise(
    settings: Settings,
    *,
    foreground: bool,
    ready_fd: int | None = None,
    log_level_override: int | None = None,
    make_plan: Callable[[NodeResources], list[ChildSpec]] = plan,
    make_lasting: Callable[[NodeResources], list[ChildSpec]] = lasting_plan,
    pace: Timing | None = None,
) -> int:
    """Runs the node until it is told to stop; returns the exit code.

    `ready_fd` (closed here) gets one line, a StartResult in JSON, once the node serves or cannot. In the foreground the
    log also goes to stderr, and so does the reason of a failed start without `ready_fd`. `log_level_override` is that
    of the command line (wire.md 7.4). `make_plan`, `make_lasting` and `pace` are for tests."""
    open_closed_ones()
    starter = Starter(ready_fd, foreground=foreground)
    asked = log_level_override or 0
    settings = msgspec.structs.replace(
        settings,
        root=os.path.abspath(settings.root),
        conf=settings.conf and os.path.abspath(settings.conf),
        log_level=settings.log_level or asked,
        log_level_asked=asked,
    )
    if pace is None:
        own = settings.clusterd
        pace = Timing(stuck_after_s=own.stuck_after_s, stuck_busy_after_s=own.stuck_busy_after_s)
    try:
        with _blocked_signals():
            _run_node(settings, starter, foreground, (make_plan, make_lasting), pace)
    except CouldNotStart as failure:
        return starter.tell(failure.result)
    except OSError as failure:
        return starter.tell(CouldNotStart(with_place(failure, settings.root)).result)
    except privileges.PrivilegeProblem as failure:
        return starter.tell(CouldNotStart(str(failure)).result)
    except Exception as failure:
        starter.tell(CouldNotStart(f"{failure!r}; see logs/cluster.log", ExitCode.FAILED).result)
        raise
    if starter.fd is not None:
        starter.tell(CouldNotStart("it was stopped before it served").result)
    return int(ExitCode.OK)


@contextlib.contextmanager
def _blocked_signals() -> Iterator[None]:
    """Blocks the signals before the first fork: see child.py. SIGCHLD must not be ignored, as some parents leave it, or
    the system would reap our children."""
    earlier = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, earlier)


def _run_node(
    settings: Settings,
    starter: Starter,
    foreground: bool,
    plans: Plans,
    pace: Timing,
) -> None:
    """From nothing to nothing. Raises CouldNotStart, OSError, PrivilegeProblem."""
    root = settings.root
    if settings.cluster.disabled:
        raise CouldNotStart("the cluster is disabled: see <disabled> in the <cluster> block of etc/ossec.conf")
    limits = settings.clusterd.limits
    few_files = privileges.allow_open_files(
        limits.connections + limits.local_clients + limits.store_connections + OTHER_FILES
    )
    loaded = _loaded()
    copy = Foreground() if foreground else None  # before the user changes; it is open for as long as the process
    unreadable = _become_owner(settings)
    keep_memory_private()
    problem = root_problem(root) or privileges.tree_problem(root)
    if problem:
        raise CouldNotStart(problem)
    try:
        pid_file, stale = claim(root)
    except AlreadyRunning as other:
        raise CouldNotStart(str(other), ExitCode.ALREADY_RUNNING, other.pid) from other
    if not foreground:
        pid_file.open_as(STDIN)
    log = Log(
        f"{root}/logs/cluster.log",
        settings.log_level,
        settings.log_format,
        stream=copy,
        descriptor=None if foreground else STDOUT,
    )
    try:
        for warning in (
            few_files,
            unreadable,
            too_many_rights(settings.clusterd.owner),
            f"An earlier clusterd was not stopped; removed {', '.join(stale)}." if stale else "",
        ):
            if warning:
                log.line("WARNING", TAG, SUBTAG, warning)
        choice = choose(settings)
        if choice.problem:
            raise CouldNotStart(choice.problem)
        log.line("INFO", TAG, SUBTAG, choice.text)
        framework = location.find(settings)
        if framework.python:
            log.line("INFO", TAG, SUBTAG, f"The installed framework is used: {framework.python}.")
        settings = msgspec.structs.replace(settings, serves_store=choice.serves, framework_python=framework.python)
        with _crash_log(root) as (crash_log, crash_fd):
            sweep.sweep_before_start(root)
            if loaded is not None:
                note(root, loaded)
            if unreadable:
                Path(problem_path(root, SUPERVISOR)).write_text(f"{unreadable}\n", encoding="utf-8")
            supervisor = Supervisor(settings, log, pid_file, crash_log, crash_fd, starter, plans, pace)
            supervisor.tell_of_earlier(stale)
            supervisor.run()
    except CouldNotStart as failure:
        log.line("ERROR", TAG, SUBTAG, f"The node could not start: {failure}")
        raise
    except Exception:
        log.line("ERROR", TAG, SUBTAG, f"The supervisor met a bug:\n{stacks.told()}")
        raise
    finally:
        _clean_up(root, log)
        pid_file.remove()
        log.close()


def _loaded() -> Build | None:
    """What this process was loaded from, while that can be read for certain."""
    try:
        return installed()
    except OSError:
        return None


def _become_owner(settings: Settings) -> str:
    """Returns a warning when the owner may not read what the node runs, else nothing."""
    os.umask(privileges.UMASK)
    owner = privileges.owner_to_become(settings.clusterd.owner)
    if owner is None:
        return ""
    # Everything is imported while it can be read for certain.
    preload()
    privileges.hand_over_own_files(settings.root, owner)
    allow_prompt_nice()
    privileges.become(owner)
    unreadable = unreadable_code()
    return access_warning(owner.name, unreadable) if unreadable else ""


def _clean_up(root: str, log: Log) -> None:
    for clean in (sweep.remove_run_files, sweep.empty_spool):
        try:
            clean(root)
        except OSError as failure:
            why = errno.errorcode.get(failure.errno or 0, "")
            log.line("WARNING", TAG, SUBTAG, f"Something is left behind: {failure.filename} {why}")


@contextlib.contextmanager
def _crash_log(root: str) -> Iterator[tuple[str, int]]:
    """Opens the crash log, which gets the stacks of the supervisor and of its children. Yields its path and
    descriptor."""
    path = f"{root}/logs/clusterd-crash.log"
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, CRASH_LOG_MODE)
    try:
        faulthandler.enable(fd)
        yield path, fd
    finally:
        faulthandler.disable()
        os.close(fd)
