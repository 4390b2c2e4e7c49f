"""`agents` and `groups`: the rig's commands that make agents come alive."""

import random
import shutil
from pathlib import Path

import click

from tools.rig.agents import Fleet, assign, make_group
from tools.rig.nodes import Rig, RigError
from tools.rig.options import FAILED, in_directory, progress, seed_or_any, seeded
from tools.show import echo


@click.group("agents")
def agents_group() -> None:
    """Agents that come alive: register, report, move. What each said last is kept in DIR/agents.json."""


@agents_group.command("add")
@in_directory
@click.argument("count", type=click.IntRange(1, 1_000_000))
@click.option("--through", default="master", show_default=True, help="Node whose authd socket is asked.")
@click.option("--prefix", default="agent", show_default=True, help="Of their names.")
@click.option("--groups", default="", help="Names joined by commas; their directories must exist.")
@click.option("--clients", type=click.IntRange(1, 200), default=50, show_default=True, help="How many ask at a time.")
@click.option("--direct", is_flag=True, help="Straight into every database and the master's client.keys: quick.")
@click.pass_context
def agents_add(
    context: click.Context,
    directory: Path,
    count: int,
    through: str,
    prefix: str,
    groups: str,
    clients: int,
    direct: bool,
) -> None:
    """Register COUNT agents."""
    if direct and groups:
        raise click.UsageError("--direct makes agents without groups; see `groups assign`")
    found = Rig.load(directory)
    fleet = Fleet.load(found)
    try:
        with progress(count) as step:
            if direct:
                outcome = fleet.add_direct(count, prefix=prefix, on_step=step)
            else:
                outcome = fleet.add(
                    count, through=found.node(through), prefix=prefix, groups=groups, clients=clients, on_step=step
                )
    finally:
        fleet.save()
    echo(f"{outcome.done} agents in {outcome.seconds:.1f} s, {outcome.rate:.0f} a second")
    for text, times in outcome.failures.items():
        echo(f"refused {times} times: {text}", err=True)
    context.exit(FAILED if outcome.failures else 0)


@agents_group.command("report")
@in_directory
@click.option("--for", "seconds", type=click.FloatRange(0.1), default=30.0, show_default=True)
@click.option("--rate", type=click.FloatRange(0), default=0.0, help="Requests a second in all; 0: as fast as it goes.")
@click.option(
    "--changes", type=click.FloatRange(0, 1), default=0.1, show_default=True, help="Share that brings everything anew."
)
@click.option("--moves", type=click.FloatRange(0, 1), default=0.0, help="Share that goes to another worker.")
@click.option("--deletions", type=click.FloatRange(0, 1), default=0.0, help="Share that is the agent's last.")
@seeded
def agents_report(
    directory: Path, seconds: float, rate: float, changes: float, moves: float, deletions: float, seed: int | None
) -> None:
    """Let the agents talk through their workers: keepalives, changes, good-byes."""
    fleet = _fleet(directory)
    if moves + changes + deletions > 1:
        raise click.UsageError("--changes, --moves and --deletions are shares of one whole")
    try:
        with progress(int(rate * seconds) or None) as step:
            outcome = fleet.report(
                seconds=seconds,
                rate=rate,
                changes=changes,
                moves=moves,
                deletions=deletions,
                seed=seed_or_any(seed),
                on_step=step,
            )
    finally:
        fleet.save()
    echo(f"{outcome.done} requests in {outcome.seconds:.1f} s, {outcome.rate:.0f} a second")


@agents_group.command("move")
@in_directory
@click.argument("count", type=click.IntRange(1))
@seeded
def agents_move(directory: Path, count: int, seed: int | None) -> None:
    """COUNT agents go from one worker to another, half of them without a word."""
    fleet = _fleet(directory)
    try:
        moved = fleet.move(count, seed=seed_or_any(seed))
    finally:
        fleet.save()
    echo(f"{len(moved)} agents moved")


@click.group("groups")
def groups_group() -> None:
    """Groups of agents, as somebody assigns them on the master."""


@groups_group.command("assign")
@in_directory
@click.argument("name")
@click.argument("count", type=click.IntRange(1), required=False)
@click.option("--all", "everybody", is_flag=True)
@click.option("--mode", type=click.Choice(["append", "override", "remove"]), default="append", show_default=True)
@seeded
def groups_assign(directory: Path, name: str, count: int | None, everybody: bool, mode: str, seed: int | None) -> None:
    """Put COUNT agents, or --all, into group NAME, which is made if it is missing."""
    if (count is None) is not everybody:
        raise click.UsageError("say how many agents, or --all")
    found = Rig.load(directory)
    fleet = _fleet(directory)
    chosen = sorted(fleet.agents)
    if count is not None:
        chosen = random.Random(seed_or_any(seed)).sample(chosen, min(count, len(chosen)))
    make_group(found, name)
    outcome = assign(found, name, {agent_id: fleet.agents[agent_id] for agent_id in chosen}, mode=mode)
    echo(f"{outcome.done} agents in {outcome.seconds:.1f} s")


@groups_group.command("delete")
@in_directory
@click.argument("name")
def groups_delete(directory: Path, name: str) -> None:
    """Remove the directory of group NAME on the master."""
    path = Rig.load(directory).master.root / "etc/shared" / name
    if not path.is_dir() or name in ("", ".", "..") or "/" in name:
        raise RigError(f"the master has no group {name!r}")
    shutil.rmtree(path)
    echo(f"removed {path}")


def _fleet(directory: Path) -> Fleet:
    fleet = Fleet.load(Rig.load(directory))
    if not fleet.agents:
        raise RigError("this rig has no agents yet: see `agents add`")
    return fleet
