"""States of the manager's daemons, from their files in `var/run` (dapi.md 5.4)."""

import os
import re
from collections.abc import Iterable

from clusterd.pidfile import is_process

DAEMONS = (
    "wazuh-agentlessd",
    "wazuh-analysisd",
    "wazuh-authd",
    "wazuh-csyslogd",
    "wazuh-dbd",
    "wazuh-monitord",
    "wazuh-execd",
    "wazuh-integratord",
    "wazuh-logcollector",
    "wazuh-maild",
    "wazuh-remoted",
    "wazuh-reportd",
    "wazuh-syscheckd",
    "wazuh-clusterd",
    "wazuh-modulesd",
    "wazuh-db",
    "wazuh-apid",
)
OF_OUR_STORE = frozenset({"wazuh-db", "wazuh-authd"})
NOT_READY = frozenset({"failed", "restarting", "stopped"})
_PID_FILE = re.compile(r"(.+)-(\d{1,10})\.pid")


def daemon_states(root: str, *, serves_store: bool = False) -> dict[str, str]:
    """Returns the state of each daemon, in stock's order: `failed`, `restarting`, `starting`, `running` or `stopped`.
    `serves_store`: our own store does the work of wazuh-db and wazuh-authd. Raises WireException 1913 when processes
    cannot be inspected."""
    files, pids = _run_files(root)
    return {
        daemon: "running" if serves_store and daemon in OF_OUR_STORE else _state(daemon, files, pids.get(daemon, []))
        for daemon in DAEMONS
    }


def not_ready(root: str, required: Iterable[str], *, serves_store: bool) -> list[str]:
    """Returns `{daemon}->{state}` for each daemon that a request needs and that is not up (dapi.md 3.7, point 2). Names
    that are not daemons, and daemons that this root never had, are not required."""
    files, pids = _run_files(root)
    missing = []
    for name in required:
        if name not in DAEMONS or (serves_store and name in OF_OUR_STORE):
            continue
        state = _state(name, files, pids.get(name, []))
        if state not in NOT_READY:
            continue
        was_ever_here = name in pids or f"{name}.failed" in files or f"{name}.start" in files
        if was_ever_here or os.path.exists(f"{root}/bin/{name}"):
            missing.append(f"{name}->{state}")
    return missing


def _run_files(root: str) -> tuple[frozenset[str], dict[str, list[int]]]:
    """Returns the names of the files, and the pids that pid files name."""
    try:
        files = frozenset(os.listdir(f"{root}/var/run"))
    except FileNotFoundError:
        return frozenset(), {}
    pids: dict[str, list[int]] = {}
    for name in files:
        found = _PID_FILE.fullmatch(name)
        if found:
            pids.setdefault(found[1], []).append(int(found[2]))
    return files, pids


def _state(daemon: str, files: frozenset[str], pids: list[int]) -> str:
    if f"{daemon}.failed" in files:
        return "failed"
    if ".restart" in files:
        return "restarting"
    if f"{daemon}.start" in files:
        return "starting"
    if not pids:
        return "stopped"
    try:
        return "running" if any(is_process(pid) for pid in pids) else "failed"
    except OSError as failure:
        from clusterd.wire.results import WireException  # takes longer to load than all else here

        raise WireException(1913, str(failure)) from None
