"""`python -m tools.rig kill|freeze|thaw|start|cut`: faults of processes, whole nodes, members of etcd, and cables, and
their end. A node may be named by its number; `etcd-1` is a member of etcd."""

import signal
import time
from pathlib import Path

import click

from tools.rig import candidates, faults, switchboard
from tools.rig.etcd import EtcdCluster
from tools.rig.nodes import Rig, RigError, RigNode
from tools.rig.options import in_directory
from tools.show import echo

SIGNALS = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "freeze": signal.SIGSTOP, "thaw": signal.SIGCONT}
WAYS: dict[str, switchboard.Ways] = {"etcd": "etcd", "peers": "peers", "all": "all"}


def _member(rig: Rig, name: str) -> EtcdCluster | None:
    """The rig's etcd, if this is the name of one of its members."""
    etcd = rig.etcd
    return etcd if etcd is not None and name in etcd.names else None


@click.command()
@in_directory
@click.argument("node")
@click.argument("process", default="supervisor")
@click.option("--how", type=click.Choice(list(SIGNALS)), default="kill", show_default=True)
def kill(directory: Path, node: str, process: str, how: str) -> None:
    """Kill PROCESS (supervisor, net, sync, pool-1, ...) of NODE with -9, or freeze it; default: the supervisor, which
    takes the node down. NODE may be a member of etcd."""
    found = Rig.load(directory)
    etcd = _member(found, node)
    if etcd is not None:
        etcd.signal(node, SIGNALS[how])
        echo(f"{node}: {SIGNALS[how].name}")
        return
    processes = found.processes(node)
    pid = processes.get(process)
    if pid is None:
        running = ", ".join(name for name, one in processes.items() if one) or "none"
        raise RigError(f"{found.node(node).name} has no process {process!r} that runs; there are: {running}")
    faults.signal_process(pid, SIGNALS[how])
    echo(f"{found.node(node).name} {process} pid {pid}: {SIGNALS[how].name}")


@click.command()
@in_directory
@click.argument("node")
@click.option("--for", "seconds", type=click.FloatRange(0), help="Thaw after so many seconds; default: `thaw`.")
def freeze(directory: Path, node: str, seconds: float | None) -> None:
    """Stop all processes of NODE, as a machine that is suspended; or a member of etcd."""
    found = Rig.load(directory)
    etcd = _member(found, node)
    if etcd is not None:
        etcd.freeze(node)
        echo(f"{node} frozen")
    else:
        echo(f"{found.node(node).name} frozen, {candidates.freeze(found.node(node))} processes")
    if seconds is not None:
        try:
            time.sleep(seconds)
        finally:
            _thaw(found, node)


@click.command()
@in_directory
@click.argument("node")
def thaw(directory: Path, node: str) -> None:
    """End a freeze."""
    _thaw(Rig.load(directory), node)


def _thaw(rig: Rig, node: str) -> None:
    etcd = _member(rig, node)
    if etcd is not None:
        etcd.thaw(node)
        echo(f"{node} thawed")
    else:
        echo(f"{rig.node(node).name} thawed, {candidates.thaw(rig.node(node))} processes")


@click.command()
@in_directory
@click.argument("nodes", nargs=-1)
def start(directory: Path, nodes: tuple[str, ...]) -> None:
    """Start NODES that are down, or all; members of etcd, too."""
    found = Rig.load(directory)
    etcd = found.etcd
    wanted = nodes or (*(etcd.names if etcd is not None else ()), *(node.name for node in found.nodes))
    for name in wanted:
        member = _member(found, name)
        if member is not None:
            member.start(name)
            echo(f"{name} runs")
        elif nodes or not candidates.processes_of(found.node(name)):
            found.start(name)
            echo(f"{found.node(name).name} runs")


@click.command()
@in_directory
@click.argument("node")
@click.option("--from", "ways", type=click.Choice(list(WAYS)), help="Of a rig with candidates; default: all.")
@click.option(
    "--silent", is_flag=True, help="Keep connections open and let no byte through, instead of resetting them."
)
@click.option(
    "--for", "seconds", type=click.FloatRange(0), help="Mend after so many seconds; default: stays until --mend."
)
@click.option("--mend", is_flag=True, help="End an earlier cut.")
def cut(directory: Path, node: str, ways: str | None, silent: bool, seconds: float | None, mend: bool) -> None:
    """Cut the link between worker NODE and its master; with candidates what lies between NODE and all others, and
    etcd, in both directions."""
    if mend and (silent or seconds is not None):
        raise click.UsageError("--mend stands alone, or with --from")
    found = Rig.load(directory)
    target = found.node(node)
    if mend:
        _cable(found, target, "mend", ways)
        echo(f"{target.name} mended")
        return
    count = _cable(found, target, "silence" if silent else "cut", ways)
    echo(f"{target.name} {'silent' if silent else 'cut'}, {count} connections")
    if seconds is not None:
        try:
            time.sleep(seconds)
        finally:
            _cable(found, target, "mend", ways)
        echo(f"{target.name} mended")


def _cable(rig: Rig, target: RigNode, command: switchboard.Command, ways: str | None) -> int:
    if rig.candidates:
        return switchboard.tell(rig.switchboard, command, target.name, WAYS[ways or "all"])
    if ways is not None:
        raise RigError("--from is for a rig with candidates")
    if target.link_control is None:
        why = "the master has none" if target is rig.master else "the rig was made with --direct"
        raise RigError(f"{target.name} has no link to cut: {why}")
    return faults.tell_link(target.link_control, command)
