"""The rig's output: turns values into rich tables and lines. Pure functions, except the two views of the demo."""

import time
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from clusterd.printable import printable_facts
from tools.rig.compare import Comparison
from tools.rig.nodes import Rig

GOOD, BAD, DIM = "green", "bold red", "dim"
Progress = Mapping[str, tuple[int, int, str]]
"""Worker to files in place, files in all, and a remark."""


def nodes_table(rig: Rig) -> Table:
    """Shows where everything is, at the end of `up`."""
    table = Table("node", "role", "port", "root", box=None, pad_edge=False)
    for node in rig.nodes:
        via = " (through its link)" if node.link_pid else ""
        table.add_row(node.name, node.kind, f"{node.port}{via}", str(node.root))
    return table


def status_table(
    rig: Rig, facts: Mapping[str, Mapping[str, Any]], compared: Mapping[str, Comparison] | None = None
) -> Table:
    """Shows one row per node: its processes with pid and restarts, memory, and for workers how many files equal the
    master's."""
    facts = printable_facts(facts)
    table = Table("node", "role", "processes (pid, restarts)", "memory", "files", box=None, pad_edge=False)
    for node in rig.nodes:
        fact = facts[node.name]
        if "unreachable" in fact:
            table.add_row(node.name, node.kind, Text(str(fact["unreachable"]), BAD), "", "")
            continue
        processes = list(fact.get("processes", []))
        uss = sum(item.get("uss_bytes") or 0 for item in processes)
        table.add_row(
            node.name,
            node.kind,
            processes_text(processes) if processes else Text(str(fact.get("problem") or "not running"), BAD),
            f"{uss / 1e6:.0f} MB" if uss else "-",
            files_text(compared[node.name]) if compared and node.name in compared else "",
        )
    return table


def processes_text(processes: Iterable[Mapping[str, Any]]) -> Text:
    text = Text()
    for item in processes:
        if text:
            text.append("  ")
        if item.get("pid") is None:
            text.append(f"{item['name']} down", BAD)
            continue
        restarts = f" x{item['restarts']}" if item.get("restarts") else ""
        text.append(f"{item['name']} {item['pid']}{restarts}", GOOD if item.get("state") == "ready" else "yellow")
    return text


def files_text(found: Comparison) -> Text:
    if found.is_equal:
        return Text(f"{found.equal} equal", GOOD)
    parts = [
        f"{len(paths)} {word}"
        for word, paths in (
            ("missing", found.missing),
            ("differing", found.differing),
            ("extra", found.extra),
            ("wrong mode", found.wrong_mode),
            ("left over", found.leftover),
        )
        if paths
    ]
    return Text(f"{found.equal} equal, {', '.join(parts)}", BAD)


class View(Protocol):
    """The demo's output for the operator."""

    def __enter__(self) -> "View": ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def title(self, text: str) -> None:
        """Begins a new chapter."""

    def say(self, text: str, style: str = "") -> None:
        """Shows one line that stays."""

    def progress(self, now: Progress) -> None:
        """Shows the progress of each worker; replaces the progress shown before."""


class PlainView:
    """For output that is not a terminal, or a log: lines only. Progress is a line when it has changed and a second has
    passed."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = time.monotonic()
        self._last: dict[str, tuple[int, int, str]] = {}
        self._said_at = 0.0

    def __enter__(self) -> "PlainView":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def title(self, text: str) -> None:
        self._console.print(f"== {text}", markup=False, highlight=False, soft_wrap=True)

    def say(self, text: str, style: str = "") -> None:
        elapsed = time.monotonic() - self._began
        self._console.print(f"{elapsed:5.1f}s  {text}", markup=False, highlight=False, soft_wrap=True)

    def progress(self, now: Progress) -> None:
        if dict(now) != self._last and time.monotonic() - self._said_at >= 1:
            self._said_at, self._last = time.monotonic(), dict(now)
            self.say("; ".join(f"{name} {done}/{total} {note}".rstrip() for name, (done, total, note) in now.items()))


class LiveView:
    """For a terminal: chapters and lines scroll by above moving bars."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = time.monotonic()
        self._live = Live(console=console, refresh_per_second=10, transient=True)

    def __enter__(self) -> "LiveView":
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.update(Text(""))
        self._live.__exit__(kind, error, trace)

    def title(self, text: str) -> None:
        self._console.print()
        self._console.print(Text(text, "bold cyan"))

    def say(self, text: str, style: str = "") -> None:
        elapsed = time.monotonic() - self._began
        self._console.print(Text.assemble((f"{elapsed:5.1f}s  ", DIM), (text, style)))

    def progress(self, now: Progress) -> None:
        self._live.update(bars(now))


def bars(now: Progress) -> RenderableType:
    """Returns one bar per worker."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, (done, total, note) in now.items():
        whole = done == total and not note
        bar = ProgressBar(total=max(total, 1), completed=done, width=40)
        table.add_row(
            f"       {name}", bar, Text(f"{done}/{total} files", GOOD if whole else "yellow"), Text(note, BAD)
        )
    return Group(Text(""), table)
