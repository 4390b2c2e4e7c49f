"""`clusterd sync` and `clusterd diff`."""

import json
import sys
import time
from typing import Any, NoReturn

import click
import msgspec
from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from clusterd.errors import for_people
from clusterd.exits import ExitCode
from clusterd.printable import printable_facts
from clusterd.status.control import ClusterError, NotAnswering
from clusterd.status.status import StatusReader
from clusterd.status.verdict import count_files, span
from tools import syncing
from tools.cli_completion import node_names
from tools.console import PlainConsole
from tools.seconds import Seconds
from tools.show import echo, fail
from tools.syncing import Standing

GROUPS = (("missing", "+", "green", "create"), ("shared", "~", "yellow", "replace"), ("extra", "-", "red", "delete"))


def _fail(problem: NotAnswering | ClusterError) -> NoReturn:
    if isinstance(problem, NotAnswering):
        fail(str(problem), ExitCode.NOT_RUNNING)
    fail(for_people(problem))


@click.command()
@click.option(
    "--wait", "waits", is_flag=True, help="Return when every worker that the master knows has the current files."
)
@click.option(
    "--timeout", "timeout_s", type=Seconds(0.1), default=120.0, show_default=True, help="Seconds, with --wait."
)
@click.option("--expect", type=click.IntRange(0), help="With --wait: wait for so many workers, and fail with fewer.")
@click.option(
    "--allow-delete", is_flag=True, help="Publish deletions that wait because very many files vanished at once."
)
@click.option("--json", "as_json", is_flag=True, help="The outcome for programs.")
@click.pass_obj
def sync(root: str, waits: bool, timeout_s: float, expect: int | None, allow_delete: bool, as_json: bool) -> None:
    """Look for changes now instead of at the next interval. On a worker: check now."""
    if not waits and expect is not None:
        raise click.UsageError("--expect goes with --wait")
    source = click.get_current_context().get_parameter_source("timeout_s")
    if not waits and source is click.core.ParameterSource.COMMANDLINE:
        raise click.UsageError("--timeout goes with --wait")
    started = time.monotonic()
    try:
        patience_s = max(syncing.ASK_S, timeout_s if waits else 0.0)
        begun = syncing.begin(root, allow_delete=allow_delete, timeout_s=patience_s)
    except (NotAnswering, ClusterError) as problem:
        _fail(problem)
    if expect is not None and "files" not in begun:
        fail("this node is a worker: --expect counts those of a master, so run it there")
    if not waits:
        if as_json:
            click.echo(json.dumps(begun, indent=2))
        elif "files" in begun:
            echo(f"The manifest has {count_files(begun['files'])}; the workers are being told.")
        else:
            echo("The node checks now.")
        return
    found = _wait(root, begun["at"], timeout_s, expect or 0, as_json)
    missing = max(0, (expect or 0) - len(found.equal))
    took_s = round(time.monotonic() - started, 3)
    outcome = {**begun, **msgspec.to_builtins(found), "took_s": took_s, "missing": missing}
    if as_json:
        click.echo(json.dumps(outcome, indent=2))
    else:
        _say(found, took_s, timeout_s)
        if missing:
            echo(f"clusterd: {len(found.equal)} of {expect} expected workers have the current files", err=True)
    if found.is_late or missing:
        sys.exit(ExitCode.TIMED_OUT)
    if found.left_out or found.behind:
        sys.exit(ExitCode.FAILED)


def _wait(root: str, since: float, timeout_s: float, expect: int, as_json: bool) -> Standing:
    reader = StatusReader(root)
    if as_json:
        return syncing.wait(reader.read_sync, since, timeout_s, lambda found: None, expect)
    with Live(Text(), console=PlainConsole(stderr=True), transient=True, auto_refresh=False) as live:
        return syncing.wait(
            reader.read_sync, since, timeout_s, lambda found: live.update(standing_view(found), refresh=True), expect
        )


