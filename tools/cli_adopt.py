"""`clusterd adopt`."""

import contextlib
import json
import sys
from collections.abc import Callable
from typing import Any

import click

from clusterd.exits import ExitCode
from tools.show import echo, goes_on, outlives_terminal, warn

STAYS = "what was done stays, and is whole: repeat the command, which also starts a daemon that it has stopped"


@click.command()
@click.option(
    "--undo", is_flag=True, help="Put the stock files back; nothing of clusterd is left in the manager's bin."
)
@click.option("--dry-run", is_flag=True, help="Check, and say what would be changed; change nothing.")
@click.option("--now", is_flag=True, help="Then swap the running cluster daemon, and nothing else of the manager.")
@click.option("--json", "as_json", is_flag=True, help="The same facts for programs.")
@click.pass_obj
def adopt(root: str, undo: bool, dry_run: bool, now: bool, as_json: bool) -> None:
    """Run clusterd in place of a stock manager's cluster daemon.

    The launchers that this puts into the manager's bin start clusterd wherever the stock manager starts its cluster
    daemon: wazuh-control and the manager's service work as before. The stock files are kept beside them. Without --now
    the daemon that runs goes on until the manager is restarted."""
    from clusterd.adoption import own_python  # not for --help
    from tools.cutover import Cutover

    say: Callable[[str], None] = (lambda text: None) if as_json else echo
    cutover = Cutover(root, own_python(), say=say, dry_run=dry_run)
    # Between the stop of one daemon and the start of the other a closed terminal must not leave the node without any.
    with outlives_terminal(), contextlib.nullcontext() if dry_run else goes_on(STAYS):
        done = cutover.undo(now=now) if undo else cutover.adopt(now=now)
    if as_json:
        shown: dict[str, Any] = {"root": root, "undo": undo, "dry_run": dry_run, **cutover.facts(), "ok": done.ok}
        click.echo(json.dumps({**shown, "reason": done.reason}, indent=2))
    elif not done.ok:
        warn(done.reason)
    sys.exit(ExitCode.OK if done.ok else done.code)
