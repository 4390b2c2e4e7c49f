"""`clusterd promote` and `clusterd demote`: the role of a node, changed by hand (docs/ha.md)."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import click
import msgspec

from clusterd.exits import ExitCode
from tools.asking import asked
from tools.node_address import NodeAddress
from tools.seconds import Seconds
from tools.show import echo, fail, goes_on, warn

if TYPE_CHECKING:
    from tools.role_follow import RoleOutcome

_json = click.option("--json", "as_json", is_flag=True, help="The result for programs; asks nothing.")
_yes = click.option("--yes", is_flag=True, help="Do not ask.")
CHANGES = "a change of role that was begun goes on: clusterd status"
_timeout = click.option("--timeout", "timeout_s", type=Seconds(1), default=120.0, show_default=True, help="Seconds.")


@click.command()
@click.option("--old-master-is-down", "is_down", is_flag=True, help="Say that you have made sure of it.")
@click.option("--without-agents", is_flag=True, help="Lead without a replica of the agents; what that loses is said.")
@click.option("--unchecked-files", is_flag=True, help="Lead although it is not known whether the files are complete.")
@click.option("--address", type=NodeAddress(), help="HOST[:PORT] under which the other nodes reach this one.")
@_timeout
@_yes
@_json
@click.pass_obj
def promote(
    root: str,
    is_down: bool,
    without_agents: bool,
    unchecked_files: bool,
    address: str | None,
    timeout_s: float,
    yes: bool,
    as_json: bool,
) -> None:
    """Make this worker the master, because the old one is gone."""
    from tools import promoting  # the daemon: not for --help

    wanted = promoting.PromoteOptions(is_down, without_agents, unchecked_files, address or "", timeout_s)
    refusal, settings, highest = promoting.prepare(root, wanted)
    if refusal is not None or settings is None:
        _end(refusal, "this node was not promoted", as_json)
        return
    if without_agents and not as_json:
        warn("without agents: their groups, labels and states, and ids that were given before, are not taken over")
    _ask(f"Make {settings.cluster.node_name} the master of cluster {settings.cluster.name}?", yes or as_json)
    with goes_on(CHANGES):
        found = promoting.promote(root, settings, highest, wanted, _sayer(as_json))
    _end(found, "this node was not promoted", as_json, f"{settings.cluster.node_name} leads in term {found.term}.")


@click.command()
@click.option("--master", type=NodeAddress(), required=True, help="HOST[:PORT] of the node that leads.")
@_timeout
@_yes
@_json
@click.pass_obj
def demote(root: str, master: str, timeout_s: float, yes: bool, as_json: bool) -> None:
    """Make this former master a worker of the one that leads now."""
    from tools import demoting  # the daemon: not for --help

    refusal, settings, note = demoting.prepare(root, master)
    if refusal is not None or settings is None or note is None:
        _end(refusal, "this node was not demoted", as_json)
        return
    text = f"Make {settings.cluster.node_name} a worker of {note.node} at {master}, which leads in term {note.term}?"
    _ask(text, yes or as_json)
    with goes_on(CHANGES):
        found = demoting.demote(root, settings, note, master, _sayer(as_json), timeout_s)
    _end(found, "this node was not demoted", as_json, f"{settings.cluster.node_name} follows {note.node}.")


def _ask(question: str, is_answered: bool) -> None:
    """Ends the command unless the answer is yes."""
    if is_answered:
        return
    agreed = asked(lambda: click.confirm(question))
    if not agreed:
        fail("nothing was changed" if agreed is not None else "there is nobody to ask: nothing was changed. See --yes")


def _sayer(as_json: bool) -> Callable[[str], None]:
    return (lambda line: None) if as_json else echo


def _end(found: "RoleOutcome | None", failure: str, as_json: bool, verdict: str = "") -> None:
    """Shows the result and ends the command with its code."""
    assert found is not None
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found)).decode())
    elif found.ok:
        echo(verdict)
        for number, line in enumerate(found.then, 1):
            echo(f"{number}. {line}.")
    else:
        warn(f"{failure}:")
        for reason in found.reasons:
            echo(f"- {reason}{'' if reason.endswith(' start') else '.'}", err=True)  # that is to be typed
    sys.exit(ExitCode.OK if found.ok else found.code)
