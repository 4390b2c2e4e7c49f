"""The output of `clusterd top`: a pure function from a status and a size to a renderable. Workers and problems are
first; what does not fit is counted.
"""

from typing import Any, Literal

import msgspec
from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from clusterd.printable import printable, printable_facts
from tools.screen import RESULTS, VERDICTS, size
from tools.verdict import span, verdict

Order = Literal["problems", "name", "lag"]
ORDERS: tuple[Order, ...] = ("problems", "name", "lag")
WIDE = 120
"""Width in columns from which there is room for addresses and versions."""
FEWEST_ROWS = 3
HELP = "q quit   s sort: {order}   p processes   a agents"


class Looks(msgspec.Struct):
    """The operator's choices, made with keys."""

    order: Order = "problems"
    processes: bool = False
    agents: bool = True

    def press(self, key: str) -> bool:
        """Applies a key. Returns False for the key that ends the view."""
        match key:
            case "s":
                self.order = ORDERS[(ORDERS.index(self.order) + 1) % len(ORDERS)]
            case "p":
                self.processes = not self.processes
            case "a":
                self.agents = not self.agents
            case "q" | "\x03" | "\x04":
                return False
        return True


def top_view(status: dict[str, Any], looks: Looks, width: int, height: int) -> RenderableType:
    """Returns at most `height` lines of at most `width` columns."""
    said = verdict(status)
    status = printable_facts(status)
    head = Text.assemble((said.level, f"bold {VERDICTS[said.level]}"), f"  {printable(said.reason)}", no_wrap=True)
    head.truncate(width, overflow="ellipsis")
    foot = Text(HELP.format(order=looks.order), style="dim", no_wrap=True)
    if status["peers"] is None:
        return Group(head, Text(), foot)
    room = height - 4  # head, node, a blank line, foot
    parts: list[RenderableType] = [head, _node(status, width)]
    processes = _processes(status, looks.processes)
    agents = _agents(status) if looks.agents else []
    syncs = status["syncs"]
    after = len(processes) + (len(agents) + 1 if agents else 0)
    synced = min(len(syncs), max(0, room - after - FEWEST_ROWS - 2))
    rows = _nodes(status, looks.order)
    fit = max(FEWEST_ROWS, room - after - (synced + 1 if synced else 0) - 1)
    parts.append(_table(rows, fit, width))
    if synced:
        parts.append(_syncs(syncs, synced))
    if agents:
        parts += [Text("agents", style="bold"), *agents]
    parts += [*processes, foot]
    return Group(*parts)


def _node(status: dict[str, Any], width: int) -> Text:
    node, manifest, net = status["node"], status["manifest"] or {}, status["net"]
    text = f"{node['name']}  {node['type']} of {node['cluster']}"
    if "files" in manifest:
        text += f"  {manifest['files']} files, {size(manifest['total_bytes'])}"
    if net is not None:
        text += f"  in {size(net['bytes_in'])}, out {size(net['bytes_out'])}"
    line = Text(text, style="dim", no_wrap=True)
    line.truncate(width, overflow="ellipsis")
    return line


def _nodes(status: dict[str, Any], order: Order) -> list[dict[str, Any]]:
    """Shows a row for each known worker; on a worker one for itself."""
    if status["node"]["type"] != "master":
        own = status["results"].get("self") or {}
        return [{"name": status["node"]["name"], "state": "connected", "address": "", "version": "", **_result(own)}]
    rows = [
        {
            "name": row["name"],
            "state": row["state"],
            "address": row["address"],
            "version": row["version"],
            "seen_s": max(0.0, status["at"] - row["seen_at"]),
            "lost_s": row["lost_s"],
            **_result(status["results"].get(row["name"]) or {}),
        }
        for row in status["workers"]
    ]
    if order == "problems":
        rows.sort(key=lambda row: (-_badness(row), row["name"]))
    elif order == "lag":
        rows.sort(key=lambda row: (-(row["lag_s"] or 0.0), row["name"]))
    return rows


def _result(result: dict[str, Any]) -> dict[str, Any]:
    return {
        "result": result.get("result") or "-",
        "lag_s": result.get("lag_s"),
        "lag_files": result.get("lag_files"),
        "remark": result.get("detail") or next((f"{p}: {w}" for p, w in (result.get("problems") or {}).items()), ""),
    }


