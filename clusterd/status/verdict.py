"""The state of a node in one word, with the most important reason: pure, from the facts of status.py."""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from clusterd.exits import ExitCode

Level = Literal["OK", "DEGRADED", "DOWN"]
LAG_S = 60.0
"""From this lag on a worker that is behind is reported; the next check is due after 9 s."""
MOST_NAMED = 3
IS_OFF = "clusterd.ha.synchronous is off"
"""Why registrations wait for nobody where that is wanted (clusterd/store/candidates.py)."""
SUPERVISOR = "supervisor"
SILENT_S = 30.0
"""It does nothing that takes long; a machine that hangs makes it wait, too."""
LOSSES = "agent keys", "files that have vanished"
"""Problems of a master that has lost much at once. What to do first is to put it back: allowing the deletion cannot be
undone (clusterd/sync/manifest/deletion_guard.py)."""
ADVICE = frozenset({"rights", "monitor", "build"})
"""Problems that do not affect the node's work: shown, and no reason for an alarm."""


class Verdict(NamedTuple):
    """`reason` is one line; for OK it tells what works."""

    level: Level
    reason: str

    def code(self, *, is_running: bool) -> ExitCode:
        if self.level == "OK":
            return ExitCode.OK
        if self.level == "DEGRADED":
            return ExitCode.DEGRADED
        return ExitCode.DOWN if is_running else ExitCode.NOT_RUNNING


def verdict(status: dict[str, Any], *, lag_s: float = LAG_S) -> Verdict:
    """Returns the verdict. `status`: as StatusReader.read returns it. `lag_s`: from this lag on a worker is a
    reason."""
    if not status["running"]:
        return Verdict("DOWN", status["problem"])
    if status["peers"] is None:
        return Verdict("DOWN", status["problem"] or "the node does not answer")
    failed = [row["name"] for row in status["processes"] if row["state"] == "failed"]
    if failed:
        return Verdict("DOWN", f"{_names(failed)} cannot be kept running: see the log")
    if (status["node"].get("term") or {}).get("is_deposed"):
        return Verdict("DOWN", status["problem"])
    lease = status.get("lease")
    if lease is not None and status["node"]["type"] == "master" and not lease["holds"]:
        why = status["problems"].get("election", "clusterd ha status says why")
        return Verdict("DOWN", f"this node holds no lease of the election and serves nobody: {why}")
    for reason in hindrances(status, lag_s=lag_s):
        return Verdict("DEGRADED", reason)
    return Verdict("OK", _well(status))


def hindrances(status: dict[str, Any], *, lag_s: float = LAG_S) -> Iterator[str]:
    """Yields what needs attention, the worst first."""
    if status["problem"]:
        yield status["problem"]
    problems = {subject: text for subject, text in status["problems"].items() if subject not in ADVICE}
    losses = [problems.pop(subject) for subject in LOSSES if subject in problems]
    yield from losses
    yield from _of_files(status["manifest"] or {}, is_told=bool(losses))
    mild = [problems.pop(subject) for subject in (SUPERVISOR,) if subject in problems]  # it works all the same
    yield from problems.values()
    yield from mild
    yield from _of_registrations(status.get("ha") or {})
    yield from _of_workers(status)
    yield from _of_syncs(status, lag_s)
    down = [row["name"] for row in status["processes"] if row["state"] in ("down", "unknown")]
    if down:
        yield f"{_names(down)} is being started again"
    for row in status["processes"]:
        if row["name"] == SUPERVISOR and (row.get("silent_s") or 0.0) >= SILENT_S:
            yield f"the supervisor (pid {row['pid']}) is silent for {span(row['silent_s'])}: it replaces no process now"
    agents = status["agents"]
    if agents and agents["problem"]:
        yield f"the agent database does not answer: {agents['problem']}"


def _of_files(manifest: dict[str, Any], *, is_told: bool) -> Iterator[str]:
    """`is_told`: the node says itself what was lost, and what that means."""
    if manifest.get("withheld") and not is_told:
        yield (
            f"{count_files(manifest['withheld'])} lost at once, kept on the workers: put them back; if they are meant "
            "to be gone: clusterd sync --allow-delete"
        )
    if manifest.get("failure"):
        yield f"the last scan of this node's files failed: {manifest['failure']}"


def _of_registrations(ha: dict[str, Any]) -> Iterator[str]:
    """Of a master with replicas, where a candidate is to confirm what is answered."""
    mode, why = ha.get("registrations"), ha.get("registrations_reason")
    if mode == "refused":
        yield f"agents are neither registered nor deleted: {why}"
    elif mode == "asynchronous" and why != IS_OFF:
        yield f"agents are registered without a candidate, and may be lost with this node: {why}"


