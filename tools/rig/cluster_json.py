"""`etc/cluster.json` of a rig's nodes."""

import json
import os
import pwd
from pathlib import Path
from typing import Any

SCALED = {
    "worker": {"sync_integrity": 9, "sync_agent_info": 10, "connection_retry": 10},
    "master": {"recalculate_integrity": 8, "sync_agent_groups": 10},
}
"""Intervals in seconds that a scale shortens; timeouts and keepalives stay unchanged."""


def amend(root: Path, part: dict[str, Any]) -> None:
    """Merges `part` into a node's cluster.json."""
    path = root / "etc" / "cluster.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(merged(before, part), indent=2) + "\n")


def for_a_rig(scale: float) -> dict[str, Any]:
    """Returns what every node of a rig has: nodes of one machine cannot share a monitoring port, and the user that runs
    the rig owns its nodes, even root."""
    own: dict[str, Any] = {"clusterd": {"monitor": {"enabled": False}}}
    if os.geteuid() == 0:
        own["clusterd"]["owner"] = pwd.getpwuid(os.geteuid()).pw_name
    return merged(own, scaled_intervals(scale)) if scale != 1 else own


def scaled_intervals(scale: float) -> dict[str, Any]:
    """Returns the part of cluster.json that multiplies the cluster's intervals by `scale` (0.1: ten times as fast),
    never below 0.2 s."""
    return {
        "intervals": {
            side: {name: max(0.2, round(seconds * scale, 3)) for name, seconds in names.items()}
            for side, names in SCALED.items()
        }
    }


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Returns `base` with `over` merged into it, objects key by key."""
    out = dict(base)
    for key, value in over.items():
        out[key] = merged(out[key], value) if isinstance(value, dict) and isinstance(out.get(key), dict) else value
    return out
