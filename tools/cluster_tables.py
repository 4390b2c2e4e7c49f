"""The output of `cluster_control`, identical to stock's (dapi.md 7.3, 7.4). Pure functions of the node's answers."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from clusterd.printable import printable, printable_facts

GAP = 2
UNKNOWN = "unknown"
NEVER = "n/a"
AGENT_COLUMNS = {
    "ID": "id",
    "NAME": "name",
    "IP": "ip",
    "STATUS": "status",
    "VERSION": "version",
    "NODE NAME": "node_name",
}
NODE_COLUMNS = ("NAME", "TYPE", "VERSION", "ADDRESS")
_DATE = "%Y-%m-%dT%H:%M:%S.%fZ"
SHORTEST_S = 0.0005


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Left-aligns cells. Each column, the last one too, is two spaces wider than its longest cell."""
    lines = [[printable(str(cell)) for cell in row] for row in (columns, *rows)]
    widths = [max(len(line[place]) for line in lines) + GAP for place in range(len(columns))]
    return "\n".join("".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def nodes_table(answer: Mapping[str, Any]) -> str:
    """Shows the answer to `get_nodes`; cells in the order of the keys."""
    return table(NODE_COLUMNS, [list(item.values()) for item in answer["items"]])


def agents_table(items: Iterable[Mapping[str, Any]]) -> str:
    """Shows the items of an overview."""
    return table(list(AGENT_COLUMNS), [[item.get(key, UNKNOWN) for key in AGENT_COLUMNS.values()] for item in items])


def duration(start: str, end: str) -> str:
    """Returns the seconds between two dates of a record: `0.21s`."""
    try:
        taken = (datetime.strptime(end, _DATE) - datetime.strptime(start, _DATE)).total_seconds()
    except ValueError:
        return NEVER
    return f"{0.001 if taken < SHORTEST_S else round(taken, 3)}s"


def health_summary(cluster: str, answer: Mapping[str, Any]) -> str:
    """Shows `-i`: a line for each worker."""
    answer = printable_facts(answer)
    lines = [
        f"Cluster name: {printable(cluster)}",
        "",
        f"Last completed synchronization for connected nodes ({answer['n_connected_nodes']}):",
    ]
    for name, node in sorted(answer["nodes"].items()):
        if node["info"]["type"] == "master":
            continue
        status = node["status"]
        lines.append(
            f"    {name} ({node['info']['ip']}): "
            f"Integrity check: {status['last_check_integrity']['date_end_master']} | "
            f"Integrity sync: {status['last_sync_integrity']['date_end_master']} | "
            f"Agents-info: {status['last_sync_agentinfo']['date_end_master']} | "
            f"Agent-groups: {status['last_sync_agentgroup']['date_end']} | "
            f"Agent-groups full: {status['last_sync_full_agentgroup']['date_end']} | "
            f"Last keep alive: {status['last_keep_alive']}."
        )
    return "\n".join([*lines, ""])


def health_long(cluster: str, answer: Mapping[str, Any]) -> str:
    """Shows `-i more`: a block for each node."""
    answer = printable_facts(answer)
    blocks = [f"Cluster name: {printable(cluster)}\n\nConnected nodes ({answer['n_connected_nodes']}):"]
    for name, node in sorted(answer["nodes"].items()):
        info = node["info"]
        lines = [
            f"    {name} ({info['ip']})",
            f"        Version: {info['version']}",
            f"        Type: {info['type']}",
            f"        Active agents: {info['n_active_agents']}",
        ]
        if info["type"] != "master":
            lines += _status_lines(node["status"])
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def _status_lines(status: Mapping[str, Any]) -> list[str]:
    check, sync = status["last_check_integrity"], status["last_sync_integrity"]
    info = status["last_sync_agentinfo"]
    groups, full = status["last_sync_agentgroup"], status["last_sync_full_agentgroup"]
    files = sync["total_files"]
    return [
        "        Status:",
        "            Last keep Alive:",
        f"                Last received: {status['last_keep_alive']}.",
        "            Integrity check:",
        f"                Last integrity check: {_span(check['date_start_master'], check['date_end_master'])}.",
        f"                Permission to check integrity: {status['sync_integrity_free']}.",
        "            Integrity sync:",
        f"                Last integrity synchronization: {_span(sync['date_start_master'], sync['date_end_master'])}.",
        f"                Synchronized files: Shared: {files['shared']} | Missing: {files['missing']} | "
        f"Extra: {files['extra']}.",
        "            Agents-info:",
        f"                Last synchronization: {_span(info['date_start_master'], info['date_end_master'])}.",
        f"                Number of synchronized chunks: {info['n_synced_chunks']}.",
        f"                Permission to synchronize agent-info: {status['sync_agent_info_free']}.",
        "            Agents-groups:",
        f"                Last synchronization: {_span(groups['date_start'], groups['date_end'])}.",
        f"                Number of synchronized chunks: {groups['n_synced_chunks']}.",
        "            Agents-groups full:",
        f"                Last synchronization: {_span(full['date_start'], full['date_end'])}.",
        f"                Number of synchronized chunks: {full['n_synced_chunks']}.",
    ]


def _span(start: str, end: str) -> str:
    return f"{duration(start, end)} ({start} - {end})"
