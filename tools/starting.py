"""Starts a node, as a function that returns a value. Imports the whole daemon: the process forks it."""

import os
import pwd
from collections.abc import Callable
from typing import Literal

import msgspec

from clusterd.config.loading import load
from clusterd.exits import ExitCode
from clusterd.settings import Settings
from clusterd.supervisor.daemon import start_daemon
from clusterd.supervisor.run import supervise
from clusterd.supervisor.starter import StartResult
from tools.check import links_of
from tools.outcome import Outcome


def settings_to_start(
    root: str, *, conf: str | None, log_format: Literal["text", "json"], say: Callable[[str], None]
) -> Settings | Outcome:
    """Returns the settings of a node that may start, and shows warnings. If it may not, shows all mistakes and returns
    an Outcome."""
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
        reason = (
            "the cluster is disabled: set <disabled>no</disabled> in the <cluster> block of "
            f"{conf or root + '/etc/ossec.conf'}"
        )
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
    leave_late: bool = False,
) -> StartResult:
    """Starts the node. In the background: returns when it serves, or with the reason. In the foreground: returns when
    it has ended.

    `debug` is the number of -d options (wire.md 7.4); `stay_root` keeps the user that starts it; `tls` turns TLS on as
    the stock --ssl does; `leave_late`: after `timeout_s` it is not killed but continues to start (start_daemon)."""
    found = settings_to_start(root, conf=conf, log_format=log_format, say=say)
    if isinstance(found, Outcome):
        return StartResult(False, found.reason, code=found.code)
    for line in links_of(found):
        say(line)
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
    return start_daemon(found, log_level_override=level, timeout_s=timeout_s, leave_late=leave_late)
