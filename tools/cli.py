"""The command `clusterd`. Commands parse, call one function, show its value and exit with a code of tools/ExitCode.py."""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NoReturn

import click
from rich.console import Console
from rich.live import Live

from clusterd import __version__
from clusterd.exits import ExitCode
from clusterd.rundir import root_problem
from tools import service
from tools.check import check
from tools.cli_api import api
from tools.cli_control import control
from tools.cli_sync import diff, sync
from tools.init_node import InitRefused, init_node
from tools.screen import status_view
from tools.status import StatusReader

WATCH_S = 1.0
LogFormat = Literal["text", "json"]


def fail(text: str, code: int = ExitCode.FAILED) -> NoReturn:
    """One line on stderr that says what to do, and the code."""
    click.echo(f"clusterd: {text}", err=True)
    sys.exit(code)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--root",
    envvar="CLUSTERD_ROOT",
    default="/var/ossec",
    show_default=True,
    type=click.Path(file_okay=False),
    help="The node's directory (also: CLUSTERD_ROOT).",
)
@click.pass_context
def cluster(context: click.Context, root: str) -> None:
    """Start, stop and look at a node of a SIEM manager's cluster."""
    context.obj = os.path.abspath(root)


@cluster.command()
@click.option("--type", "node_type", type=click.Choice(["master", "worker"]), required=True, help="The node's role.")
@click.option("--name", required=True, help="The node's name, unique in the cluster.")
@click.option("--cluster", "cluster_name", default="wazuh", show_default=True, help="The cluster's name.")
@click.option("--key-file", type=click.Path(dir_okay=False), help="File with the cluster's key (or CLUSTERD_KEY).")
@click.option("--port", type=click.IntRange(1025, 65534), help="TCP port of the master.  [default: 1516]")
@click.option("--bind", default="0.0.0.0", show_default=True, help="Address that a master listens on.")
@click.option("--master", "master", metavar="HOST[:PORT]", help="Where a worker finds its master.")
@click.option("--api", "with_api", is_flag=True, help="Turn the REST API on, with a self-signed certificate.")
@click.pass_obj
def init(
    root: str,
    node_type: str,
    name: str,
    cluster_name: str,
    key_file: str | None,
    port: int | None,
    bind: str,
    master: str | None,
    with_api: bool,
) -> None:
    """Make a node's directory tree and configuration. Never overwrites."""
    try:
        made = init_node(
            root,
            node_type=node_type,
            name=name,
            cluster=cluster_name,
            key_file=key_file,
            environment_key=os.environ.get("CLUSTERD_KEY"),
            port=port,
            bind=bind,
            master=master,
            with_api=with_api,
        )
    except InitRefused as refusal:
        fail(str(refusal))
    for line in made.lines:
        click.echo(line)


@cluster.command()
@click.option("-f", "foreground", is_flag=True, help="Stay in the foreground, log to stderr too.")
@click.option("-d", "debug", count=True, help="More log: once DEBUG, twice DEBUG2.")
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--timeout", "timeout_s", type=click.FloatRange(1), default=60.0, show_default=True, help="Seconds.")
@click.pass_obj
def start(root: str, foreground: bool, debug: int, log_format: LogFormat, timeout_s: float) -> None:
    """Start the node; returns when it serves."""
    _need_short(root)
    started = service.start(
        root, foreground=foreground, debug=debug, log_format=log_format, timeout_s=timeout_s, say=_warn
    )
    if not started.ok:
        fail(started.reason, started.code)
    if not foreground:
        click.echo(f"clusterd runs (pid {started.pid}).")


@cluster.command()
@click.option("--timeout", "timeout_s", type=click.FloatRange(0.1), default=30.0, show_default=True, help="Seconds.")
@click.pass_obj
def stop(root: str, timeout_s: float) -> None:
    """Stop the node; returns when its last process is gone."""
    _show_stop(service.stop(root, timeout_s=timeout_s))


