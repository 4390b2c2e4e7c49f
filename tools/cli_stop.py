"""`clusterd stop`."""

import click

from tools import stopping
from tools.seconds import Seconds
from tools.show import echo, fail, goes_on


@click.command()
@click.option("--timeout", "timeout_s", type=Seconds(0.1), default=30.0, show_default=True, help="Seconds.")
@click.pass_obj
def stop(root: str, timeout_s: float) -> None:
    """Stop the node; returns when its last process is gone."""
    with goes_on("the node goes on stopping: clusterd status"):
        outcome = stopping.stop(root, timeout_s=timeout_s)
    if not outcome.ok:
        fail(outcome.reason, outcome.code)
    for line in outcome.lines:
        echo(line)
