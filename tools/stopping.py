"""Stops a node, as a function that returns a value."""

import os
import signal
import time

import psutil

from clusterd.exits import ExitCode
from clusterd.pidfile import ENDED, running_pid
from clusterd.rundir import board_path
from clusterd.status.status import ELECTION
from ipc.board import Board
from tools.outcome import Outcome

POLL_S = 0.02
ELECTION_MORE_S = 54.0
"""As long as the process `election` may take (clusterd/supervisor/plan.py): it hands over, and `on_demote`, which gives
away the address that the next master needs, may run for 30 s."""


def stop(root: str, *, timeout_s: float) -> Outcome:
    """Asks the node to stop and waits until its last process is gone, at most `timeout_s`, and ELECTION_MORE_S more
    where it takes part in an election; then kills the remaining ones."""
    pid = running_pid(root)
    if pid is None:
        return Outcome(True, lines=[f"clusterd is not running at {root}."])
    members, has_election = _members(root, pid)
    if has_election:
        timeout_s += ELECTION_MORE_S
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
    # The first process ends a moment after its pid file: until its memory is freed it can still be seen.
    while any(map(_lives, members)) and time.monotonic() < deadline + 5:
        time.sleep(POLL_S)
    if late:
        return Outcome(
            False,
            f"did not stop within {timeout_s:g} s and was killed: pid {', '.join(map(str, late))}",
            int(ExitCode.TIMED_OUT),
        )
    return Outcome(True, lines=["clusterd has stopped."])


def _members(root: str, pid: int) -> tuple[list[psutil.Process], bool]:
    """Returns the node's processes as handles, which a reused pid does not confuse, and whether one of them is
    `election`."""
    pids, has_election = {pid}, False
    try:
        board = Board.open(board_path(root))
        rows = [row for row in board.rows() if row.pid]
        pids.update(row.pid for row in rows)
        has_election = any(row.name == ELECTION for row in rows)
        board.close()
    except (OSError, ValueError):
        pass
    members = []
    for member in pids:
        try:
            members.append(psutil.Process(member))
        except psutil.Error:
            continue
    return members, has_election


def _lives(member: psutil.Process) -> bool:
    """Not true of one that nobody has waited for: the first process of a container may wait for none."""
    try:
        return member.is_running() and member.status() not in ENDED
    except psutil.Error:
        return False


def _kill(members: list[psutil.Process]) -> list[int]:
    killed = []
    for process in members:
        try:
            process.kill()
            killed.append(process.pid)
        except psutil.Error:
            continue
    return killed
