"""The parts of `clusterd top`: each knows how many lines it wants and how few it needs, and draws itself into the lines
that it gets. They ask no node.
"""

from collections.abc import Callable, Iterable
from typing import Any, Literal

import msgspec
from rich.cells import cell_len
from rich.text import Text

from clusterd.printable import printable
from clusterd.status.verdict import hindrances, span
from tools.screen import LONG_SILENCE_S, RESULTS, STATES
from tools.units import natural, size

Order = Literal["problems", "name", "lag"]
WIDE = 96
"""Width in columns from which a list of nodes has room for addresses and versions."""
BAR = 24
AGENT_STATES = ("active", "pending", "disconnected", "never_connected")


class ScreenPart(msgspec.Struct, frozen=True):
    """`draw(lines, width)` returns at most that many lines of at most that many columns. `least`: lines that it always
    gets; `wanted`: lines that it can use. The first parts get all they want before later ones get more."""

    wanted: int
    least: int
    draw: Callable[[int, int], list[Text]]
    is_first: bool = False


class Column(msgspec.Struct, frozen=True):
    """`least`: columns that it keeps when the others need room."""

    title: str
    is_right: bool = False
    least: int = 0


def table(columns: list[Column], rows: list[list[Text]], width: int) -> list[Text]:
    """Returns a line of titles and one for each row. The last column gets what the others leave; if that is too little,
    the widest of the others give way."""
    widths = [
        max([cell_len(column.title), *(row[number].cell_len for row in rows)]) for number, column in enumerate(columns)
    ]
    room = width - 2 * (len(columns) - 1)
    while sum(widths) > room and any(one > column.least for one, column in zip(widths, columns, strict=True)):
        slack = [one - column.least for one, column in zip(widths, columns, strict=True)]
        widths[slack.index(max(slack))] -= 1
    lines = []
    for row in [[Text(column.title, style="dim") for column in columns], *rows]:
        line = Text(no_wrap=True, overflow="ellipsis")
        for number, (cell, column) in enumerate(zip(row, columns, strict=True)):
            shown = cell.copy()
            shown.truncate(widths[number], overflow="ellipsis")
            blank = " " * (widths[number] - shown.cell_len)
            line.append("  " if number else "")
            line.append(blank if column.is_right else "")
            line.append_text(shown)
            line.append("" if column.is_right or number == len(columns) - 1 else blank)
        lines.append(line)
    return lines


def more(count: int) -> Text:
    return Text(f"and {count} more", style="dim", no_wrap=True)


def cut(lines: list[Text], room: int) -> list[Text]:
    """Returns at most `room` lines; the last one tells how many are missing."""
    return lines if len(lines) <= room else [*lines[: max(0, room - 1)], more(len(lines) - max(0, room - 1))][:room]


# ---- nodes -----------------------------------------------------------------------------------------------------------


class NodeRow(msgspec.Struct):
    """What is shown of a node. `word`: its state; `badness`: the higher, the earlier in the list."""

    name: str
    word: str
    style: str
    badness: float = 0.0
    lag_s: float | None = None
    lag_files: int | None = None
    address: str = ""
    version: str = ""
    seen_s: float | None = None
    remark: str = ""


def node_rows(status: dict[str, Any], order: Order) -> list[NodeRow]:
    """On a master every worker that it knows and every node that it refused; on a worker itself and its master."""
    if status["node"]["type"] != "master":
        return _own_rows(status)
    rows = [_worker_row(row, status) for row in status["workers"]]
    lost = {row["name"]: shown for row, shown in zip(status["workers"], rows, strict=True) if row["state"] == "lost"}
    for row in status["refused"]:
        if row["name"] in lost:  # one node, one row
            lost[row["name"]].remark = f"REFUSED: {row['reason']}"
            continue
        shown = NodeRow(row["name"] or row["address"], "REFUSED", "red", 1e13)
        shown.address, shown.seen_s, shown.remark = row["address"], max(0.0, status["at"] - row["at"]), row["reason"]
        rows.append(shown)
    rows.sort(key=lambda row: natural(row.name))
    if order == "problems":
        rows.sort(key=lambda row: -row.badness)
    elif order == "lag":
        rows.sort(key=lambda row: -(row.lag_s or 0.0))
    return rows


def _worker_row(row: dict[str, Any], status: dict[str, Any]) -> NodeRow:
    result = status["results"].get(row["name"]) or {}
    shown = _result_row(row["name"], result, status["left_out"].get(row["name"]))
    shown.address, shown.version = row["address"], row["version"]
    shown.seen_s = max(0.0, status["at"] - row["seen_at"])
    if row["state"] == "lost":
        shown.word, shown.style, shown.remark = f"LOST {span(row['lost_s'] or 0.0)}", "red", row["why"] or "it hung up"
        shown.badness, shown.lag_s, shown.lag_files = 1e12 + (row["lost_s"] or 0.0), None, None
        shown.seen_s = None  # its last keepalive may be a minute older than the end of its link
    elif row["state"] != "connected":
        shown.word, shown.style, shown.badness = row["state"], "yellow", 1e10
    return shown


