"""`python -m tools.rig`: a cluster on this machine to play with. Exit codes: 0 done, 1 it failed or differs, 64 wrong
usage."""

import json
import signal
import time
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Group
from rich.live import Live
from rich.text import Text

from tools.console import PlainConsole
from tools.rig import demo as demonstration
from tools.rig import demo_failover as failover_demonstration
from tools.rig import workload
from tools.rig.agents import Fleet
from tools.rig.candidates import LEASE_S, add_candidates
from tools.rig.cli_agents import agents_group, groups_group
from tools.rig.cli_faults import cut, freeze, kill, start, thaw
from tools.rig.databases import AgentsComparison, compare_agents
from tools.rig.nodes import STATE, Rig, RigError
from tools.rig.options import FAILED, in_directory, seed_or_any, seeded
from tools.rig.screen import files_text, nodes_table, status_table
from tools.rig.wdb_client import WDB, WdbError
from tools.show import echo

USAGE, INTERRUPTED = 64, 130


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def rig() -> None:
    """A cluster of nodes on loopback ports of this machine: rig_manager_1 is the master."""


@rig.command()
@in_directory
@click.option("--workers", type=click.IntRange(0, 60), default=2, show_default=True, help="Beside the candidates.")
@click.option("--candidates", type=click.IntRange(2, 9), help="So many nodes may be master (with --etcd).")
@click.option("--etcd", "members", type=click.IntRange(1, 9), help="With an etcd of so many members; default: 3.")
@click.option(
    "--lease", type=click.IntRange(5, 300), default=LEASE_S, show_default=True, help="Of the master, in seconds."
)
@click.option("--files", type=click.IntRange(1), help="Files of the generated tree; default: a small realistic set.")
@click.option(
    "--size", type=click.IntRange(1), default=8192, show_default=True, help="Their mean size in bytes, lognormal."
)
@click.option("--tree", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Copy this tree instead.")
@click.option(
    "--interval-scale", type=click.FloatRange(0.02, 10), default=1.0, show_default=True, help="0.1: ten times as often."
)
@click.option("--direct", is_flag=True, help="Without a link per worker: nothing between the nodes, and no `cut`.")
@click.option("--wait", type=click.FloatRange(0), default=0.0, help="Seconds to wait until all workers are equal.")
@click.option("--seed", type=int, default=1, show_default=True)
def up(
    directory: Path,
    workers: int,
    candidates: int | None,
    members: int | None,
    lease: int,
    files: int | None,
    size: int,
    tree: Path | None,
    interval_scale: float,
    direct: bool,
    wait: float,
    seed: int,
) -> None:
    """Make the nodes, fill the master, start all."""
    if tree and files:
        raise click.UsageError("--tree and --files exclude each other")
    if members and not candidates:
        raise click.UsageError("--etcd goes with --candidates")
    console = PlainConsole()
    others = workers if candidates is None else candidates - 1 + workers
    made = Rig.create(directory, others, scale=interval_scale, links=not direct and candidates is None)
    try:
        if candidates is not None:
            add_candidates(made, candidates, members or 3, lease_s=lease)
        root = made.master.root
        summary = (
            workload.copy_tree(tree, root) if tree else workload.generate(root, seed=seed, files=files or 0, size=size)
        )
        made.start()
    except BaseException:
        made.down()
        raise
    console.print(nodes_table(made))
    console.print(f"{summary.files} files, {summary.bytes / 1e6:.1f} MB on {made.master.name}", highlight=False)
    if wait:
        console.print(f"all equal after {made.wait_equal(wait):.1f} s", highlight=False)


@rig.command()
@in_directory
@click.pass_context
def down(context: click.Context, directory: Path) -> None:
    """Stop the nodes and remove everything, also what a crash left."""
    try:
        found = Rig.load(directory)
    except RigError:
        if not (directory / STATE).exists():
            raise
        found = Rig(
            directory.resolve()
        )  # a damaged record: processes are found by their mark, directories by their names
    problems = found.down()
    for problem in problems:
        echo(problem, err=True)
    context.exit(FAILED if problems else 0)


@rig.command()
@in_directory
@click.option("--json", "as_json", is_flag=True, help="Each node's `clusterd status --json` under its name.")
def status(directory: Path, as_json: bool) -> None:
    """Every node's processes, and how many files equal the master's."""
    found = Rig.load(directory)
    facts = found.status()
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    PlainConsole().print(status_table(found, facts, found.compare()))


@rig.command()
@in_directory
@click.option(
    "--interval", type=click.FloatRange(0.2), default=1.0, show_default=True, help="Seconds between two looks."
)
@click.option("--rounds", type=click.IntRange(1), help="Stop after so many looks; default: Ctrl-C.")
def watch(directory: Path, interval: float, rounds: int | None) -> None:
    """`status`, again and again."""
    found = Rig.load(directory)
    console = PlainConsole()
    done = 0
    with Live(console=console, auto_refresh=False) as live:
        while True:
            shown = Group(status_table(found, found.status(), found.compare()), Text(time.strftime("%H:%M:%S"), "dim"))
            live.update(shown, refresh=True)
            done += 1
            if done == rounds:
                return
            time.sleep(interval)


@rig.command()
@in_directory
@click.option("--edit", type=click.IntRange(0), default=1, show_default=True)
@click.option("--add", type=click.IntRange(0), default=1, show_default=True)
@click.option("--delete", type=click.IntRange(0), default=1, show_default=True)
@seeded
def change(directory: Path, edit: int, add: int, delete: int, seed: int | None) -> None:
    """Edit, add and delete files on the master."""
    found = Rig.load(directory)
    _tell(workload.change(found.master.root, seed=seed_or_any(seed), edit=edit, add=add, delete=delete))


@rig.command()
@in_directory
@click.argument("node", default="rig_manager_2")
@seeded
def tamper(directory: Path, node: str, seed: int | None) -> None:
    """Rewrite, remove and plant files on a worker."""
    found = Rig.load(directory)
    if found.node(node) is found.master:
        raise RigError("the master's files are the law, tampering is for workers; see `change`")
    _tell(workload.tamper(found.node(node).root, seed=seed_or_any(seed)))


@rig.command()
@in_directory
@click.argument("nodes", nargs=-1)
@click.option("--json", "as_json", is_flag=True)
@click.option("--files-only", is_flag=True, help="Not the agent databases.")
@click.option(
    "--wait", type=click.FloatRange(0), default=0.0, help="Look again for so many seconds until all are equal."
)
@click.pass_context
def compare(
    context: click.Context, directory: Path, nodes: tuple[str, ...], as_json: bool, files_only: bool, wait: float
) -> None:
    """Compare workers with the master file by file, content and mode, and the agent databases of all nodes with each
    other and with what the agents said last, where they run; exit 0 only when all are equal."""
    found = Rig.load(directory)
    chosen = {found.node(name).name for name in nodes} or {node.name for node in found.workers}
    deadline = time.monotonic() + wait
    databases: AgentsComparison | None = None
    while True:
        results = {name: one for name, one in found.compare().items() if name in chosen}
        if not files_only and found.workers and (found.master.root / WDB).exists():
            databases = compare_agents(found, Fleet.load(found).truth())
        is_equal = all(one.is_equal for one in results.values()) and (databases is None or databases.is_equal)
        if is_equal or time.monotonic() >= deadline:
            break
        time.sleep(0.2)
    if as_json:
        facts = {name: asdict(one) | {"is_equal": one.is_equal} for name, one in results.items()}
        if databases is not None:
            facts["agents"] = asdict(databases) | {"is_equal": databases.is_equal}
        click.echo(json.dumps(facts, indent=2))
    else:
        for name, one in results.items():
            echo(f"{name}: {files_text(one).plain}")
            for line in one.lines():
                echo(f"  {line}")
        if databases is not None:
            echo(f"agents: {databases.agents}, {'equal' if databases.is_equal else 'different'}")
            for line in databases.lines():
                echo(f"  {line}")
    context.exit(0 if is_equal else FAILED)


@rig.command()
@click.option("--tree", type=click.Path(exists=True, file_okay=False, path_type=Path), help="A real tree, copied.")
@click.option("--workers", type=click.IntRange(1, 20), default=2, show_default=True)
@click.option(
    "--dir", "directory", type=click.Path(path_type=Path, file_okay=False), help="Default: a temporary directory."
)
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--plain", is_flag=True, help="Lines instead of a live view, as without a terminal.")
@click.pass_context
def demo(
    context: click.Context, tree: Path | None, workers: int, directory: Path | None, seed: int, plain: bool
) -> None:
    """A cluster comes up, and heals a change, a tampering and a killed process."""
    context.exit(
        demonstration.run(PlainConsole(), tree=tree, workers=workers, directory=directory, seed=seed, plain=plain)
    )


@rig.command("demo-failover")
@click.option(
    "--dir", "directory", type=click.Path(path_type=Path, file_okay=False), help="Default: a temporary directory."
)
@click.option("--lease", type=click.IntRange(5, 300), default=6, show_default=True, help="Of the master, in seconds.")
@click.option("--plain", is_flag=True, help="Lines instead of a live view, as without a terminal.")
@click.pass_context
def demo_failover(context: click.Context, directory: Path | None, lease: int, plain: bool) -> None:
    """A master is killed, another node leads; an agent is registered before and after."""
    context.exit(failover_demonstration.run(PlainConsole(), directory=directory, lease_s=lease, plain=plain))


@rig.command()
@click.option(
    "--into", type=click.Path(path_type=Path, file_okay=False), default=Path("docs/images"), show_default=True
)
def pictures(into: Path) -> None:
    """Take the pictures of the documents: `clusterd top` and the dashboard, from a cluster made for it."""
    from tools.rig.pictures import take  # it needs a browser and its driver

    for path in take(into, echo):
        echo(f"{path}: {path.stat().st_size // 1000} kB")


for one in (kill, freeze, thaw, start, cut):
    rig.add_command(one)
rig.add_command(agents_group)
rig.add_command(groups_group)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns its exit code. SIGTERM ends it like Ctrl-C: cleaned up."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code = rig.main(args=arguments, prog_name="python -m tools.rig", standalone_mode=False)
    except click.UsageError as error:
        error.show()
        return USAGE
    except (click.Abort, KeyboardInterrupt):
        echo("interrupted", err=True)
        return INTERRUPTED
    except (RigError, WdbError, ValueError, OSError) as error:
        echo(f"rig: {error}", err=True)
        return FAILED
    return code if isinstance(code, int) else 0


def _tell(changes: list[workload.TreeChange]) -> None:
    for one in changes:
        echo(f"{one.kind:6} {one.path}")
