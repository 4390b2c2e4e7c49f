"""`clusterd status`."""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import click

from clusterd.exits import ExitCode
from tools.show import fail
from tools.status import StatusReader

WATCH_S = 1.0


@click.command()
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
        from tools.console import PlainConsole  # not for --json
        from tools.screen import status_view

        PlainConsole().print(status_view(found))
    else:
        fail("\n".join([found["problem"], *found["problems"].values()]), ExitCode.NOT_RUNNING)
    if not found["running"]:
        sys.exit(ExitCode.NOT_RUNNING)


def _watch(read: Callable[[], dict[str, Any]], as_json: bool) -> None:
    try:
        if as_json:
            while True:
                click.echo(json.dumps(read()))
                time.sleep(WATCH_S)
        from rich.live import Live

        from tools.console import PlainConsole
        from tools.screen import status_view

        with Live(status_view(read()), console=PlainConsole(), screen=False, auto_refresh=False) as live:
            while True:
                time.sleep(WATCH_S)
                live.update(status_view(read()), refresh=True)
    except KeyboardInterrupt:
        return