def _result_row(name: str, result: dict[str, Any], told: dict[str, Any] | None = None) -> NodeRow:
    """`told`: what the worker itself reports as left out."""
    word, lag_s = result.get("result") or "", result.get("lag_s")
    left_out = (told or {}).get("files") or result.get("problems") or {}
    remark = result.get("detail") or next((f"{path}: {why}" for path, why in left_out.items()), "")
    badness = 1e11 * (word in ("failed", "unknown")) + 1e9 * bool(remark) + (lag_s or 0.0)
    if lag_s and word in ("equal", "synced"):
        return NodeRow(name, "behind", "yellow", badness, lag_s, result.get("lag_files"), remark=remark)
    style = RESULTS.get(word, "dim")
    word = "equal" if word == "synced" else word  # as on the dashboard: what it is, not how it became so
    return NodeRow(name, word or "not checked yet", style, badness, lag_s, result.get("lag_files"), remark=remark)


def _own_rows(status: dict[str, Any]) -> list[NodeRow]:
    rows = [_result_row(status["node"]["name"], status["results"].get("self") or {})]
    for peer in status["peers"]:
        seen_at = peer["keepalive_at"] or peer["connected_at"]
        row = NodeRow(peer["name"], "connected", "green", address=peer["address"], version=peer["version"])
        row.seen_s, row.remark = max(0.0, status["at"] - seen_at), "the master"
        rows.append(row)
    return rows


def nodes_part(status: dict[str, Any], order: Order) -> ScreenPart:
    rows = node_rows(status, order)
    if not rows:
        return ScreenPart(1, 1, lambda lines, width: [Text("No worker is known.", style="yellow", no_wrap=True)])
    return ScreenPart(len(rows) + 1, min(len(rows) + 1, 6), lambda lines, width: _nodes(rows, lines, width), True)


