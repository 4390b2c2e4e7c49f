"""`clusterd reload` and `check-config`."""

import sys

import click

from tools import at_once
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
@click.option("--connect", "connects", is_flag=True, help="Try the master, the port, rights and certificates, too.")
@click.pass_obj
def check_config(root: str, connects: bool) -> None:
    """Check the configuration and list all mistakes."""
    if connects and check(root).ok:
        _try_out(root)
    sys.exit(at_once.check_config(root))


def _try_out(root: str) -> None:
    """Ends the command with FAILED when a try shows a fault."""
    from clusterd.config.loading import load
    from tools.doctor.examine import try_out  # for --connect only

    settings = load(root).settings
    assert settings is not None
    found = try_out(settings)
    for one in found:
        echo(f"{'' if one.is_fault else 'note: '}{one.name}: {one.what.rstrip('.')}. {one.cure}", err=True)
    if any(one.is_fault for one in found):
        fail("the configuration is good, the node could not work with it")
