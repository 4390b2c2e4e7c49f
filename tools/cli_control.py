"""`clusterd control`: nodes, agents and syncs of the cluster, asked of any node. The same facts as
`cluster_control`."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import click

from clusterd.errors import for_people
from clusterd.exits import ExitCode
from clusterd.printable import printable_facts
from clusterd.status.control import ClusterError, NotAnswering
from clusterd.status.status import StatusReader
from clusterd.status.verdict import counted, span
from tools import drawing, membership, questions
from tools.cli_completion import node_names
from tools.drawing import Drawn, Parts, Styled, TextTable
from tools.seconds import Seconds
from tools.show import fail
from tools.units import natural

Facts = Any
NEVER = "n/a"
_DATE = "%Y-%m-%dT%H:%M:%S.%fZ"
STATES = ("active", "disconnected", "never_connected", "pending")
STATE_COLOURS = {"lost": "red", "expected": "yellow", "refused": "red"}
COLOURS = {"active": "green", "disconnected": "red", "pending": "yellow"}

_json = click.option("--json", "as_json", is_flag=True, help="The same facts for programs.")
_watch = click.option(
    "--watch", "watch_s", type=Seconds(0.2), is_flag=False, flag_value=2.0, help="Again every SECONDS (2)."
)
_node = click.option(
    "--node", "names", multiple=True, shell_complete=node_names, help="Only this node; may be given several times."
)


@click.group()
def control() -> None:
    """Ask the cluster, on any of its nodes."""


@control.command()
@_node
@_json
@_watch
@click.pass_obj
def nodes(root: str, names: tuple[str, ...], as_json: bool, watch_s: float | None) -> None:
    """The nodes: connected, lost, and refused lately."""
    own = own_role(root)
    _show(lambda: membership.nodes(root, names), lambda items: nodes_view(items, own), as_json, watch_s)


@control.command()
@_node
@click.option("--status", "statuses", multiple=True, type=click.Choice(STATES), help="Only agents in this state.")
@_json
@_watch
@click.pass_obj
def agents(root: str, names: tuple[str, ...], statuses: tuple[str, ...], as_json: bool, watch_s: float | None) -> None:
    """The agents, and which node each reports to."""
    _show(lambda: questions.agents(root, statuses, names), agents_view, as_json, watch_s)


@control.command()
@_node
@_json
@_watch
@click.pass_obj
def health(root: str, names: tuple[str, ...], as_json: bool, watch_s: float | None) -> None:
    """When each worker was last checked, synchronised and heard of."""
    _show(lambda: membership.health(root, names), health_view, as_json, watch_s)


def _show(ask: Callable[[], Facts], view: Callable[[Facts], Drawn], as_json: bool, watch_s: float | None) -> None:
    """Shows it once, or until interrupted; a failure of the first question ends it, later failures are shown."""
    try:
        found = ask()
    except KeyboardInterrupt:
        if watch_s:
            return
        raise
    except NotAnswering as failure:
        fail(str(failure), ExitCode.NOT_RUNNING)
    except ClusterError as failure:
        fail(for_people(failure))
    if not watch_s:
        if as_json:
            click.echo(json.dumps(found, indent=2))
        else:
            drawing.show(view(printable_facts(found)))
        return
    from tools.watching import watch, watch_json

    first = [found]

    def again() -> Facts:
        return first.pop() if first else ask()

    if as_json:
        watch_json(again, watch_s)
    else:
        watch(lambda: view(printable_facts(again())), watch_s)


# ---- views: pure functions of the facts ------------------------------------------------------------------------------


def own_role(root: str) -> tuple[str, str]:
    """Name and role of the node that is asked, where it was given one beside its configuration (docs/ha.md); else
    empty. The protocol has `master` and `worker` only."""
    node = StatusReader(root).read_sync()["node"]
    return (node["name"], node["role"]) if node is not None and node.get("term") else ("", "")


def nodes_view(items: list[dict[str, Any]], own: tuple[str, str] = ("", "")) -> Drawn:
    table = _table("Node", "Type", "Version", "Address", "State")
    for item in items:
        state = item["state"]
        kind = own[1] if own[0] and item["name"] == own[0] else item["type"]
        cells = [item["name"] or "?", kind, item["version"], item["ip"]]
        table.add_row(*cells, Styled(membership.state_text(item), STATE_COLOURS.get(state, "")))
    return table


def agents_view(items: list[dict[str, Any]]) -> Drawn:
    table = _table("Id", "Name", "Address", "State", "Version", "Node")
    for item in items:
        state = item.get("status", "")
        cells = [item.get(key, "") for key in ("id", "name", "ip", "version", "node_name")]
        table.add_row(*cells[:3], Styled(state, COLOURS.get(state, "")), *cells[3:])
    table.caption = counted(len(items), "agent")
    return table


def health_view(answer: dict[str, Any]) -> Drawn:
    table = _table("Node", "Active agents", "Checked", "Files synced", "Agents reported", "Groups given", "Heard of")
    for name, node in sorted(answer["nodes"].items(), key=lambda item: natural(item[0])):
        status = node.get("status")
        times = ["", "", "", "", ""] if status is None else [_ago(when) for when in _times(status)]
        table.add_row(name, str(node["info"]["n_active_agents"]), *times)
    lost = sum(row["state"] == "lost" for row in answer["away"])
    table.caption = counted(answer["n_connected_nodes"], "worker") + (f", {lost} lost" if lost else "")
    absent = [*answer["away"], *answer["refused"]]
    if not absent:
        return table
    others = _table("Node", "Address", "State")  # a table of their own: reasons are long
    for row in absent:
        state = Styled(membership.state_text(row), STATE_COLOURS.get(row["state"], ""))
        others.add_row(row["name"] or "?", row["ip"], state)
    return Parts(table, Styled(), others)


def _times(status: dict[str, Any]) -> list[str]:
    groups = [status[key]["date_end"] for key in ("last_sync_agentgroup", "last_sync_full_agentgroup")]
    return [
        status["last_check_integrity"]["date_end_master"],
        status["last_sync_integrity"]["date_end_master"],
        status["last_sync_agentinfo"]["date_end_master"],
        max((when for when in groups if when != NEVER), default=NEVER),
        status["last_keep_alive"],
    ]


def _ago(when: str) -> str:
    """Shows the age of a date of a record: `12 s ago`."""
    try:
        passed = datetime.now(UTC) - datetime.strptime(when, _DATE).replace(tzinfo=UTC)
    except ValueError:
        return "never"
    return f"{span(max(0.0, passed.total_seconds()))} ago"


def _table(*columns: str) -> TextTable:
    return TextTable("", *columns, header="bold", first_is_whole=True)
