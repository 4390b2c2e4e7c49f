"""`clusterd doctor`."""

import json
import sys

import click
import msgspec

from clusterd.exits import ExitCode
from clusterd.printable import printable
from tools.show import echo


@click.command()
@click.option("--json", "as_json", is_flag=True, help="The findings for programs.")
@click.option("--no-connect", is_flag=True, help="Do not try the master's port.")
@click.pass_obj
def doctor(root: str, as_json: bool, no_connect: bool) -> None:
    """Find what is wrong with the node, and say what to do."""
    from tools.doctor.examine import examine  # reads the configuration: not for --help

    found = examine(root, connects=not no_connect)
    faults = sum(one.is_fault for one in found)
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(found), indent=2))
    else:
        for one in found:
            mark = click.style("FAULT" if one.is_fault else "note ", fg="red" if one.is_fault else "yellow")
            click.echo(f"{mark}  {click.style(printable(one.name), bold=True)}: {printable(one.what)}")
            click.echo(f"       {printable(one.cure)}")
        echo(f"{faults} faults found." if faults != 1 else "1 fault found.")
    sys.exit(ExitCode.FAILED if faults else ExitCode.OK)