@cluster.command()
@click.option("--timeout", "timeout_s", type=click.FloatRange(0.1), default=30.0, show_default=True, help="Seconds.")
@click.option("-d", "debug", count=True, help="More log: once DEBUG, twice DEBUG2.")
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.pass_obj
def restart(root: str, timeout_s: float, debug: int, log_format: LogFormat) -> None:
    """Stop the node if it runs, then start it. A configuration with mistakes stops nothing."""
    _need_short(root)
    checked = check(root)
    if not checked.ok:
        _show_problems(checked.lines)
        fail("the configuration has mistakes; the node was left as it is", ExitCode.BAD_CONFIGURATION)
    _show_stop(service.stop(root, timeout_s=timeout_s))
    started = service.start(root, foreground=False, debug=debug, log_format=log_format, timeout_s=60.0, say=_warn)
    if not started.ok:
        fail(started.reason, started.code)
    click.echo(f"clusterd runs (pid {started.pid}).")


@cluster.command()
@click.pass_obj
def reload(root: str) -> None:
    """Read the configuration again: intervals, limits and log level change at once, the rest waits for a restart."""
    outcome = service.reload(root)
    if not outcome.ok:
        _show_problems(outcome.lines)
        fail(outcome.reason, outcome.code)
    for line in outcome.lines:
        click.echo(line)


@cluster.command()
@click.option("--json", "as_json", is_flag=True, help="The same facts for programs.")
@click.option("--watch", is_flag=True, help="Go on until interrupted.")
@click.pass_obj
def status(root: str, as_json: bool, watch: bool) -> None:
    """Show the node: processes, peers, manifest, syncs."""
    reader = StatusReader(root)
    if watch:
        _watch(reader.read, as_json)
        return
    found = reader.read()
    if as_json:
        click.echo(json.dumps(found, indent=2))
    elif found["running"]:
        Console().print(status_view(found))
    else:
        fail(found["problem"], ExitCode.NOT_RUNNING)
    if not found["running"]:
        sys.exit(ExitCode.NOT_RUNNING)


@cluster.command("check-config")
@click.pass_obj
def check_config(root: str) -> None:
    """Check the configuration and list all mistakes."""
    checked = check(root)
    if checked.ok:
        for line in checked.lines:
            click.echo(line, err=True)
        click.echo("The configuration is good.")
        return
    _show_problems(checked.lines)
    sys.exit(ExitCode.BAD_CONFIGURATION)


cluster.add_command(api)
cluster.add_command(control)
cluster.add_command(sync)
cluster.add_command(diff)


@cluster.command()
def version() -> None:
    """Show the version."""
    click.echo(f"clusterd {__version__}")


def _watch(read: Callable[[], dict[str, Any]], as_json: bool) -> None:
    try:
        if as_json:
            while True:
                click.echo(json.dumps(read()))
                time.sleep(WATCH_S)
        with Live(status_view(read()), console=Console(), screen=False, auto_refresh=False) as live:
            while True:
                time.sleep(WATCH_S)
                live.update(status_view(read()), refresh=True)
    except KeyboardInterrupt:
        return


def _show_stop(outcome: service.Outcome) -> None:
    if not outcome.ok:
        fail(outcome.reason, outcome.code)
    for line in outcome.lines:
        click.echo(line)


def _show_problems(lines: list[str]) -> None:
    for line in lines:
        click.echo(line, err=True)


def _warn(text: str) -> None:
    click.echo(f"clusterd: {text}", err=True)


def _need_short(root: str) -> None:
    problem = root_problem(root)
    if problem is not None:
        fail(problem, ExitCode.BAD_CONFIGURATION)
    if not Path(root).is_dir():
        fail(f"there is no node at {root}. Make one with: clusterd --root {root} init ...", ExitCode.BAD_CONFIGURATION)


def main() -> None:
    """Entry point of `clusterd`: click's errors of usage exit with 64."""
    try:
        code = cluster.main(standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(ExitCode.FAILED)
    except click.UsageError as problem:
        problem.show()
        sys.exit(ExitCode.USAGE)
    except click.ClickException as problem:
        problem.show()
        sys.exit(ExitCode.FAILED)
    sys.exit(code if isinstance(code, int) else ExitCode.OK)


if __name__ == "__main__":
    main()
