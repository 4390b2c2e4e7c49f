"""The questions of the control tools to a node about the cluster. They raise NotAnswering and ClusterError of
clusterd/status/control.py."""

import json
from collections.abc import Sequence
from typing import Any

from clusterd.errors import ClusterError
from clusterd.status.control import ANSWER_S, ask_json, call
from clusterd.wire.commands import GET_CONFIG, GET_HEALTH, GET_MEMBERS, GET_NODES

OVERVIEW = ("get_agents_overview", "wazuh.core.agent", "Agent.get_agents_overview")
OVERVIEW_FIELDS = ["id", "ip", "name", "status", "node_name", "version"]
ALL = "all"
UNKNOWN_COMMAND = 3000
REPLY_S = 20.0
"""As long as stock clients wait (dapi.md 1.12)."""


def cluster_name(root: str) -> str:
    return str(ask_json(root, GET_CONFIG, timeout_s=ANSWER_S, reply_s=REPLY_S)["name"])


def members(root: str) -> dict[str, list[dict[str, Any]]]:
    """Asks for the known workers without a link (`workers`) and the refused nodes (`refused`), on any node. Both are
    empty where a stock master or an earlier version answers."""
    try:
        found: dict[str, list[dict[str, Any]]] = ask_json(root, GET_MEMBERS, timeout_s=ANSWER_S, reply_s=REPLY_S)
    except ClusterError as refusal:
        if refusal.code != UNKNOWN_COMMAND:
            raise
        return {"workers": [], "refused": []}
    return found


def nodes(root: str, names: Sequence[str] | None) -> dict[str, Any]:
    """Asks `get_nodes` as stock clients do; an unknown name is ClusterError 1730."""
    wanted = {
        "filter_node": None if names is None else list(names),
        "offset": 0,
        "limit": 500,
        "sort": None,
        "search": None,
        "select": None,
        "filter_type": "all",
        "distinct": False,
    }
    found: dict[str, Any] = ask_json(root, GET_NODES, json.dumps(wanted).encode(), timeout_s=ANSWER_S, reply_s=REPLY_S)
    return found


def health(root: str, names: Sequence[str] | None) -> dict[str, Any]:
    """Asks `get_health` of these nodes, or of all that `get_nodes` lists. Unknown ones are left out."""
    if names is None:
        names = [item["name"] for item in nodes(root, None)["items"]]
    found: dict[str, Any] = ask_json(
        root, GET_HEALTH, json.dumps(list(names)).encode(), timeout_s=ANSWER_S, reply_s=REPLY_S
    )
    return found


def agents(root: str, statuses: Sequence[str], names: Sequence[str]) -> list[dict[str, Any]]:
    """Asks for the overview of all agents (dapi.md 1.11, S3). Several values are sent as a list, which stock masters
    match as any of them (dapi.md 7.3)."""
    from clusterd.dapi.protocol.request import ApiRequest  # only what asks for a function loads the API's messages
    from clusterd.wire.results import WireCallable, WireResult

    request = ApiRequest(
        f=WireCallable(*OVERVIEW),
        f_kwargs={
            "filters": {"status": _filter(statuses), "node_name": _filter(names)},
            "limit": None,
            "select": OVERVIEW_FIELDS,
        },
    )
    answer = call(root, request)
    result = answer.fields.get("result") if isinstance(answer, WireResult) else None
    if not isinstance(result, dict) or not isinstance(result.get("items"), list):
        raise ClusterError(3036, "the overview of agents has no items")
    return list(result["items"])


def _filter(values: Sequence[str]) -> str | list[str]:
    if not values:
        return ALL
    return values[0] if len(values) == 1 else list(values)
