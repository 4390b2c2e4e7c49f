"""Scripted clusters in the form of the monitoring port: /status.json, /history.json, /lag.json."""

import time
from datetime import UTC, datetime
from typing import Any

MIB = 1 << 20
STEP_S = 15
STEPS = 240


def worker(number: int, **given: Any) -> dict[str, Any]:
    """A row of `workers`."""
    row = {
        "name": f"w{number}",
        "state": "connected",
        "address": f"10.0.0.{number}",
        "version": "4.14.1",
        "program": "clusterd",
        "connected_at": time.time() - 3600 * number,
        "seen_at": time.time() - 1,
        "lost_s": None,
        "why": "",
        "result": "equal",
    }
    return row | given


def result(**given: Any) -> dict[str, Any]:
    """A row of `results`."""
    now = time.time()
    row = {"result": "equal", "detail": None, "checked_at": now - 2, "synced_at": now - 60, "created": 3, "updated": 1}
    row |= {"deleted": 0, "behind": 0, "digest": "ab" * 32, "equal_at": now - 2, "lag_s": None, "lag_files": 0}
    return row | {"problems": {}} | given


def process(name: str, **given: Any) -> dict[str, Any]:
    """A row of `processes`."""
    row = {
        "name": name,
        "pid": 4000 + len(name),
        "incarnation": 1,
        "state": "ready",
        "class": "normal",
        "silent_s": 0.4,
    }
    return row | {"cpu_percent": 1.5, "uss_bytes": 11 * MIB, "restarts": 0, "log_lines_lost": 0} | given


def master(workers: int = 3, **given: Any) -> dict[str, Any]:
    """A master with that many workers, all of them equal."""
    now, names = time.time(), [f"w{number}" for number in range(1, workers + 1)]
    counts = {"active": 220, "disconnected": 3, "never_connected": 1}
    status: dict[str, Any] = {
        "verdict": {"level": "OK", "reason": f"20000 files, {workers} workers connected"},
        "running": True,
        "at": now,
        "root": "/var/ossec",
        "problem": "",
        "problems": {},
        "started_at": now - 900000,
        "log_level": None,
        "node": {
            "name": "m1",
            "type": "master",
            "cluster": "wazuh",
            "version": "4.14.1",
            "serving": "10.0.0.200:1516",
            "reloaded_at": None,
            "needs_restart": [],
        },
        "processes": [process(name) for name in ("supervisor", "net", "sync", "pool-1", "pool-2", "pool-0", "store")],
        "net": {"connections": workers, "bytes_in": 5 * MIB, "bytes_out": 90 * MIB},
        "store": {},
        "api": None,
        "slabs": {},
        "spool": None,
        "framework": None,
        "peers": [],
        "manifest": {
            "state": "ready",
            "failure": None,
            "watching": True,
            "unwatched": None,
            "withheld": 0,
            "settling": 0,
            "files": 20000,
            "total_bytes": 300 * MIB,
            "last_scan": {"ended_at": now - 4, "duration_s": 0.3, "hashed": 2, "reused": 19998, "problems": {}},
        },
        "syncs": [],
        "results": {name: result() for name in names},
        "workers": [worker(number) for number in range(1, workers + 1)],
        "refused": [],
        "agents": {
            "database": "own store",
            "problem": None,
            "nodes": {},
            "to_report": 0,
            "to_hand_out": 0,
            "syncs": {},
        },
        "monitor": {
            "asked_at": now,
            "fresh": True,
            "answer_age_s": 0.4,
            "events_lost": 0,
            "journal": {"rows": 12, "bytes": 65536},
        },
    }
    status["agents"]["nodes"] = {name: dict(counts) for name in ["m1", *names][: workers + 1]}
    return status | given


