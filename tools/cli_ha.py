"""`clusterd ha`: the replicas of a master's state."""

import json
import time
from typing import Any

import click

from clusterd.exits import ExitCode
from clusterd.status.status import StatusReader, not_running
from tools.show import fail

WATCH_S = 1.0


@click.group()
def ha() -> None:
    """High availability: what candidates hold of their master's state."""


@ha.command()
@click.option("--json", "as_json", is_flag=True, help="The same facts for programs.")
@click.option("--watch", is_flag=True, help="Go on until interrupted.")
@click.pass_obj
def status(root: str, as_json: bool, watch: bool) -> None:
    """Show the replicas: on the master all candidates, on a candidate its own. Exit code 10 where something stands
    against leading, or against giving a replica."""
    reader = StatusReader(root)
    try:
        while True:
            found = reader.read_sync()
            if found["peers"] is None and not watch:
                fail(found["problem"] or not_running(root), ExitCode.NOT_RUNNING)
            _show(found, as_json)
            if not watch:
                break
            time.sleep(WATCH_S)
    except KeyboardInterrupt:
        raise SystemExit(ExitCode.INTERRUPTED) from None
    if is_wanting(found["ha"]):
        raise SystemExit(ExitCode.DEGRADED)


def is_wanting(ha: dict[str, Any] | None) -> bool:
    """Whether something is wrong with a replica."""
    if ha is None:
        return False
    rows = ha.get("candidates", [ha])
    return bool(ha["problem"]) or any(row.get("may_not_lead") for row in rows)


def _show(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(found["ha"], indent=2))
        return
    from tools.console import PlainConsole  # not for --json
    from tools.screen import ha_view

    PlainConsole().print(ha_view(found["ha"], time.time()))
