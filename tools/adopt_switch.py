"""Swaps the running cluster daemon: stops one, starts the other, and touches nothing else of the manager."""

import os
import signal
import subprocess
import time

from clusterd.adoption import BIN
from clusterd.pidfile import OURS, running_daemon
from tools import stopping
from tools.outcome import Outcome

DAEMON = "wazuh-clusterd"
STOP_TIMEOUT_S = 60.0
START_TIMEOUT_S = 300.0
"""For the program that starts the daemon. Once loaded it returns after 20 s at most; loading from a slow disk may take
long."""
PID_FILE_TIMEOUT_S = 60.0
POLL_S = 0.05


def stop_running(root: str) -> Outcome:
    """Stops the cluster daemon of this root, stock or ours, if one runs."""
    running = running_daemon(root)
    if running is None:
        return Outcome(True)
    pid, program = running
    if program == OURS:
        return stopping.stop(root, timeout_s=STOP_TIMEOUT_S)
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        pass
    except PermissionError:
        return Outcome(False, f"no permission to stop {program} (pid {pid}): run this as root", 1)
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while running_daemon(root) is not None:
        if time.monotonic() > deadline:
            return Outcome(False, f"{program} (pid {pid}) did not stop within {STOP_TIMEOUT_S:g} s", 6)
        time.sleep(POLL_S)
    return Outcome(True)


def start(root: str, wanted: str) -> Outcome:
    """Starts `bin/wazuh-clusterd`, stock or ours, as `wazuh-control` does. Good if the daemon that runs then is
    `wanted` (OURS, STOCK)."""
    path = f"{root}/{BIN}/{DAEMON}"
    try:
        # No pipes: a daemon may keep them open as long as it lives. Its output is not part of our result. A session of
        # its own, and no kill but for the time-out: who closes the terminal, or interrupts us, stops no start.
        program = subprocess.Popen([path], cwd="/", stdin=subprocess.DEVNULL, stdout=2, start_new_session=True)
        try:
            code = program.wait(START_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            program.kill()
            program.wait()
            raise
    except (OSError, subprocess.TimeoutExpired) as failure:
        return Outcome(False, f"{path} could not be started: {failure}", 3)
    deadline = time.monotonic() + PID_FILE_TIMEOUT_S
    while code == 0:
        running = running_daemon(root)
        if running is not None and running[1] == wanted:
            return Outcome(True, lines=[f"{wanted} runs (pid {running[0]})"])
        if time.monotonic() > deadline:
            return Outcome(False, f"{path} has left no pid file of a living {wanted}; see {root}/logs/cluster.log", 3)
        time.sleep(POLL_S)
    return Outcome(False, f"{path} ended with {code}; see above and {root}/logs/cluster.log", 3)
