"""The output of `clusterd top`: a pure function from a status and a size to a renderable. Workers and problems are
first; what does not fit is counted. A wide terminal has two columns.
"""

import textwrap
import time
from typing import Any

import msgspec
from rich.console import Group, RenderableType
from rich.text import Text

from clusterd.printable import printable, printable_facts
from clusterd.status.verdict import Verdict, span, verdict
from tools.screen import VERDICTS
from tools.top_parts import Order, ScreenPart, agents_part, nodes_part, problems_part, processes_part, syncs_part
from tools.units import size

ORDERS: tuple[Order, ...] = ("problems", "name", "lag")
TWO_COLUMNS = 150
"""Width from which syncs, agents and processes stand beside the nodes."""
RIGHT, LEFT = 64, 80
"""Width of the second column, and the least of the first."""
BETWEEN = 6
TWO_LINES = 20
"""Height from which the verdict may have two lines."""
HELP = "q quit   s sort: {order}   p processes   a agents"


class Looks(msgspec.Struct):
    """The operator's choices, made with keys."""

    order: Order = "problems"
    processes: bool = False
    agents: bool = True

    @classmethod
    def for_width(cls, width: int) -> "Looks":
        """The view at the beginning: processes are shown if the terminal has room for them."""
        return cls(processes=width >= TWO_COLUMNS)

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
    """Returns `height` lines of at most `width` columns."""
    said = verdict(status)
    status = printable_facts(status)
    head = _verdict(said, width, 2 if height >= TWO_LINES else 1)
    foot = Text(HELP.format(order=looks.order), style="dim")
    room = height - len(head) - 3  # node, a blank line, foot
    if status["peers"] is None:
        known = [problems_part(status), processes_part(status["processes"], True)] if status["processes"] else []
        return _screen([*head, Text()], _stack(known, room, width), foot, width, height)
    nodes = [nodes_part(status, looks.order), problems_part(status)]
    others = [
        syncs_part(status["syncs"]),
        agents_part(status["agents"], looks.agents),
        processes_part(status["processes"], looks.processes),
    ]
    top = [*head, _node(status, width), Text()]
    if width < TWO_COLUMNS:
        return _screen(top, _stack([*nodes, *others], room, width), foot, width, height)
    left, right = _stack(nodes, room, width - RIGHT - BETWEEN), _stack(others, room, RIGHT)
    left_width = max([LEFT, *(line.cell_len for line in left)])
    both = []
    for number in range(max(len(left), len(right))):
        line = left[number].copy() if number < len(left) else Text()
        line.truncate(left_width, overflow="ellipsis", pad=True)
        line.append(" " * BETWEEN)
        line.append_text(right[number] if number < len(right) else Text())
        both.append(line)
    return _screen(top, both, foot, width, height)


def _verdict(said: Verdict, width: int, most: int) -> list[Text]:
    """The first line of `clusterd status`, divided where it is too long: the end of a reason is often what matters."""
    text = f"{said.level}  {printable(said.reason)}"
    first, *others = textwrap.wrap(text, max(width, 20), break_on_hyphens=False) or [said.level]
    lines = [Text.assemble((said.level, f"bold {VERDICTS[said.level]}"), first.removeprefix(said.level))]
    if others and most > 1:
        lines.append(Text(" ".join(others)))
    elif others:
        lines[0].append(f" {' '.join(others)}")
    return lines


def _screen(top: list[Text], body: list[Text], foot: Text, width: int, height: int) -> RenderableType:
    """Puts the foot into the last line."""
    lines = [*top, *body][: height - 1]
    lines += [Text() for _ in range(height - 1 - len(lines))]
    for line in (*lines, foot):
        line.truncate(width, overflow="ellipsis")
        line.no_wrap = True
    return Group(*lines, foot)


def _stack(parts: list[ScreenPart | None], room: int, width: int) -> list[Text]:
    """Draws parts below each other. Each gets its least; the rest goes to nodes and their problems first, then to the
    others in turn, then to blank lines between them."""
    given = [part for part in parts if part is not None]
    lines = [part.least for part in given]
    left = room - sum(lines)
    for number, part in enumerate(given):
        if part.is_first:
            extra = max(0, min(left, part.wanted - lines[number]))
            lines[number] += extra
            left -= extra
    while left > 0 and any(part.wanted > got for part, got in zip(given, lines, strict=True)):
        for number, part in enumerate(given):
            if left > 0 and part.wanted > lines[number]:
                lines[number] += 1
                left -= 1
    parts_drawn = [part.draw(got, width)[:got] for part, got in zip(given, lines, strict=True)]
    left = room - sum(map(len, parts_drawn))  # a part may need less than it got
    drawn: list[Text] = []
    for number, part_lines in enumerate(parts_drawn):
        if number and left > 0:
            drawn.append(Text())
            left -= 1
        drawn += part_lines
    return drawn[:room]


def _node(status: dict[str, Any], width: int) -> Text:
    """Draws this node in one line, as far as there is room, and the time at the right."""
    node, manifest, net = status["node"], status["manifest"] or {}, status["net"]
    facts = []
    if node["type"] == "master" and status["workers"]:
        up = sum(row["state"] == "connected" for row in status["workers"])
        facts.append(f"{up} of {len(status['workers'])} workers")
    if "files" in manifest:
        facts.append(f"{manifest['files']} files, {size(manifest['total_bytes'])}")
    if net is not None:
        facts.append(f"in {size(net['bytes_in'])}, out {size(net['bytes_out'])}")
    if status["started_at"]:
        facts.append(f"up {span(max(0.0, status['at'] - status['started_at']))}")
    now = time.strftime("%H:%M:%S", time.localtime(status["at"]))
    line = Text(f"{node['name']}  {node['type']} of {node['cluster']}", style="dim")
    room = width - len(now) - 2
    for fact in facts:
        if line.cell_len + len(fact) + 3 <= room:
            line.append(f"   {fact}")
    line.truncate(room, overflow="ellipsis", pad=True)
    line.append(f"  {now}")
    return line