def _nodes(rows: list[NodeRow], lines: int, width: int) -> list[Text]:
    """Draws a line for each; if there are too many, the last ones stand side by side, by name only, if they are
    equal."""
    if len(rows) < lines:
        return _node_table(rows, width)
    across = max(1, (width + 2) // (max(cell_len(row.name) for row in rows) + 2))
    calm = len(rows)
    while calm and rows[calm - 1].word == "equal":
        calm -= 1
    fit = max(0, lines - 2)
    while fit >= calm:
        names = -(-(len(rows) - fit) // across)
        if fit + names + 2 <= lines:
            return [*_node_table(rows[:fit], width), *_names(rows[fit:], across, width)]
        fit -= 1
    fit = max(0, lines - 2)
    return [*_node_table(rows[:fit], width), more(len(rows) - fit)]


def _names(rows: list[NodeRow], across: int, width: int) -> list[Text]:
    step = (width + 2) // across
    found = [Text(f"and {len(rows)} more that are equal", style="dim", no_wrap=True)]
    for start in range(0, len(rows), across):
        line = Text(no_wrap=True, overflow="ellipsis", style="green")
        for row in rows[start : start + across]:
            line.append(row.name + " " * (step - cell_len(row.name)))
        line.rstrip()
        found.append(line)
    return found


def _node_table(rows: list[NodeRow], width: int) -> list[Text]:
    columns = [Column("node", least=12), Column("state", least=9), Column("lag", True, 5), Column("files", True, 5)]
    if width >= WIDE:
        columns += [Column("address", least=9), Column("version", least=7)]
    columns += [Column("heard of", True, 8), Column("remark")]
    cells = []
    for row in rows:
        line = [
            Text(row.name, style="red" if row.style == "red" else ""),
            Text(row.word, style=row.style),
            Text("" if row.lag_s is None else span(row.lag_s), style="yellow"),
            Text(str(row.lag_files or "")),
        ]
        if width >= WIDE:
            line += [Text(row.address), Text(row.version)]
        line += [Text("" if row.seen_s is None else span(row.seen_s), style="dim"), Text(row.remark)]
        cells.append(line)
    return table(columns, cells, width)


# ---- the rest --------------------------------------------------------------------------------------------------------


def problems_part(status: dict[str, Any]) -> ScreenPart | None:
    """Draws what needs attention beside the reason of the verdict."""
    found = list(hindrances(status))[1:]
    if not found:
        return None
    lines = [Text(f"  {printable(text)}", style="yellow", no_wrap=True, overflow="ellipsis") for text in found]
    title = Text("also", style="bold", no_wrap=True)
    return ScreenPart(len(lines) + 1, min(len(lines) + 1, 3), lambda room, width: [title, *cut(lines, room - 1)], True)


def syncs_part(syncs: list[dict[str, Any]]) -> ScreenPart | None:
    if not syncs:
        return None
    title = Text("in progress", style="bold", no_wrap=True)

    def draw(room: int, width: int) -> list[Text]:
        return [title, *cut(_sync_lines(syncs, width), room - 1)]

    return ScreenPart(len(syncs) + 1, min(len(syncs) + 1, 3), draw)


def _sync_lines(syncs: list[dict[str, Any]], width: int) -> list[Text]:
    columns = [Column("", least=8), Column("", least=7), Column("", least=BAR), Column("")]
    rows = []
    for sync in syncs:
        done, total = sync["done_bytes"], sync["total_bytes"]
        full = round(BAR * min(1.0, done / total)) if total else 0
        bar = Text.assemble(("━" * full, "blue"), ("━" * (BAR - full), "bright_black"))
        rows.append(
            [
                Text(sync["peer"]),
                Text(sync["step"], style="dim"),
                bar,
                Text(f"{size(min(done, total))} of {size(total)}" if total else ""),
            ]
        )
    return [
        Text.assemble("  ", line, no_wrap=True, overflow="ellipsis") for line in table(columns, rows, width - 2)[1:]
    ]


def agents_part(agents: dict[str, Any] | None, is_unfolded: bool) -> ScreenPart | None:
    if agents is None:
        return None
    if agents["problem"]:
        text = f"the agent database does not answer: {agents['problem']}"
        line = Text(text, style="yellow", no_wrap=True, overflow="ellipsis")
        return ScreenPart(1, 1, lambda lines, width: [line])
    counts = {state: sum(states.get(state, 0) for states in agents["nodes"].values()) for state in AGENT_STATES}
    whole = ", ".join(f"{number} {state.replace('_', ' ')}" for state, number in counts.items() if number) or "none"
    head = Text.assemble(("agents", "bold"), f"  {whole}", no_wrap=True, overflow="ellipsis")
    nodes = sorted(agents["nodes"].items(), key=lambda item: natural(item[0]))
    if not nodes or not is_unfolded:
        return ScreenPart(1, 1, lambda lines, width: [head])

    def draw(lines: int, width: int) -> list[Text]:
        if lines > 3 and lines >= min(len(nodes), 6) + 2:
            return [head, *_indented(cut(_agent_lines(nodes, width - 2), lines - 1))]
        by_node = "  ".join(f"{name} {sum(states.values())}" for name, states in nodes)
        return [head, Text(f"  {by_node}", style="dim", no_wrap=True, overflow="ellipsis")][:lines]

    return ScreenPart(len(nodes) + 2, 2, draw)


def _agent_lines(nodes: list[tuple[str, dict[str, int]]], width: int) -> list[Text]:
    columns = [Column("node", least=12), *(Column(state.replace("_", " "), True, 5) for state in AGENT_STATES)]
    return table(columns, [[Text(name), *_counts(states)] for name, states in nodes], width)


def _counts(states: dict[str, int]) -> list[Text]:
    return [Text(str(states.get(state) or "-"), style="" if states.get(state) else "dim") for state in AGENT_STATES]


def processes_part(rows: list[dict[str, Any]], is_unfolded: bool) -> ScreenPart:
    cpu, uss = (sum(row[key] or 0 for row in rows) for key in ("cpu_percent", "uss_bytes"))
    head = Text.assemble(
        ("processes", "bold"), f"  {len(rows)}, CPU {cpu:.0f} %, {size(uss)}", no_wrap=True, overflow="ellipsis"
    )
    bad = [f"{row['name']} {_state(row)[0]}" for row in rows if _state(row)[0] != "ready"]
    if bad:
        head.append(f"   {', '.join(bad)}", style="red")
    if not is_unfolded:
        return ScreenPart(1, 1, lambda lines, width: [head])

    def draw(lines: int, width: int) -> list[Text]:
        return [head, *_indented(cut(_process_lines(rows, width - 2), lines - 1))]

    return ScreenPart(len(rows) + 2, min(len(rows) + 2, 6), draw)


def _state(row: dict[str, Any]) -> tuple[str, str]:
    """Returns the state of a process, or for how long it has given no sign of life; and a style."""
    silent_s = row.get("silent_s") or 0.0
    if row["state"] == "ready" and silent_s >= LONG_SILENCE_S:
        return f"silent {span(silent_s)}", "yellow"
    return row["state"], STATES.get(row["state"], "")


def _process_lines(rows: list[dict[str, Any]], width: int) -> list[Text]:
    columns = [Column("name", least=10), Column("state", least=8), Column("CPU", True, 7), Column("memory", True, 9)]
    columns.append(Column("restarts", True, 8))
    cells = [
        [
            Text(row["name"]),
            Text(*_state(row)),
            Text("-" if row["cpu_percent"] is None else f"{row['cpu_percent']:.1f} %"),
            Text(size(row["uss_bytes"])),
            Text(str(row["restarts"] or "-")),
        ]
        for row in rows
    ]
    return table(columns, cells, width)


def _indented(lines: Iterable[Text]) -> list[Text]:
    return [Text.assemble("  ", line, no_wrap=True, overflow="ellipsis") for line in lines]
