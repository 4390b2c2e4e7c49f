"""The status of a master with many workers, as StatusReader reads it, and a board of its processes."""

import os
from pathlib import Path
from typing import Any

from clusterd.status.status import StatusReader
from ipc.board import Board

NAMES = ("supervisor", "api", "net", "sync", "pool-1", "pool-0", "store", "monitor")
AT = 1_900_000_000.0


def worker_names(count: int) -> list[str]:
    return [f"worker-{number:02d}" for number in range(count)]


def status_of_master(count: int = 2) -> dict[str, Any]:
    """Every worker is equal, and there are no problems."""
    names = worker_names(count)
    result = {
        "result": "equal", "detail": None, "checked_at": AT, "synced_at": AT, "created": 1, "updated": 2, "deleted": 3,
        "behind": 0, "digest": "ab" * 32, "equal_at": AT, "lag_s": None, "lag_files": 0, "problems": {},
    }  # fmt: skip
    agents = {"active": 100, "disconnected": 5, "pending": 0, "never_connected": 1}
    return StatusReader("/nowhere").read() | {
        "running": True, "at": AT, "root": "/r", "problem": "", "problems": {}, "started_at": AT, "log_level": None,
        "monitor_url": None, "net": None, "store": None, "api": None, "journal": None, "slabs": {}, "syncs": [],
        "framework": None, "refused": [],
        "node": {
            "name": "m", "type": "master", "cluster": "wazuh", "version": "4.14.1", "serving": "", "reloaded_at": None,
            "needs_restart": [],
        },
        "processes": [
            {"name": name, "state": "ready", "pid": 1, "uss_bytes": 1, "cpu_percent": 0.1, "restarts": 0}
            for name in NAMES
        ],
        "spool": {
            "used": 1, "limit": 2, "peers": {"worker-00": 7}, "peer_limit": 3, "disk_bytes": 4, "disk_free": 5,
            "disk_reserve": 6,
        },
        "jobs": {
            "bounds_s": [0.1, 1.0],
            "kinds": {"ScanShard": {"count": 6, "failed": 1, "seconds": 2.5, "buckets": [3, 2, 1]}},
        },
        "peers": [{"name": name, "kind": "worker", "keepalive_at": AT, "connected_at": AT} for name in names],
        "manifest": {
            "state": "ready", "failure": None, "watching": True, "withheld": 0, "files": 85, "total_bytes": 8500,
            "last_scan": {"ended_at": AT, "duration_s": 0.2, "problems": {}},
        },
        "results": {name: dict(result) for name in names},
        "workers": [
            {
                "name": name, "state": "connected", "address": "10.0.0.7", "version": "4.14.1", "program": "clusterd",
                "connected_at": AT, "seen_at": AT, "lost_s": None, "why": "", "result": "equal",
            }
            for name in names
        ],
        "agents": {
            "database": "own store", "problem": None, "nodes": {name: dict(agents) for name in names}, "to_report": 4,
            "to_hand_out": 2, "groups_hash": "x", "syncs": {},
        },
    }  # fmt: skip


def board_of_node(directory: Path) -> Board:
    """Every process is this one, with a fresh heartbeat."""
    board = Board.create(str(directory / "board"))
    for name in NAMES:
        row = board.add_row(name)
        row.begin(os.getpid(), 1)
        row.set_ready()
    return board
