"""The facts of a node at one moment: from the board, from /proc, and from sync over the local socket.

Answers within two seconds, whichever processes are dead. Stable keys; docs/operations/reference.md lists them.
"""

import contextlib
import errno
import os
import time
from typing import Any

from clusterd.adoption import notice
from clusterd.build import Build, difference, installed, noted
from clusterd.errors import ClusterError
from clusterd.pidfile import running_pid
from clusterd.rundir import board_path, monitor_url_path, problem_path, run_dir
from clusterd.status.absence import not_running
from clusterd.status.control import NotAnswering, NotRunning, ask_json
from clusterd.status.processes import ProcessReader
from clusterd.wire.commands import STATUS
from ipc.board import FOR_EVER_NS, Board, RowSnapshot

ASK_TIMEOUT_S = 1.2
LOOK_S = 30.0
"""How often a reader that goes on looks whether other code was installed."""
LOG_LEVELS = ("info", "debug", "debug2")
"""Names of the log levels 0, 1 and 2."""
ASKED = (
    "node",
    "peers",
    "manifest",
    "syncs",
    "results",
    "agents",
    "problems",
    "spool",
    "framework",
    "jobs",
    "workers",
    "refused",
    "ha",
    "left_out",
    "clocks",
    "left_behind",
)
"""Members of the answer of sync."""
LOG = "logs/cluster.log"
SUPERVISOR, ELECTION = "supervisor", "election"
"""The node's first process; the one that runs where a node takes part in the election of the master."""
REFUSALS = ("key", "hello", "name", "cluster", "version", "silent")
"""Reasons for which connections to the cluster's port are refused, beside the bounds of their number."""


def log_problems(root: str, rows: list[RowSnapshot]) -> dict[str, str]:
    """Returns what keeps processes from writing the log, as a member of `problems`."""
    failing = [row for row in rows if row.log_errno and row.state not in ("down", "failed")]
    if not failing:
        return {}
    names, lost = ", ".join(row.name for row in failing), sum(row.log_lost for row in failing)
    why = " and ".join(dict.fromkeys(os.strerror(row.log_errno) for row in failing))
    path = f"{root}/{LOG}"
    text = f"{path} cannot be written by {names} ({why}); {lost} lines are lost. "
    if any(row.log_errno in (errno.ENOSPC, errno.EDQUOT) for row in failing):
        return {"log": f"{text}Make room on its disk"}
    return {"log": f"{text}Give the file to the user that the node runs as (logrotate: create 0660 USER GROUP)"}


def child_problems(root: str, rows: list[RowSnapshot]) -> dict[str, str]:
    """Returns the problems that single processes report about themselves."""
    found = {}
    for row in rows:
        with (
            contextlib.suppress(OSError),
            open(problem_path(root, row.name), encoding="utf-8", errors="replace") as file,
        ):
            text = file.read(4096).strip()
            # On a full disk the file comes to be, and nothing gets into it.
            found[row.name] = text or f"{row.name} has a problem that it could not write down: see {LOG}"
    return found


def monitor_url(root: str) -> str | None:
    """Returns where the monitoring port is, None while there is none."""
    try:
        with open(monitor_url_path(root), encoding="utf-8", errors="replace") as file:
            return file.read(4096).strip() or None
    except OSError:
        return None


def adoption_problems(root: str) -> dict[str, str]:
    """Returns what is wrong with the launchers of an adopted manager."""
    text = notice(root)
    return {"adoption": text} if text else {}


def lease_of(board: Board) -> dict[str, Any]:
    """Returns the lease of the election that this node holds: `term`, `left_s` (None: it has no end), `holds`."""
    term, until_ns = board.lead()
    left_s = (until_ns - time.clock_gettime_ns(time.CLOCK_BOOTTIME)) / 1e9
    holds = term > 0 and left_s > 0
    has_end = until_ns != FOR_EVER_NS
    return {"term": term or None, "holds": holds, "left_s": round(max(0.0, left_s), 1) if has_end else None}


def _unknown() -> dict[str, Any]:
    """Returns the members of the status that sync alone knows, as long as it does not answer."""
    return {
        "spool": None,
        "framework": None,
        "jobs": None,
        "peers": None,
        "manifest": None,
        "syncs": [],
        "results": {},
        "workers": [],
        "refused": [],
        "ha": None,
        "left_out": {},
        "clocks": {},
        "left_behind": [],
        "agents": None,
    }


def _nothing_known(root: str) -> dict[str, Any]:
    """Returns the status of a node that does not run."""
    node = ("name", "type", "role", "term", "cluster", "version", "serving", "reloaded_at")
    return {
        "running": False,
        "at": time.time(),
        "root": root,
        "problem": "",
        "problems": {},
        "monitor_url": None,
        "started_at": None,
        "log_level": None,
        "build": None,
        "lease": None,
        "node": dict.fromkeys(node) | {"needs_restart": []},
        "processes": [],
        "net": None,
        "store": None,
        "api": None,
        "journal": None,
        "slabs": {},
        **_unknown(),
    }