def _badness(row: dict[str, Any]) -> float:
    if row["state"] == "lost":
        return 1e12 + (row["lost_s"] or 0.0)
    if row["result"] in ("failed", "unknown"):
        return 1e11
    return 1e9 * bool(row["remark"]) + (row["lag_s"] or 0.0)


def _table(rows: list[dict[str, Any]], fit: int, width: int) -> RenderableType:
    if not rows:
        return Text("No worker is known.", style="yellow")
    is_wide = width >= WIDE
    table = Table(box=None, pad_edge=False, header_style="dim", expand=False)
    for name in ("node", "state", "lag", "files", *(("address", "version", "heard of") if is_wide else ()), "remark"):
        table.add_column(
            name, no_wrap=True, overflow="ellipsis", justify="right" if name in ("lag", "files") else "left"
        )
    shown = rows if len(rows) <= fit else rows[: fit - 1]
    for row in shown:
        lost = row["state"] == "lost"
        state = (
            f"LOST {span(row['lost_s'])}" if lost else row["result"] if row["state"] == "connected" else row["state"]
        )
        style = "red" if lost else RESULTS.get(row["result"], "")
        seen = span(row["seen_s"]) if "seen_s" in row else ""
        table.add_row(
            Text(row["name"], style="red" if lost else ""),
            Text(state, style=style),
            Text("" if row["lag_s"] is None else span(row["lag_s"]), style="yellow"),
            "" if not row["lag_files"] else str(row["lag_files"]),
            *((row["address"], row["version"], seen) if is_wide else ()),
            row["remark"],
        )
    if len(rows) > len(shown):
        table.add_row(Text(f"and {len(rows) - len(shown)} more", style="dim"), *[""] * (len(table.columns) - 1))
    return table


def _syncs(syncs: list[dict[str, Any]], count: int) -> RenderableType:
    table = Table(box=None, show_header=False, pad_edge=False)
    for _ in range(4):
        table.add_column(no_wrap=True, overflow="ellipsis")
    for sync in syncs[:count]:
        total = sync["total_bytes"]
        bar = ProgressBar(total=total or None, completed=min(sync["done_bytes"], total), width=24, pulse=not total)
        table.add_row(sync["peer"], sync["step"], bar, f"{size(sync['done_bytes'])} of {size(total)}" if total else "")
    return Group(Text("in progress", style="bold"), table)


def _agents(status: dict[str, Any]) -> list[Text]:
    agents = status["agents"]
    if agents is None:
        return []
    if agents["problem"]:
        return [Text(f"the agent database does not answer: {agents['problem']}", style="yellow", no_wrap=True)]
    counts: dict[str, int] = {}
    for states in agents["nodes"].values():
        for state, number in states.items():
            counts[state] = counts.get(state, 0) + number
    whole = ", ".join(f"{number} {state}" for state, number in sorted(counts.items())) or "none"
    by_node = ", ".join(f"{name} {sum(states.values())}" for name, states in sorted(agents["nodes"].items()))
    return [Text(f"{whole}" + (f"   by node: {by_node}" if by_node else ""), no_wrap=True, overflow="ellipsis")]


def _processes(status: dict[str, Any], unfolded: bool) -> list[Text]:
    rows = status["processes"]
    cpu, uss = (sum(row[key] or 0 for row in rows) for key in ("cpu_percent", "uss_bytes"))
    bad = [f"{row['name']} {row['state']}" for row in rows if row["state"] != "ready"]
    line = Text(f"{len(rows)} processes, CPU {cpu:.0f} %, {size(uss)}", no_wrap=True, overflow="ellipsis")
    if bad:
        line.append(f"   {', '.join(bad)}", style="red")
    if not unfolded:
        return [line]
    return [
        line,
        *(
            Text(
                f"  {row['name']:<12} {row['state']:<9} {row['cpu_percent'] or 0:5.1f} %  {size(row['uss_bytes']):>10}"
                f"  restarts {row['restarts']}",
                no_wrap=True,
                overflow="ellipsis",
            )
            for row in rows
        ),
    ]
