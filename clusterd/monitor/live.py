"""Whether the processes of the node are alive, judged by the board and the system alone. It asks no process, so the
answer comes at once even when all of them hang."""

from collections.abc import Callable, Iterable

import msgspec

from clusterd import vitals
from clusterd.vitals import Sample
from ipc.board import SUPERVISOR, RowSnapshot

SILENT_S = 10.0
"""A process beats twice a second, the supervisor once. A process that sleeps and has not beaten for this long hangs."""
BUSY_S = 120.0
"""The same for a process that computes, or waits for a core or the disk."""
START_S = 60.0


class HealthCheck(msgspec.Struct, frozen=True):
    """One line of /livez and /readyz. `problem` is empty when all is well."""

    name: str
    problem: str = ""

    def __str__(self) -> str:
        return f"[-]{self.name} failed: {self.problem}" if self.problem else f"[+]{self.name} ok"


def check_processes(
    rows: Iterable[RowSnapshot], now: float, read: Callable[[int], Sample | None] = vitals.read
) -> list[HealthCheck]:
    """Returns one check for each row of the board. `now`: monotonic seconds. `read`: what the system knows of a
    process."""
    return [HealthCheck(row.name, _problem(row, now, read)) for row in rows]


def _problem(row: RowSnapshot, now: float, read: Callable[[int], Sample | None]) -> str:
    if row.state == "failed":
        return "it cannot be kept running: see the log"
    if row.state == "down":
        return "it has ended and is being started again"
    sample = read(row.pid) if row.pid else None
    state = sample.state if sample is not None else ""
    silent_s = max(0.0, now - row.heartbeat_ns / 1e9)
    if state in ("T", "t"):
        return f"it is stopped by {'a signal' if state == 'T' else 'a debugger'}, silent for {silent_s:.1f} s"
    if state in ("Z", "X"):
        return "it has ended"
    if silent_s >= (BUSY_S if state in ("R", "D") else SILENT_S):
        what = "waits for the disk and " if state == "D" else "computes and " if state == "R" else ""
        return f"it {what}has given no sign of life for {silent_s:.0f} s"
    begun_s = now - row.begun_ns / 1e9
    if row.state == "starting" and row.name != SUPERVISOR and begun_s >= START_S:
        return f"it has been starting for {begun_s:.0f} s"
    return ""


def check_readiness(status: dict[str, object], *, is_fresh: bool, silent_s: float | None) -> list[HealthCheck]:
    """Returns the checks of the node's work, beside its processes being alive. `status`: as StatusReader.read returns
    it. `is_fresh`: sync has answered lately; `silent_s`: age of its last answer, None if it never answered."""
    if not is_fresh:
        last = "it has not answered yet" if silent_s is None else f"its last answer is {silent_s:.0f} s old"
        return [HealthCheck("answers", f"sync does not answer; {last}")]
    manifest, agents = _dict(status.get("manifest")), _dict(status.get("agents"))
    checks = [
        HealthCheck("answers"),
        HealthCheck("link", str(status.get("problem") or "")),
        HealthCheck("manifest", "" if "files" in manifest else "the first scan of this node's files is running"),
        HealthCheck("agents", str(agents.get("problem") or "")),
    ]
    starting = [row for row in _list(status.get("processes")) if row["state"] != "ready"]
    names = ", ".join(f"{row['name']} is {row['state']}" for row in starting)
    return [*checks, HealthCheck("processes", names)]


def told(what: str, checks: list[HealthCheck], *, verbose: bool) -> tuple[bool, str]:
    """Returns whether all is well, and the text: `ok`, or the checks, one a line, and the outcome, in etcd's format.
    `what`: livez, readyz."""
    is_well = not any(check.problem for check in checks)
    if is_well and not verbose:
        return True, "ok\n"
    lines = [str(check) for check in checks if verbose or check.problem]
    return is_well, "\n".join([*lines, f"{what} check {'passed' if is_well else 'failed'}"]) + "\n"


def _dict(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[dict[str, object]]:
    return value if isinstance(value, list) else []
