"""The demonstration: a cluster starts, becomes equal, and heals a change, a tampering and a killed process.

Everything shown is measured from outside: files are compared with the master's, pids are from `clusterd status --json`.
"""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tools.rig import workload
from tools.rig.cluster_json import SCALED
from tools.rig.compare import Comparison
from tools.rig.faults import signal_process
from tools.rig.guard import guarded
from tools.rig.nodes import PROGRAM, Rig, RigError
from tools.rig.patience import Patience
from tools.rig.screen import BAD, GOOD, LiveView, PlainView, Progress, View, files_text

SCALE = 0.1
STEP_TIMEOUT_S = 60.0
SHOWN_CHANGES = 8


@dataclass(frozen=True)
class Healed:
    """One chapter's result: what was done, and seconds until every worker was equal again; None: it did not heal."""

    what: str
    seconds: float | None


class Demo:
    """Runs the chapters on one rig."""

    def __init__(self, rig: Rig, view: View, seed: int) -> None:
        self.rig = rig
        self.view = view
        self.seed = seed
        self.results: list[Healed] = []

    def play(self, tree: Path | None) -> None:
        """Runs all chapters in order. Raises RigError when a node does not start or return its status."""
        self.first_sync(tree)
        self.change()
        self.tamper()
        self.kill()

    def first_sync(self, tree: Path | None) -> None:
        rig, view = self.rig, self.view
        view.title("1. A master and its workers start; the workers have nothing yet")
        made = workload.copy_tree(tree, rig.master.root) if tree else workload.generate(rig.master.root, seed=self.seed)
        kind = f"copied from {tree}" if tree else "generated: keys, groups, rules, decoders, lists, multigroups"
        view.say(f"{rig.master.name} holds {made.files} files, {made.bytes / 1e6:.1f} MB ({kind})")
        for node in rig.nodes:
            view.say(f"starting {node.name}, waiting until it serves")
            rig.start(node.name)
        began = time.monotonic()
        view.say(f"{len(rig.nodes)} nodes are up on 127.0.0.1, master on port {rig.master.port}")
        self._until(lambda: all(done == total for done, total, _ in self._presence().values()), self._presence)
        self._settle(f"first sync: {made.files} files to {len(rig.workers)} workers", began)

    def change(self) -> None:
        self.view.title("2. Somebody edits, adds and deletes files on the master")
        began = time.monotonic()
        changes = workload.change(self.rig.master.root, seed=self.seed, edit=3, add=2, delete=2)
        self._tell(changes)
        self._settle(f"{len(changes)} changes on the master", began)

    def tamper(self) -> None:
        worker = self.rig.workers[0]
        self.view.title(f"3. Somebody tampers with {worker.name}, keeping a file's size and time to hide it")
        began = time.monotonic()
        changes = workload.tamper(worker.root, seed=self.seed)
        self._tell(changes)
        self._settle(f"{len(changes)} files tampered with on {worker.name}", began)

    def kill(self) -> None:
        master = self.rig.master
        self.view.title(f"4. kill -9 of a process of {master.name}, and a change while it is down")
        before = self.rig.processes(master.name)
        pid = before.get("net")
        if pid is None:
            raise RigError(f"{master.name} has no process `net` that runs")
        began = time.monotonic()
        signal_process(pid, signal.SIGKILL)
        self._tell(workload.change(master.root, seed=self.seed + 1, edit=1, add=1, delete=0))
        self.view.say(f"killed net, pid {pid}: every connection of the master is gone")
        self.view.say("waiting until its supervisor has started the next one")
        patience = Patience(STEP_TIMEOUT_S)
        after = None
        while after in (None, pid) and not patience.is_over():
            after = self.rig.processes(master.name).get("net")
        self.view.say(
            f"net is back as pid {after}" if after not in (None, pid) else "net did not come back",
            GOOD if after else BAD,
        )
        others = {name for name, old in self.rig.processes(master.name).items() if before.get(name) == old}
        self.view.say(f"untouched meanwhile: {', '.join(sorted(others))}")
        self._settle("net of the master killed, 2 changes meanwhile", began, came_back=after not in (None, pid))

    def _settle(self, what: str, began: float, came_back: bool = True) -> None:
        """Waits until every worker equals the master byte by byte, and records the time since `began`."""
        seen: dict[str, Comparison] = {}
        self.view.say(
            f"waiting until every file on every worker is as on the master, {STEP_TIMEOUT_S:g} s at most, "
            "more on a busy machine"
        )

        def look() -> Progress:
            seen.update(self.rig.compare())
            return {
                n: (c.equal, c.total, "" if c.is_equal else files_text(c).plain.partition(", ")[2])
                for n, c in seen.items()
            }

        healed = self._until(lambda: bool(seen) and all(one.is_equal for one in seen.values()), look) and came_back
        seconds = time.monotonic() - began if healed else None
        self.results.append(Healed(what, seconds))
        if healed:
            self.view.say(f"every worker equals the master byte by byte, {seconds:.1f} s after", GOOD)
            return
        for name, one in seen.items():
            for line in list(one.lines())[:SHOWN_CHANGES]:
                self.view.say(f"{name}: {line}", BAD)

    def _until(self, done: Callable[[], bool], look: Callable[[], Progress]) -> bool:
        patience = Patience(STEP_TIMEOUT_S)
        while not patience.is_over():
            self.view.progress(look())
            if done():
                return True
            time.sleep(0.1)
        return False

    def _presence(self) -> Progress:
        """Returns a cheap progress of the first sync: the number of files that have the master's size."""
        sizes = {path: (self.rig.master.root / path).stat().st_size for path in workload.paths(self.rig.master.root)}
        return {
            node.name: (sum(_size(node.root / path) == size for path, size in sizes.items()), len(sizes), "")
            for node in self.rig.workers
        }

    def _tell(self, changes: list[workload.TreeChange]) -> None:
        for change in changes[:SHOWN_CHANGES]:
            self.view.say(f"{change.kind:6} {change.path}")
        if len(changes) > SHOWN_CHANGES:
            self.view.say(f"and {len(changes) - SHOWN_CHANGES} more")