def _of_workers(status: dict[str, Any]) -> Iterator[str]:
    lost = [row for row in status["workers"] if row["state"] == "lost"]
    kept_out = {row["name"]: refused for row in lost if (refused := _refusal_of(row, status["refused"])) is not None}
    for row in lost:
        if row["name"] in kept_out:
            refused = kept_out[row["name"]]
            who = "it" if refused["name"] else f"a node at its address {row['address']}"
            yield f"{row['name']} is LOST for {span(row['lost_s'])}, and {who} is REFUSED: {refused['reason']}"
    lost = [row for row in lost if row["name"] not in kept_out]
    if lost:
        import shlex  # only when one is

        away = f"{_names([row['name'] for row in lost])} {'is' if len(lost) == 1 else 'are'} LOST"
        longest = max(lost, key=lambda row: row["lost_s"])
        advice = f"gone for good? clusterd forget {shlex.quote(longest['name'])}"
        yield f"{away} for {span(min(row['lost_s'] for row in lost))} ({advice})"
    for row in status["refused"]:
        if row in kept_out.values():
            continue
        who = f"{row['name']} from {row['address']}" if row["name"] else row["address"]
        yield f"REFUSED {who}: {row['reason']}"


def _refusal_of(lost: dict[str, Any], refused: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Returns why a lost worker stays away. One with another key could not say its name."""
    return next(
        (
            row
            for row in refused
            if row["name"] == lost["name"] or (not row["name"] and row["address"] == lost["address"])
        ),
        None,
    )


def _of_syncs(status: dict[str, Any], bound_s: float) -> Iterator[str]:
    here = {row["name"] for row in status["workers"] if row["state"] != "connected"}
    results = {name: row for name, row in status["results"].items() if name not in here}
    for name, row in results.items():
        if row["result"] in ("failed", "unknown"):
            yield f"{_whose(name)} last sync {row['result']}: {row['detail'] or 'see the log'}"
    for name, row in results.items():
        if row["problems"]:
            path, why = next(iter(row["problems"].items()))
            more = f", and {len(row['problems']) - 1} more" if len(row["problems"]) > 1 else ""
            yield f"{_whose(name)} files are not all equal: {path}: {why}{more}"
    yield from left_out_lines(status)
    slow = [(row["lag_s"], name) for name, row in results.items() if (row.get("lag_s") or 0.0) >= bound_s]
    if slow:
        lag_s, name = max(slow)
        yield f"{name} has been behind for {span(lag_s)}"


def left_out_lines(status: dict[str, Any]) -> Iterator[str]:
    """Yields, for each node that leaves out files, its name and the first of them. What a worker leaves out itself is
    in its results already; what its master leaves out is no fault of the worker."""
    if status["node"]["type"] != "master":
        return
    for name, row in status["left_out"].items():
        path, why = next(iter(row["files"].items()), ("", ""))
        more = f", and {row['count'] - 1} more" if row["count"] > 1 else ""
        yield f"{'this node' if name == status['node']['name'] else name} leaves out {path}: {why}{more}"


def _well(status: dict[str, Any]) -> str:
    manifest = status["manifest"] or {}
    if "files" not in manifest:
        return "the first scan of this node's files is running"
    if status["node"]["type"] != "master":
        return f"{count_files(manifest['files'])}, connected to its master"
    connected = sum(row["state"] == "connected" for row in status["workers"])
    expected = len(status["workers"]) - connected
    more = f", {expected} expected" if expected else ""
    return f"{count_files(manifest['files'])}, {connected} worker{'' if connected == 1 else 's'} connected{more}"


def counted(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"


def count_files(count: int) -> str:
    return counted(count, "file")


def _whose(name: str) -> str:
    return "this node's" if name == "self" else f"{name}'s"


def _names(names: list[str]) -> str:
    shown = ", ".join(names[:MOST_NAMED])
    return shown if len(names) <= MOST_NAMED else f"{shown} and {len(names) - MOST_NAMED} more"


APART_S = 2.0
"""From this difference on wall clocks are reported. Nodes are compared with each other, not with a time server."""


def is_apart(clock: dict[str, Any]) -> bool:
    """Returns whether two wall clocks certainly differ. `clock`: a row of `clocks`."""
    difference_s: float = abs(clock["offset_s"]) - clock["off_by_s"]
    return difference_s >= APART_S


def apart(name: str, offset_s: float) -> str:
    """Tells how far the clock of another node is from this node's."""
    return f"the clock of {name} is {span(abs(offset_s))} {'ahead of' if offset_s > 0 else 'behind'} this node's"


def span(seconds: float) -> str:
    """Shows a length of time for people: 55 s, 12 min, 30 h, 9 d. The dashboard does the same (words.js)."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    if seconds < 172800:
        return f"{seconds / 3600:.0f} h"
    return f"{seconds / 86400:.0f} d"