def with_lost(**given: Any) -> dict[str, Any]:
    """w2 of three is gone."""
    status = master(**given)
    status["verdict"] = {"level": "DEGRADED", "reason": "w2 is LOST for 55 s (gone for good? clusterd forget w2)"}
    status["workers"][1] |= {"state": "lost", "lost_s": 55.0, "why": "no answer for 12 s"}
    status["results"]["w2"] |= {"result": "lost", "lag_s": None, "lag_files": None}
    return status


def with_refused(**given: Any) -> dict[str, Any]:
    """A node of another cluster tries to join."""
    status = master(**given)
    why = 'its cluster is "wazu", ours is "wazuh"'
    status["verdict"] = {"level": "DEGRADED", "reason": f"REFUSED w9 from 10.0.0.9: {why}"}
    now = status["at"]
    row = {"name": "w9", "address": "10.0.0.9", "reason": why, "since": now - 60, "at": now - 1, "attempts": 7}
    return status | {"refused": [row]}


def syncing(**given: Any) -> dict[str, Any]:
    """w1 gets files; w2's package is being made; w3 is behind."""
    status = master(**given)
    status["syncs"] = [
        {"peer": "w1", "kind": "integrity", "step": "sending", "done_bytes": 3 * MIB, "total_bytes": 12 * MIB},
        {"peer": "w2", "kind": "integrity", "step": "packing", "done_bytes": 0, "total_bytes": 0},
        {"peer": "w3", "kind": "integrity check", "step": "scanning", "done_bytes": 0, "total_bytes": 0},
    ]
    for sync in status["syncs"]:
        sync["started_at"] = status["at"] - 4
    for name, lag_s in (("w1", 4.0), ("w2", 4.0), ("w3", 95.0)):
        status["results"][name] |= {"lag_s": lag_s, "lag_files": 12}
    return status


def of_worker(**given: Any) -> dict[str, Any]:
    """A worker, equal to its master."""
    now = time.time()
    peer = {"name": "m1", "kind": "master", "address": "10.0.0.200", "version": "4.14.1", "program": "clusterd"}
    peer |= {"capabilities": [], "connected_at": now - 7200, "keepalive_at": now - 3}
    status = master(0)
    status["verdict"] = {"level": "OK", "reason": "20000 files, connected to its master"}
    status["node"] |= {"name": "w1", "type": "worker"}
    return status | {"peers": [peer], "results": {"self": result()}} | given


def not_answering() -> dict[str, Any]:
    """The node's sync process hangs: the last answer is 12 s old."""
    status = master()
    status["verdict"] = {"level": "DOWN", "reason": "The node does not answer: no answer within 1.2 s"}
    status["processes"][2]["silent_s"] = 14.0
    status["monitor"] |= {"fresh": False, "answer_age_s": 12.0}
    return status


HOSTILE = '<img src=x onerror="window.hurt=1"><b>bold</b>'
TURNED = "\u202elmx.selur"


def hostile() -> dict[str, Any]:
    """Every text that other programs may choose is markup."""
    status = with_refused()
    status["verdict"]["reason"] = f"REFUSED {HOSTILE}"
    status["node"] |= {"name": HOSTILE, "cluster": HOSTILE}
    status["workers"][0] |= {"name": HOSTILE, "version": HOSTILE, "program": HOSTILE, "address": HOSTILE}
    status["workers"][1] |= {"state": "lost", "lost_s": 3.0, "why": HOSTILE, "name": TURNED}
    status["results"] = {HOSTILE: result(result="failed", detail=HOSTILE, problems={HOSTILE: HOSTILE}, lag_s=3.0)}
    status["refused"][0] |= {"name": HOSTILE, "address": HOSTILE, "reason": HOSTILE}
    status["problems"] = {HOSTILE: HOSTILE}
    status["agents"]["nodes"] = {HOSTILE: {"active": 1, HOSTILE: 2}}
    status["syncs"] = [{"peer": HOSTILE, "kind": HOSTILE, "step": HOSTILE, "done_bytes": 1, "total_bytes": 2}]
    status["syncs"][0]["started_at"] = status["at"]
    return status


