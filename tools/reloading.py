"""Makes a running node read its configuration again, as a function that returns a value."""

import os
import signal
import time

from clusterd.exits import ExitCode
from clusterd.pidfile import running_pid
from clusterd.status.absence import not_running
from clusterd.status.status import StatusReader
from tools.check import check
from tools.outcome import Outcome

TOLD_S = 5.0
POLL_S = 0.05


def reload(root: str) -> Outcome:
    """Checks the configuration and, if it is valid, makes the running node read it."""
    pid = running_pid(root)
    if pid is None:
        return Outcome(False, not_running(root), int(ExitCode.NOT_RUNNING))
    checked = check(root)
    began = time.time()
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
        return Outcome(False, not_running(root), int(ExitCode.NOT_RUNNING))
    return Outcome(True, lines=[*checked.lines, _told(root, began)])


def _told(root: str, began: float) -> str:
    """Returns the node's result of the reload. A busy node may need longer; then its log will have the result."""
    reader, deadline = StatusReader(root), time.monotonic() + TOLD_S
    while time.monotonic() < deadline:
        node = reader.read_sync()["node"]
        if node is not None and (node["reloaded_at"] or 0.0) >= began:
            if node["needs_restart"]:
                return (
                    "The configuration was reloaded. These changes wait for a restart: "
                    f"{', '.join(node['needs_restart'])}."
                )
            return "The configuration was reloaded."
        time.sleep(POLL_S)
    return "The configuration is being reloaded; the log says what needs a restart."
