"""The members of the cluster, the absent and the refused ones: for `clusterd control`, on any node."""

from collections.abc import Sequence
from typing import Any

from clusterd.errors import ClusterError
from clusterd.status.verdict import span
from tools import questions

Row = dict[str, Any]
UNKNOWN_NODE = 1730


def nodes(root: str, names: Sequence[str]) -> list[Row]:
    """Returns a row for each node, or for those with these `names`: `name` (empty for a node that was refused before it
    said one), `type`, `version`, `ip`, `state` (connected, expected, lost, refused), `lost_s` (how long it is away) and
    `why`.

    Raises NotAnswering, ClusterError (1730 for a name that nobody knows)."""
    away, refused = _absent(root, names)
    known = {row["name"] for row in (*away, *refused)}
    wanted = [name for name in names if name not in known]
    try:
        connected = questions.nodes(root, wanted or None)["items"] if wanted or not names else []
    except ClusterError as refusal:
        if refusal.code != UNKNOWN_NODE:
            raise
        raise ClusterError(UNKNOWN_NODE, ", ".join(wanted)) from None
    return [*({**item, "state": "connected", "lost_s": None, "why": ""} for item in connected), *away, *refused]


def health(root: str, names: Sequence[str]) -> dict[str, Any]:
    """Returns the answer to `get_health`, and beside it `away` and `refused`: rows as those of `nodes`. Raises
    NotAnswering, ClusterError (1730 for a name that nobody knows)."""
    away, refused = _absent(root, names)
    found = questions.health(root, names or None)
    known = {*found["nodes"], *(row["name"] for row in (*away, *refused))}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ClusterError(UNKNOWN_NODE, ", ".join(unknown))
    return {**found, "away": away, "refused": refused}


def _absent(root: str, names: Sequence[str]) -> tuple[list[Row], list[Row]]:
    """Returns rows of nodes that are away, and of nodes that were refused."""
    found = questions.members(root)
    away = [
        _row(row, "worker", row["version"], row["state"], row["lost_s"], row["why"])
        for row in found["workers"]
        if not names or row["name"] in names
    ]
    refused = [
        _row(row, "", "", "refused", None, row["reason"])
        for row in found["refused"]
        if not names or row["name"] in names
    ]
    return away, refused


def _row(row: Row, kind: str, version: str, state: str, lost_s: float | None, why: str) -> Row:
    return {
        "name": row["name"],
        "type": kind,
        "version": version,
        "ip": row["address"],
        "state": state,
        "lost_s": lost_s,
        "why": why,
    }


def state_text(row: Row) -> str:
    """Shows the state of a row as `clusterd status` does: LOST for 55 s, REFUSED (...)."""
    if row["state"] == "lost":
        return f"LOST for {span(row['lost_s'])}"
    return f"REFUSED ({row['why']})" if row["state"] == "refused" else str(row["state"])