def _say(found: Standing, took_s: float, timeout_s: float) -> None:
    if found.problem:
        echo(f"clusterd: {found.problem}", err=True)
    for row in found.behind:
        lag = "" if row.lag_s is None else f", behind for {span(row.lag_s)}"
        files = "" if row.files is None else f", {count_files(row.files)} differ{'s' if row.files == 1 else ''}"
        echo(f"clusterd: {row.name} does not have the current files: {row.why}{lag}{files}", err=True)
    for name, left_out in found.left_out.items():
        for path, why in left_out["files"].items():
            echo(f"clusterd: {name} leaves out {path}: {why}", err=True)
        more = left_out["count"] - len(left_out["files"])
        if more > 0:
            echo(f"clusterd: {name} leaves out {more} more files", err=True)
    if found.is_waiting:
        echo(f"clusterd: gave up after {timeout_s:g} s", err=True)
    elif not found.behind:
        names = ", ".join(found.equal)
        but = ", but for the files left out" if found.left_out else ""
        echo(f"Equal after {took_s:.1f} s{but}: {names}." if names else "No worker is connected.")


def standing_view(found: Standing) -> RenderableType:
    """The live view: a line for each worker."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for _ in range(3):
        table.add_column()
    for name in found.equal:
        table.add_row(name, Text("equal", style="green"), "")
    for row in found.behind:
        bar = ProgressBar(total=row.total_bytes, completed=row.done_bytes, width=24) if row.total_bytes else ""
        table.add_row(row.name, Text(row.why, style="yellow"), bar)
    return Group(table, Text(found.problem, style="red")) if found.problem else table


@click.command()
@click.argument("node", required=False, default="", shell_complete=node_names)
@click.option("--json", "as_json", is_flag=True, help="The same facts for programs.")
@click.pass_obj
def diff(root: str, node: str, as_json: bool) -> None:
    """Show what a sync would change on worker NODE. Nothing is changed. Without NODE: on a worker its own
    difference from the master, on a master those of all workers."""
    try:
        if not node:
            status = StatusReader(root).read_sync()
            if status["peers"] is None:
                raise NotAnswering(status["problem"])
            if status["node"]["type"] == "master":
                _all_workers(root, status, as_json)
                return
        found = syncing.difference(root, node)
    except (NotAnswering, ClusterError) as problem:
        _fail(problem)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        PlainConsole(soft_wrap=True).print(difference_view(found))


def _all_workers(root: str, status: dict[str, Any], as_json: bool) -> None:
    """Shows the difference of every connected worker. One that cannot be asked is shown separately and makes the
    command fail."""
    rows: list[dict[str, Any]] = []
    for peer in syncing.workers_of(status):
        try:
            rows.append(syncing.difference(root, peer["name"]))
        except ClusterError as refusal:
            rows.append({"node": peer["name"], "problem": for_people(refusal)})
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    elif not rows:
        echo("No worker is connected.")
    for row in rows if not as_json else ():
        if "problem" in row:
            echo(f"clusterd: {row['problem']}", err=True)
        else:
            echo(f"{row['node']}: {summary(row['counts'])}")
    if any("problem" in row for row in rows):
        sys.exit(ExitCode.FAILED)


def summary(counts: dict[str, int]) -> str:
    """Shows the three numbers for people."""
    said = [f"{counts[group]} to {verb}" for group, _, _, verb in GROUPS if counts[group]]
    return ", ".join(said) or "equal"


def difference_view(found: dict[str, Any]) -> Text:
    """Shows what would change: a line for each path, and how many more there are."""
    found = printable_facts(found)
    text = Text(f"{found['node']}: {summary(found['counts'])}")
    for group, sign, style, verb in GROUPS:
        for path in found[group]:
            text.append(f"\n{sign} {path}", style=style)
        more = found["counts"][group] - len(found[group])
        if more:
            text.append(f"\n  and {more} more to {verb}", style="dim")
    return text