def lag(names: list[str], *, away: str = "") -> dict[str, Any]:
    """/lag.json of a quiet hour with a change that reached some workers later than others."""
    began = datetime.fromtimestamp(time.time() - STEPS * STEP_S, UTC)
    workers: dict[str, list[float | None]] = {}
    for number, name in enumerate(names):
        row: list[float | None] = [0.0] * STEPS
        for step in range(80, 80 + number % 7):
            row[step] = (4.0, 16.0, 45.0, 90.0, 700.0, 20.0, 3.0)[(step + number) % 7]
        if name == away:
            row[-8:] = [None] * 8
        workers[name] = row
    return {"step_s": STEP_S, "from": began.isoformat().replace("+00:00", "Z"), "workers": workers}


def at(number: int, last: int = 0) -> str:
    """The time of an event: the one before the last is 20 s older."""
    moment = datetime.fromtimestamp(time.time() - 20 * (last - number), UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def change(seq: int, files: int = 3, **given: Any) -> dict[str, Any]:
    rows = [
        {
            "path": f"etc/rules/{1000 + seq}-{number}_rules.xml",
            "what": ("changed", "added", "deleted")[number % 3],
            "size_before": None if number % 3 == 1 else 900 + number,
            "size": None if number % 3 == 2 else 1200 + number,
            "digest_before": None if number % 3 == 1 else "0a" * 32,
            "digest": None if number % 3 == 2 else "1b" * 32,
        }
        for number in range(files)
    ]
    counts = {word: sum(row["what"] == word for row in rows) for word in ("added", "changed", "deleted", "withheld")}
    event = {"seq": seq, "at": at(seq, seq), "node": "m1", "kind": "change", "manifest": "5e" * 6, "source": "events"}
    return event | counts | {"files": rows, "unlisted": 0, "part": 1, "parts": 1, "seconds": 0.021} | given


def sync(seq: int, **given: Any) -> dict[str, Any]:
    event = {"seq": seq, "at": at(seq, seq), "node": "m1", "kind": "sync", "worker": "w1", "what": "files"}
    event |= {"manifest": "5e" * 6, "files": 3, "bytes": 84000, "seconds": 0.31}
    return event | {"result": "ok", "why": "", "left_out": []} | given


def history(count: int = 12) -> list[dict[str, Any]]:
    """Events of all kinds, newest first."""
    added = {
        "what": "added",
        "agent": "017",
        "name": "web-4",
        "ip": "any",
        "through": "w1",
        "who": "10.1.1.9",
        "why": "",
    }
    request = {"function": "delete_agents", "about": "agents 004", "user": "alice", "through": "m1", "result": "done"}
    kinds: list[dict[str, Any]] = [
        {"kind": "registration", **added},
        {"kind": "group", "what": "assigned", "agent": "017", "agents": 1, "group": "web", "who": "alice"},
        {"kind": "login", "user": "alice", "through": "m1", "address": "10.1.1.9", "result": "refused"},
        {"kind": "request", **request, "why": ""},
        {"kind": "worker", "worker": "w2", "what": "lost", "why": "no answer for 12 s", "address": "10.0.0.2"},
        {"kind": "problem", "what": "begins", "subject": "spool", "text": "disk full"},
        {"kind": "process", "process": "net", "what": "died", "pid": 811, "why": "signal 9"},
        {"kind": "reload", "changed": ["intervals"], "needs_restart": []},
        {"kind": "lost", "process": "sync", "count": 4},
    ]
    events = []
    for seq in range(1, count + 1):
        turn = seq % (len(kinds) + 4)
        if turn in (0, 2):
            events.append(change(seq, files=1 + seq % 5))
        elif turn in (1, 3):
            events.append(sync(seq, worker=f"w{1 + seq % 3}"))
        else:
            events.append({"seq": seq, "node": "m1"} | kinds[turn - 4])
        events[-1]["at"] = at(seq, count)
    return events[::-1]
