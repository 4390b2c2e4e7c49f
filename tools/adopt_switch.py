"""Which cluster daemon runs now: stop the one, start the other, and touch nothing else of the manager."""

import os
import signal
import subprocess
import time

from clusterd.supervisor.pidfile import OURS, running_daemon
from tools import stopping
from tools.adoption import BIN
from tools.outcome import Outcome

DAEMON = "wazuh-clusterd"
STOP_TIMEOUT_S = 60.0
START_TIMEOUT_S = 300.0
"""Of the program that starts it. It lets go of its caller after 20 s at most, once it is loaded: from a slow disk that may take long."""
PID_FILE_TIMEOUT_S = 60.0
POLL_S = 0.05


def stop_running(root: str) -> Outcome:
    """Stop the cluster daemon of this root, stock or ours, if one runs."""
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
    """Start `bin/wazuh-clusterd`, whatever it is, as `wazuh-control` does; good when the daemon that runs then is `wanted` (OURS,
    STOCK)."""
    path = f"{root}/{BIN}/{DAEMON}"
    try:
        # Not into pipes: a daemon may keep them open for as long as it lives. What it says is not our answer.
        code = subprocess.run([path], cwd="/", stdin=subprocess.DEVNULL, stdout=2, timeout=START_TIMEOUT_S).returncode
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