class StatusReader:
    """Reads one node repeatedly; the CPU of its processes is measured between two reads."""

    def __init__(self, root: str, *, may_wait: bool = True) -> None:
        """`may_wait`: false for those who read every few seconds or show no CPU: the first read then does not take
        0.2 s to measure it (null instead)."""
        self._root = root
        self._installed: Build | None = None
        self._looked_at = 0.0
        self._processes = ProcessReader(may_wait=may_wait)

    def read_sync(self) -> dict[str, Any]:
        """Returns sync's state without a look at the processes, which is quicker. If sync does not answer, `peers` is
        None and `problem` gives the reason."""
        status: dict[str, Any] = {"node": None, "problems": {}} | _unknown()
        status["problem"] = self._ask(status)
        return status

    def read(self) -> dict[str, Any]:
        """Returns the status. `running` is false when no supervisor lives; then only `problem` has more."""
        status = _nothing_known(self._root)
        pid = running_pid(self._root)
        if pid is None:
            status["problem"] = not_running(self._root)
            status["problems"] = adoption_problems(self._root)
            return status
        status["running"] = True
        try:
            board = Board.open(board_path(self._root))
        except (OSError, ValueError) as failure:
            is_gone = isinstance(failure, FileNotFoundError)
            more = f", or another program has removed {run_dir(self._root)} (then: clusterd restart)" if is_gone else ""
            status["problem"] = f"clusterd (pid {pid}) is starting or stopping{more}: {failure}"
            return status
        try:
            rows = board.rows()
            asked = board.log_level()
            if asked is not None:
                status["log_level"] = {"level": LOG_LEVELS[asked], "left_s": round(board.log_level_left_s(), 1)}
            if any(row.name == ELECTION for row in rows):
                status["lease"] = lease_of(board)
        finally:
            board.close()
        self._processes.begin(rows)
        problem = self._ask(status)
        self._add_processes(status, rows)
        state = next((row.state for row in rows if row.name == SUPERVISOR), "")
        if status["peers"] is None and state in ("starting", "stopping"):
            problem = f"clusterd (pid {pid}) is {state}: {problem}"
        status["problem"] = problem
        status["monitor_url"] = monitor_url(self._root)
        status["problems"] = {
            **self._add_build(status),
            **log_problems(self._root, rows),
            **child_problems(self._root, rows),
            **adoption_problems(self._root),
            **status["problems"],
        }
        return status

    def _add_build(self, status: dict[str, Any]) -> dict[str, str]:
        """Adds what the node was loaded from. Returns that other code is installed now, as a member of `problems`."""
        running = noted(self._root)
        if running is None:
            return {}
        now = time.monotonic()
        if self._installed is None or now - self._looked_at >= LOOK_S:
            try:
                self._installed, self._looked_at = installed(self._installed or running), now
            except OSError:  # in the middle of an upgrade
                self._installed = None
        status["build"] = running.shown() | {"installed": self._installed and self._installed.build}
        text = difference(running, self._installed) if self._installed else ""
        return {"build": text} if text else {}

    def _ask(self, status: dict[str, Any]) -> str:
        """Asks sync for its part; returns the reason if there is none."""
        try:
            answer = ask_json(self._root, STATUS, timeout_s=ASK_TIMEOUT_S)
        except NotRunning as absence:
            return str(absence)
        except NotAnswering as silence:
            return f"The node does not answer: {silence}"
        except ClusterError as refusal:
            return f"The node answered: {refusal}"
        if not isinstance(answer, dict) or "problem" not in answer:
            return "The node does not answer: it says something else than its status"
        # A node that was started before an upgrade does not have the newest members yet.
        status |= {key: answer[key] for key in ASKED if key in answer}
        return str(answer["problem"])

    def _add_processes(self, status: dict[str, Any], rows: list[RowSnapshot]) -> None:
        status["processes"] = self._processes.read(rows)
        for row in rows:
            if row.name == SUPERVISOR:
                status["started_at"] = row.started_at_ns / 1e9
            if "slabs" in row.counters:
                status["slabs"][row.name] = {"total": row.counters["slabs"], "free": row.counters["slabs_free"]}
            if row.name in ("store", "api"):
                status[row.name] = dict(row.counters)
            if row.name == "monitor":
                status["journal"] = {key: count for key, count in row.counters.items() if key != "verdict"}
            if row.name == "net":
                counters = row.counters
                status["net"] = {
                    "connections": counters["connections"],
                    "handshakes": counters["handshakes"],
                    "local_clients": counters["local_clients"],
                    "refused": counters["refused"],
                    "refusals": {reason: counters[f"refused_{reason}"] for reason in REFUSALS},
                    "frames_in": counters["frames_in"],
                    "frames_out": counters["frames_out"],
                    "bytes_in": counters["bytes_in"],
                    "bytes_out": counters["bytes_out"],
                    "work_max_ms": counters["work_max_us"] / 1000,
                    "work_over_5ms": counters["work_over_5ms"],
                }
