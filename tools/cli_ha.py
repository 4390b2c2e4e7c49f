"""`clusterd ha`: the replicas of a master's state, and the election of the master."""

import json
import os
import time
from typing import Any

import click

from clusterd.exits import ExitCode
from clusterd.rundir import election_socket
from clusterd.status.absence import not_running
from clusterd.status.control import NotAnswering
from clusterd.status.status import StatusReader
from tools.cli_completion import candidate_names
from tools.seconds import Seconds
from tools.show import echo, fail, goes_on, warn

WATCH_S = 1.0
ELECTION_S = 2.0
_json = click.option("--json", "as_json", is_flag=True, help="The result for programs.")
_timeout = click.option("--timeout", "timeout_s", type=Seconds(1), default=60.0, show_default=True, help="Seconds.")


@click.group()
def ha() -> None:
    """High availability: what candidates hold of their master's state, and who leads."""


@ha.command(short_help="Show who leads, and the replicas.")
@click.option("--json", "as_json", is_flag=True, help="The same facts for programs.")
@click.option("--watch", is_flag=True, help="Go on until interrupted.")
@click.pass_obj
def status(root: str, as_json: bool, watch: bool) -> None:
    """Show who leads, and the replicas: on the master all candidates, on a candidate its own. Exit code 10 where
    something stands against leading, or against giving a replica."""
    reader = StatusReader(root)
    if watch:
        _watch(root, reader, as_json)
        return
    facts, problem = ha_facts(root, reader)
    if problem:
        fail(problem, ExitCode.NOT_RUNNING)
    if as_json:
        click.echo(json.dumps(facts, indent=2))
    else:
        from tools.drawing import show  # not for --json
        from tools.screen_ha import ha_view

        show(ha_view(facts, time.time()))
    if is_wanting(facts):
        raise SystemExit(ExitCode.DEGRADED)


def _watch(root: str, reader: StatusReader, as_json: bool) -> None:
    """A node that does not answer says so, and is asked again."""
    from tools.screen_ha import ha_view
    from tools.watching import watch, watch_json

    def facts() -> dict[str, Any] | None:
        found, problem = ha_facts(root, reader)
        if problem:
            raise NotAnswering(problem)
        return found

    if as_json:
        watch_json(facts, WATCH_S)
    else:
        watch(lambda: ha_view(facts(), time.time()), WATCH_S)


def ha_facts(root: str, reader: StatusReader) -> tuple[dict[str, Any] | None, str]:
    """Returns the facts, None of a node that takes no part; and why there are none of a node that does not answer."""
    found = reader.read_sync()
    election = _election(root)
    problem = ""
    if found["peers"] is None and election is None:
        problem = found["problem"] or not_running(root)
    return _joined(found["ha"], election, found["left_behind"]), problem


def _election(root: str) -> dict[str, Any] | None:
    if not os.path.exists(election_socket(root)):
        return None
    from tools.election_orders import election_facts  # not for nodes that take part in none

    return election_facts(root, ELECTION_S)


def _joined(
    replicas: dict[str, Any] | None, election: dict[str, Any] | None, left_behind: list[dict[str, Any]]
) -> dict[str, Any] | None:
    if replicas is None and election is None:
        return None
    own = replicas or {"role": election and election["role"], "problem": None}
    return {**own, "election": election, "left_behind": left_behind}


def is_wanting(ha: dict[str, Any] | None) -> bool:
    """Whether something is wrong with a replica, or with the election."""
    if ha is None:
        return False
    election = ha.get("election")
    if election is not None and (election["etcd"] or election["problem"] or not election["serves"]):
        return True
    rows = ha.get("candidates", [ha])
    return bool(ha["problem"]) or any(row.get("may_not_lead") for row in rows)


@ha.command()
@click.option(
    "--to", default="", shell_complete=candidate_names, help="The node that is to lead; default: the one that has most."
)
@_timeout
@_json
@click.pass_obj
def switchover(root: str, to: str, timeout_s: float, as_json: bool) -> None:
    """Hand the lead over to another candidate. The old leader takes no more writes, the other one gets everything, and
    leads: nothing is lost."""
    _carry_out(root, ("switchover", to), timeout_s, as_json)


@ha.command(short_help="Make a candidate lead that would not by itself.")
@click.option("--to", required=True, shell_complete=candidate_names, help="The node that is to lead.")
@click.option("--force", is_flag=True, help="Say that what only others know may be lost.")
@_timeout
@_json
@click.pass_obj
def failover(root: str, to: str, force: bool, timeout_s: float, as_json: bool) -> None:
    """Make a candidate lead that would not by itself, because the one that has everything does not come back."""
    _carry_out(root, ("failover", to, force), timeout_s, as_json)


@ha.command(short_help="Nobody takes over from now on; the leader goes on.")
@_timeout
@_json
@click.pass_obj
def pause(root: str, timeout_s: float, as_json: bool) -> None:
    """Nobody takes over from now on; the leader goes on whatever becomes of etcd."""
    _carry_out(root, ("pause",), timeout_s, as_json)


@ha.command()
@_timeout
@_json
@click.pass_obj
def resume(root: str, timeout_s: float, as_json: bool) -> None:
    """End a pause."""
    _carry_out(root, ("resume",), timeout_s, as_json)


@ha.command(short_help="Make this node the first to lead, in an empty etcd.")
@click.option("--force", is_flag=True, help="Whatever speaks against this node, and whoever does not answer.")
@_timeout
@_json
@click.pass_obj
def bootstrap(root: str, force: bool, timeout_s: float, as_json: bool) -> None:
    """Make this node the first to lead in an etcd that knows nothing of the cluster: a new one, or one that was
    lost."""
    _carry_out(root, ("bootstrap", "", force), timeout_s, as_json)


@ha.command(short_help="Remove a candidate that is gone for good.")
@click.argument("node", shell_complete=candidate_names)
@_timeout
@_json
@click.pass_obj
def forget(root: str, node: str, timeout_s: float, as_json: bool) -> None:
    """Remove a candidate that is gone for good from etcd: `ha status` lists it no more, and a leader that goes on
    without etcd (failsafe) does not ask it. Refused while it is alive, leads, or has what was answered last."""
    _carry_out(root, ("forget", node), timeout_s, as_json)


def _carry_out(root: str, order: tuple[Any, ...], timeout_s: float, as_json: bool) -> None:
    """`order`: the members of a HaCommand."""
    import msgspec

    from clusterd.messages.election import HaCommand
    from tools.election_orders import carry_out  # the daemon: not for --help

    with goes_on("an order that is in etcd stays there: clusterd ha status"):
        found = carry_out(root, HaCommand(*order), timeout_s, (lambda line: None) if as_json else echo)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found)).decode())
    elif found.ok:
        echo(found.text)
    else:
        warn(found.text)
    raise SystemExit(found.code)
