"""`clusterd status`, `clusterd check` and `clusterd forget`."""

import sys
from typing import Any

import click

from clusterd.exits import ExitCode
from clusterd.status.control import ClusterError, NotAnswering, ask
from clusterd.status.status import StatusReader
from clusterd.status.verdict import Verdict, verdict
from tools import at_once
from tools.cli_completion import node_names
from tools.seconds import Seconds
from tools.show import echo, fail

WATCH_S = 1.0
FORGET_S = 10.0
UNKNOWN_COMMAND = 3000


@click.command()
@click.option("--json", "as_json", is_flag=True, help="The same facts for programs.")
@click.option("--watch", is_flag=True, help="Go on until interrupted.")
@click.option("--no-exit-code", is_flag=True, help="Exit with 0 whatever the state is.")
@click.pass_obj
def status(root: str, as_json: bool, watch: bool, no_exit_code: bool) -> None:
    """Show the node: processes, peers, manifest, syncs. The first line and the exit code are the verdict:
    OK 0, DEGRADED 10, DOWN 11, not running 4."""
    if watch:
        _watch(StatusReader(root), as_json)
    else:
        sys.exit(at_once.status(root, as_json, no_exit_code))


def _watch(reader: StatusReader, as_json: bool) -> None:
    from tools.watching import watch, watch_json

    def look() -> tuple[dict[str, Any], Verdict]:
        found = reader.read()
        return found, verdict(found)

    def facts() -> dict[str, Any]:
        found, said = look()
        return {"verdict": said._asdict(), **found}

    if as_json:
        watch_json(facts, WATCH_S)
        return
    from tools.screen import status_view

    watch(lambda: status_view(*look()), WATCH_S)


@click.command()
@click.option("--warn-lag", "warn_s", type=Seconds(0), default=60.0, show_default=True, help="Seconds.")
@click.option("--crit-lag", "crit_s", type=Seconds(0), default=600.0, show_default=True, help="Seconds.")
@click.option("--expect", type=click.IntRange(0), help="Critical with fewer workers connected (on a master).")
@click.pass_obj
def check(root: str, warn_s: float, crit_s: float, expect: int | None) -> None:
    """Check the node as a Nagios plugin: one line, exit code 0 to 3."""
    if crit_s < warn_s:
        raise click.UsageError("--crit-lag must not be below --warn-lag")
    sys.exit(at_once.check(root, warn_s, crit_s, expect))


@click.command()
@click.argument("node", shell_complete=node_names)
@click.pass_obj
def forget(root: str, node: str) -> None:
    """Forget worker NODE, which does not come back (on the master)."""
    try:
        answer = ask(root, "forget", node.encode(), timeout_s=FORGET_S)
    except NotAnswering as silence:
        fail(str(silence), ExitCode.NOT_RUNNING)
    except ClusterError as refusal:
        if refusal.code == UNKNOWN_COMMAND:
            fail("this node is no master: only the master remembers workers, run this there")
        fail(refusal.extra or str(refusal))
    echo(f"Who was refused as {node} is forgotten." if answer else f"{node} is forgotten.")