def run(
    console: Console,
    *,
    tree: Path | None,
    workers: int,
    directory: Path | None,
    seed: int,
    plain: bool,
    program: tuple[str, ...] = PROGRAM,
) -> int:
    """Runs the demonstration and cleans up after it; returns the exit code: 0 when everything healed, else 1."""
    began = time.monotonic()
    with guarded("clusterd-demo-") as temporary:
        where = directory or temporary / "rig"
        view: View = PlainView(console) if plain or not console.is_terminal else LiveView(console)
        rig = Rig.create(where, workers, scale=SCALE, program=program)
        demo = Demo(rig, view, seed)
        problems: list[str] = []
        try:
            with view:
                scan, check = SCALED["master"]["recalculate_integrity"], SCALED["worker"]["sync_integrity"]
                view.say(
                    "Intervals are shortened ten times for this demonstration (etc/cluster.json): the master scans "
                    f"every {scan * SCALE:g} s instead of {scan} s, workers check every {check * SCALE:g} s instead of "
                    f"{check} s."
                )
                demo.play(tree)
                if not all(one.seconds is not None for one in demo.results):
                    show_logs(rig, view)
        finally:
            problems = rig.down()
    healed = all(one.seconds is not None for one in demo.results)
    _summary(console, demo.results, problems, time.monotonic() - began)
    return 0 if healed and not problems else 1


def _summary(console: Console, results: list[Healed], problems: list[str], seconds: float) -> None:
    table = Table("what happened", "equal again after", box=None, pad_edge=False)
    for one in results:
        table.add_row(one.what, f"{one.seconds:.1f} s" if one.seconds is not None else "did not heal")
    console.print()
    console.print(table)
    for problem in problems:
        console.print(f"at the end: {problem}", markup=False)
    console.print(f"\n{seconds:.0f} s in all; nothing is left running, nothing is left on disk.", highlight=False)


def show_logs(rig: Rig, view: View) -> None:
    """Shows the last lines above INFO of each node, because the directories are removed next."""
    for node in rig.nodes:
        try:
            lines = (node.root / "logs" / "cluster.log").read_text(errors="replace").splitlines()
        except FileNotFoundError:
            lines = ["no logs/cluster.log"]
        for line in [one for one in lines if " ERROR: " in one or " WARNING: " in one or one.startswith("no ")][-5:]:
            view.say(f"{node.name}: {line}", BAD)


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return -1
