"""Starts the node in the background: two forks, and a pipe over which the daemon reports the result of its start."""

import os
import select
import signal
import time
from collections.abc import Callable
from typing import NoReturn

import msgspec

from clusterd.exits import START_TIMEOUT_S, ExitCode
from clusterd.settings import Settings
from clusterd.supervisor.run import supervise
from clusterd.supervisor.standard_files import flush_streams, open_closed_ones
from clusterd.supervisor.starter import StartResult

ENDS_WITHIN_S = 5.0


def start_daemon(
    settings: Settings,
    *,
    log_level_override: int | None = None,
    timeout_s: float = START_TIMEOUT_S,
    leave_late: bool = False,
    run: Callable[..., int] = supervise,
) -> StartResult:
    """Starts the node and returns once it serves, or with the reason why it does not; then nothing of it is left.

    The caller must have no threads. `run` is for tests. After `timeout_s` the daemon is killed and its children die
    with it; with `leave_late` it continues to start, and the result is good but has a reason."""
    settings = msgspec.structs.replace(
        settings, root=os.path.abspath(settings.root), conf=settings.conf and os.path.abspath(settings.conf)
    )
    open_closed_ones()
    read_fd, write_fd = os.pipe()
    try:
        pid = os.fork()
        if pid == 0:
            _begin_daemon(settings, write_fd, log_level_override, run)
        os.close(write_fd)
        os.waitpid(pid, 0)
        return _hear(read_fd, time.monotonic() + timeout_s, timeout_s, leave_late)
    finally:
        os.close(read_fd)


def _begin_daemon(
    settings: Settings, write_fd: int, log_level_override: int | None, run: Callable[..., int]
) -> NoReturn:
    """Runs both forks. Never returns into the caller's code."""
    code = int(ExitCode.FAILED)
    try:
        os.setsid()
        if os.fork() != 0:
            os._exit(0)
        os.write(write_fd, f"{os.getpid()}\n".encode())
        os.chdir("/")
        _let_go_of_files(write_fd)
        code = run(settings, foreground=False, ready_fd=write_fd, log_level_override=log_level_override)
    finally:
        os._exit(code)


def _let_go_of_files(keep: int) -> None:
    """Redirects the standard files to /dev/null and closes everything but `keep`: a program that reads our caller's
    output must see its end."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    flush_streams()  # what the caller has not written yet is the caller's: standard output becomes the log
    os.closerange(3, keep)
    os.closerange(keep + 1, os.sysconf("SC_OPEN_MAX"))


def _hear(fd: int, deadline: float, timeout_s: float, leave_late: bool) -> StartResult:
    """Reads the daemon's two lines: its pid, then its StartResult."""
    heard = b""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while heard.count(b"\n") < 2:
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            return _too_late(heard, timeout_s, leave_late)
        data = os.read(fd, 65536)
        if not data:
            reason = (
                "clusterd ended before it served and gave no reason; see logs/cluster.log and logs/clusterd-crash.log"
            )
            return StartResult(False, reason, 0, int(ExitCode.FAILED))
        heard += data
    told, line = heard.split(b"\n")[:2]
    result = msgspec.json.decode(line, type=StartResult)
    if not result.ok:
        _wait_until_gone(int(told))
    return result


def _wait_until_gone(pid: int) -> None:
    """A daemon that has told why it does not serve has only to end. Who looks for its process next must not find it."""
    try:
        process = os.pidfd_open(pid)
    except OSError:  # it has ended, or this kernel has no such call
        return
    try:
        ended = select.poll()
        ended.register(process, select.POLLIN)
        ended.poll(ENDS_WITHIN_S * 1000)
    finally:
        os.close(process)


def _too_late(heard: bytes, timeout_s: float, leave_late: bool) -> StartResult:
    """The daemon still holds the pipe, so the pid cannot belong to another process."""
    pid = int(heard.split(b"\n")[0] or 0)
    if leave_late:
        return StartResult(True, f"still starting after {timeout_s:.0f} s (pid {pid}); see logs/cluster.log", pid)
    if pid:
        os.kill(pid, signal.SIGKILL)
    return StartResult(False, f"not ready after {timeout_s:.0f} s; see logs/cluster.log", 0, int(ExitCode.TIMED_OUT))
