"""`clusterd log` and `clusterd log-level`."""

import re
from typing import Any, ClassVar

import click

from clusterd.exits import ExitCode
from clusterd.gate import has_node, no_node
from clusterd.logs import LEVELS
from clusterd.printable import printable_lines
from clusterd.rundir import board_path
from clusterd.status.absence import is_running, not_running
from clusterd.status.status import LOG_LEVELS
from clusterd.status.verdict import span
from ipc.board import Board, ask_log_level
from tools.cli_completion import node_names
from tools.log_reader import Entry, WantedLines, follow, last
from tools.show import echo, fail, reader_is_gone

COLOURS = {"ERROR": "red", "WARNING": "yellow", "DEBUG": "bright_black", "DEBUG2": "bright_black"}
LOG = "logs/cluster.log"


@click.command()
@click.option("--lines", "-n", type=click.IntRange(0), default=50, show_default=True, help="How many entries.")
@click.option("--follow", "-f", "follows", is_flag=True, help="Go on as lines are written, until interrupted.")
@click.option(
    "--level",
    type=click.Choice(list(LEVELS), case_sensitive=False),
    default="DEBUG2",
    help="Only this level and above.",
)
@click.option("--node", default="", shell_complete=node_names, help="Only what is about this node.")
@click.option("--grep", "pattern", default="", help="Only entries in which this regular expression is found.")
@click.pass_obj
def log(root: str, lines: int, follows: bool, level: str, node: str, pattern: str) -> None:
    """Show the node's log: by level, node or text."""
    try:
        wanted = WantedLines(level.upper(), node, re.compile(pattern) if pattern else None)
    except re.error as problem:
        raise click.UsageError(f"--grep: {problem}") from None
    path = f"{root}/{LOG}"
    try:
        found, offset = last(path, lines, wanted) if lines else ([], _size(path))
    except FileNotFoundError:
        if not follows:
            if not has_node(root):
                fail(no_node(root), ExitCode.NOT_RUNNING)
            fail(f"there is no log at {path} yet")
        found, offset = [], 0
    except PermissionError:
        fail(f"{path} may be read by its owner and group only", ExitCode.FAILED)
    for entry in found:
        _show(entry)
    if not follows:
        return
    if not is_running(root):
        echo(f"{not_running(root)} New lines are shown once it runs.", err=True)
    try:
        for written in follow(path, offset, wanted):
            if written is not None:
                _show(written)
            elif reader_is_gone():  # `clusterd log -f | grep -m 1 Serving`
                return
    except KeyboardInterrupt:
        return


def _size(path: str) -> int:
    with open(path, "rb") as file:
        return file.seek(0, 2)


def _show(entry: Entry) -> None:
    click.echo(click.style(printable_lines(entry.text), fg=COLOURS.get(entry.level)))


class Span(click.ParamType):  # type: ignore[type-arg]  # not generic in older releases
    """Parses a length of time into seconds: 90, 90s, 10m, 2h."""

    name = "TIME"
    units: ClassVar = {"": 1, "s": 1, "m": 60, "h": 3600}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"(\d{1,6}(?:\.\d+)?)([smh]?)", str(value))
        if found is None:
            self.fail(f"{value} is no length of time; give 90s, 10m or 2h", param, ctx)
        return float(found[1]) * self.units[found[2]]


@click.command()
@click.argument("level", required=False, type=click.Choice([*LOG_LEVELS, "default"]))
@click.option("--for", "for_s", type=Span(), default="10m", show_default=True, help="Back by itself after this time.")
@click.pass_obj
def log_level(root: str, level: str | None, for_s: float) -> None:
    """Show or change the log level of a running node, for a while: no reload, nothing is written to a file."""
    path = board_path(root)
    if not is_running(root):  # a node that was killed has left its board
        fail(not_running(root), ExitCode.NOT_RUNNING)
    try:
        if level is not None:
            ask_log_level(path, None if level == "default" else LOG_LEVELS.index(level), for_s)
        board = Board.open(path)
    except FileNotFoundError:
        if is_running(root):
            fail(f"{path} is not there: the node is starting or stopping, or clusterd restart is needed")
        fail(not_running(root), ExitCode.NOT_RUNNING)
    except PermissionError:
        fail("only root and the user of the daemon may change its log level")
    except ValueError as problem:
        fail(str(problem))
    try:
        asked = board.log_level()
        if asked is None:
            echo("The log is at the level that the configuration says.")
        else:
            echo(f"The log is at {LOG_LEVELS[asked]} for {span(board.log_level_left_s())} more.")
    finally:
        board.close()
