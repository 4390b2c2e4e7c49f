"""Makes a node sync now, waits for the end, and shows what would change: functions that return values."""

import json
import time
from collections.abc import Callable
from typing import Any

import msgspec

from clusterd.status.control import ask_json
from clusterd.status.verdict import MOST_NAMED, span
from clusterd.wire.commands import DIFF, SYNC_NOW
from tools.units import size

ASK_S = 60.0
POLL_S = 0.1


class Behind(msgspec.Struct, frozen=True):
    """A worker that does not have the current manifest yet. `lag_s`: for how long, `files`: how many differ, None if
    unknown; `why`: for people; `is_lost`: it is not connected, `is_stuck`: it has tried and says which files it cannot
    put in place: waiting for it is useless."""

    name: str
    why: str
    lag_s: float | None = None
    files: int | None = None
    done_bytes: int = 0
    total_bytes: int = 0
    is_lost: bool = False
    is_stuck: bool = False


class Standing(msgspec.Struct, frozen=True):
    """The state of a sync: names of the nodes that are equal, and those that are behind. `left_out`: by node, the files
    that it leaves out: `count`, and `files` (path to reason, the first of them)."""

    equal: list[str]
    behind: list[Behind]
    problem: str = ""
    left_out: dict[str, dict[str, Any]] = {}

    @property
    def is_waiting(self) -> bool:
        """Whether more time may change something."""
        return bool(self.problem) or any(not (row.is_lost or row.is_stuck) for row in self.behind)

    @property
    def is_late(self) -> bool:
        """Whether a worker is behind for another reason than files that it leaves out."""
        return bool(self.problem) or any(not row.is_stuck for row in self.behind)


def begin(root: str, *, allow_delete: bool, timeout_s: float = ASK_S) -> dict[str, Any]:
    """Makes the node scan for changes now and publish them to the workers; on a worker: check now. It answers when the
    scan has ended. The answer's `at` is the node's clock.

    Raises NotAnswering, ClusterError."""
    payload = json.dumps({"allow_delete": allow_delete}).encode()
    answer: dict[str, Any] = ask_json(root, SYNC_NOW, payload, timeout_s=timeout_s, reply_s=timeout_s)
    return answer


def difference(root: str, node: str) -> dict[str, Any]:
    """Returns what `node` (a worker; "" for the worker that is asked) would have to change. Raises NotAnswering,
    ClusterError."""
    answer: dict[str, Any] = ask_json(root, DIFF, node.encode(), timeout_s=ASK_S, reply_s=ASK_S)
    return answer


def workers_of(status: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the connected workers in a status of a master."""
    return [peer for peer in status["peers"] or [] if peer["kind"] == "worker"]


def standing(status: dict[str, Any], since: float, known: list[str]) -> Standing:
    """Returns which workers have had the current manifest since `since` (the node's wall clock). `known`: workers that
    were connected when the sync began; one that is gone counts as behind."""
    if status["peers"] is None:
        return Standing([], [], status["problem"] or "the node does not answer")
    if status["node"]["type"] != "master":
        return _own_standing(status, since)
    equal: list[str] = []
    behind: list[Behind] = []
    current = (status["manifest"] or {}).get("content_digest")
    workers = {peer["name"]: peer for peer in workers_of(status)}
    away = {row["name"]: row for row in status["workers"] if row["state"] != "connected"}
    for name in dict.fromkeys([*known, *workers, *away]):
        if name not in workers:
            lost = name in away and away[name]["state"] == "lost"
            why = f"is LOST for {span(away[name]['lost_s'])}" if lost else "is not connected"
            behind.append(Behind(name, why, is_lost=lost))
            continue
        row = status["results"].get(name)
        was_equal_since = row is not None and (row["equal_at"] or 0.0) >= since
        is_equal = row is not None and row["lag_s"] is None and row["digest"] == current
        if was_equal_since or is_equal:
            equal.append(name)
        else:
            behind.append(_behind(name, row, status, since))
    return Standing(equal, behind, left_out=status["left_out"])


def left_out_text(row: dict[str, Any]) -> str:
    """Tells how many files a row of `left_out` has."""
    return f"leaves out {row['count']} file{'' if row['count'] == 1 else 's'}"


def _behind(name: str, row: dict[str, Any] | None, status: dict[str, Any], since: float) -> Behind:
    lag_s, files = (row["lag_s"], row["lag_files"]) if row else (None, None)
    for sync in status["syncs"]:
        if sync["peer"] == name:
            done, total = sync["done_bytes"], sync["total_bytes"]
            why = f"{sync['step']}, {size(done)} of {size(total)}" if total else sync["step"]
            return Behind(name, why, lag_s, files, done, total)
    left_out = status["left_out"].get(name)
    if left_out is not None and left_out["at"] >= since and files is not None and files <= left_out["count"]:
        return Behind(name, left_out_text(left_out), lag_s, files, is_stuck=True)
    if row is None or not row["result"]:
        return Behind(name, "has not been checked yet", lag_s, files)
    if row["result"] in ("equal", "synced"):
        return Behind(name, "has not been checked since the change", lag_s, files)
    unsent = "; ".join(f"{path}: {reason}" for path, reason in list(row["problems"].items())[:MOST_NAMED])
    return Behind(name, f"{row['result']}: {row['detail'] or unsent or 'see the log'}", lag_s, files)


def _own_standing(status: dict[str, Any], since: float) -> Standing:
    name, row = status["node"]["name"], status["results"]["self"]
    left_out = status["left_out"]
    if row["result"] == "equal" and row["checked_at"] >= since:
        return Standing([name], [], left_out=left_out)
    why = status["problem"] or (
        f"{row['result']}: {row['detail']}" if row["detail"] else row["result"] or "no check yet"
    )
    for sync in status["syncs"]:
        if sync["kind"].startswith("integrity"):
            return Standing([], [Behind(name, sync["step"], None, None, sync["done_bytes"], sync["total_bytes"])])
    tried = row["result"] == "partly" and not row["detail"] and (row["synced_at"] or 0.0) >= since
    if tried and name in left_out:
        return Standing([], [Behind(name, left_out_text(left_out[name]), is_stuck=True)], "", left_out)
    return Standing([], [Behind(name, why)], left_out=left_out)


def wait(
    read: Callable[[], dict[str, Any]],
    since: float,
    timeout_s: float,
    show: Callable[[Standing], None],
    expect: int = 0,
) -> Standing:
    """Waits until every worker that this master knows has the current manifest or is lost, and `expect` workers have
    it, at most `timeout_s`; workers without it are then in `behind`, or `problem` is set. `read` returns the node's
    status; `show` is called after each look."""
    deadline = time.monotonic() + timeout_s
    known: list[str] | None = None
    while True:
        status = read()
        if known is None and status["peers"] is not None:
            known = [peer["name"] for peer in workers_of(status)]
        found = standing(status, since, known or [])
        show(found)
        is_short = known is not None and status["node"]["type"] == "master" and len(found.equal) < expect
        is_short = is_short and not any(row.is_lost or row.is_stuck for row in found.behind)
        if not (found.is_waiting or is_short) or time.monotonic() >= deadline:
            return found
        time.sleep(POLL_S)
