"""Start, stop and reload a node, as functions that return values. What is shown and which code ends is the commands'."""

import os
import pwd
import signal
import time
from collections.abc import Callable
from typing import Literal

import msgspec
import psutil

from clusterd.configuration import load
from clusterd.exits import ExitCode
from clusterd.rundir import board_path
from clusterd.settings import Settings
from clusterd.supervisor.daemon import start_daemon
from clusterd.supervisor.pidfile import running_pid
from clusterd.supervisor.run import StartResult, supervise
from ipc.board import Board
from tools.check import check

POLL_S = 0.02


class Outcome(msgspec.Struct, frozen=True):
    """`reason` says why not, for people; `lines` is what to show besides."""

    ok: bool
    reason: str = ""
    code: int = int(ExitCode.OK)
    lines: list[str] = []


def settings_to_start(
    root: str, *, conf: str | None, log_format: Literal["text", "json"], say: Callable[[str], None]
) -> Settings | Outcome:
    """The settings of a node that may start; warnings are said. Not good: the outcome with all mistakes."""
    loaded = load(root, conf=conf)
    for warning in loaded.warnings:
        say(str(warning))
    if loaded.settings is None:
        for problem in loaded.problems:
            say(str(problem))
        count = len(loaded.problems)
        return Outcome(
            False,
            f"the configuration has {count} mistake{'s' if count > 1 else ''}; nothing was started",
            int(ExitCode.BAD_CONFIGURATION),
        )
    if loaded.settings.cluster.disabled:
        reason = f"the cluster is disabled: set <disabled>no</disabled> in the <cluster> block of {conf or root + '/etc/ossec.conf'}"
        return Outcome(False, reason, int(ExitCode.COULD_NOT_START))
    return msgspec.structs.replace(loaded.settings, log_format=log_format)


def start(
    root: str,
    *,
    foreground: bool,
    debug: int,
    log_format: Literal["text", "json"],
    timeout_s: float,
    say: Callable[[str], None],
    conf: str | None = None,
    stay_root: bool = False,
    tls: bool = False,
) -> StartResult:
    """Start the node. In the background: returns when it serves, or with the reason. In the foreground: when it ended.

    `debug` is how often -d was given (wire.md 7.4); `stay_root` keeps the user that starts it; `tls` turns TLS on as the
    stock --ssl does."""
    found = settings_to_start(root, conf=conf, log_format=log_format, say=say)
    if isinstance(found, Outcome):
        return StartResult(False, found.reason, code=found.code)
    own = found.clusterd
    if stay_root:
        own = msgspec.structs.replace(own, owner=pwd.getpwuid(os.geteuid()).pw_name)
    if tls:
        own = msgspec.structs.replace(own, tls=msgspec.structs.replace(own.tls, enabled=True))
    found = msgspec.structs.replace(found, clusterd=own)
    level = debug if debug <= 2 else 0
    if foreground:
        code = supervise(found, foreground=True, log_level_override=level)
        return StartResult(code == ExitCode.OK, "the node ended", os.getpid(), code)
    return start_daemon(found, log_level_override=level, timeout_s=timeout_s)


def stop(root: str, *, timeout_s: float) -> Outcome:
    """Ask the node to stop and wait until its last process is gone, at most `timeout_s`; then kill what is left."""
    pid = running_pid(root)
    if pid is None:
        return Outcome(True, lines=["clusterd is not running."])
    members = _members(root, pid)
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        pass
    except PermissionError:
        return Outcome(
            False, f"no permission to stop pid {pid}: run this as root or as the node's owner", ExitCode.FAILED
        )
    deadline = time.monotonic() + timeout_s
    while running_pid(root) is not None and time.monotonic() < deadline:
        time.sleep(POLL_S)
    late = _kill([process for process in members if process.is_running()]) if running_pid(root) is not None else []
    while running_pid(root) is not None and time.monotonic() < deadline + 5:
        time.sleep(POLL_S)
    if running_pid(root) is not None:
        return Outcome(False, f"clusterd (pid {pid}) did not end and could not be killed", int(ExitCode.TIMED_OUT))
    if late:
        return Outcome(
            False,
            f"did not stop within {timeout_s:g} s and was killed: pid {', '.join(map(str, late))}",
            int(ExitCode.TIMED_OUT),
        )
    return Outcome(True, lines=["clusterd has stopped."])


def reload(root: str) -> Outcome:
    """Check the configuration and, if it is good, have the running node read it."""
    pid = running_pid(root)
    if pid is None:
        return Outcome(False, "clusterd is not running", int(ExitCode.NOT_RUNNING))
    checked = check(root)
    if not checked.ok:
        reason = "the configuration has mistakes and was not reloaded"
        return Outcome(False, reason, int(ExitCode.BAD_CONFIGURATION), checked.lines)
    try:
        os.kill(pid, signal.SIGHUP)
    except PermissionError:
        return Outcome(
            False, f"no permission to signal pid {pid}: run this as root or as the node's owner", ExitCode.FAILED
        )
    except ProcessLookupError:
        return Outcome(False, "clusterd is not running", int(ExitCode.NOT_RUNNING))
    return Outcome(
        True, lines=[*checked.lines, "The configuration is being reloaded; what needs a restart is named in the log."]
    )


def _members(root: str, pid: int) -> list[psutil.Process]:
    """The node's processes as handles that a pid given to somebody else cannot confuse."""
    pids = {pid}
    try:
        board = Board.open(board_path(root))
        pids.update(row.pid for row in board.rows() if row.pid)
        board.close()
    except (OSError, ValueError):
        pass
    members = []
    for member in pids:
        try:
            members.append(psutil.Process(member))
        except psutil.Error:
            continue
    return members


def _kill(members: list[psutil.Process]) -> list[int]:
    killed = []
    for process in members:
        try:
            process.kill()
            killed.append(process.pid)
        except psutil.Error:
            continue
    return killed
