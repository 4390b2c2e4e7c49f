"""Have a running node read its configuration again, as a function that returns a value."""

import os
import signal

from clusterd.exits import ExitCode
from clusterd.supervisor.pidfile import running_pid
from tools.check import check
from tools.outcome import Outcome


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
