"""`clusterd reload` and `check-config`."""

import sys

import click

from clusterd.exits import ExitCode
from tools.check import check
from tools.reloading import reload as reload_node
from tools.show import echo, fail, show_lines


@click.command()
@click.pass_obj
def reload(root: str) -> None:
    """Read the configuration again: intervals, limits and log level change at once, the rest waits for a restart."""
    outcome = reload_node(root)
    if not outcome.ok:
        show_lines(outcome.lines)
        fail(outcome.reason, outcome.code)
    for line in outcome.lines:
        echo(line)


@click.command("check-config")
@click.pass_obj
def check_config(root: str) -> None:
    """Check the configuration and list all mistakes."""
    checked = check(root)
    if checked.ok:
        for line in checked.lines:
            echo(line, err=True)
        echo("The configuration is good.")
        return
    show_lines(checked.lines)
    sys.exit(ExitCode.BAD_CONFIGURATION)
