"""The demonstration of high availability: a master is killed, another candidate leads, agents are registered before and
after, and the killed node returns as a worker. Everything shown comes from the nodes, as an operator would ask them."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from clusterd.pidfile import running_pid
from tools.rig import candidates, workload
from tools.rig.demo import show_logs
from tools.rig.guard import guarded
from tools.rig.nodes import PROGRAM, Rig, RigError, RigNode
from tools.rig.patience import Patience
from tools.rig.screen import GOOD, LiveView, PlainView, View
from tools.rig.wdb_client import WdbError, authd

SCALE = 0.1
STEP_S = 180.0
ASK_S = 60.0


class FailoverDemo:
    """Runs the chapters on one rig. `results`: what happened, and the seconds that it took."""

    def __init__(self, rig: Rig, view: View, lease_s: int) -> None:
        self.rig = rig
        self.view = view
        self.lease_s = lease_s
        self.results: list[tuple[str, float]] = []

    def play(self) -> None:
        """Runs all chapters in order. Raises RigError when one does not succeed."""
        rig, view = self.rig, self.view
        view.title("1. Three candidates and a plain worker start, with an etcd of three members")
        made = workload.generate(rig.master.root)
        (rig.master.root / "etc/client.keys").write_text("")
        for node in rig.nodes:
            view.say(f"starting {node.name}")
            rig.start(node.name)
        self._timed("three candidates ready, one leads", self._is_calm)
        self._timed(f"{made.files} files on every node", lambda: all(one.is_equal for one in rig.compare().values()))
        leader = self._leader()
        view.say(f"{leader.name} leads in term {self._election(leader)['term']}", GOOD)
        plain = rig.nodes[-1]
        view.title(f"2. An agent is registered, through {plain.name}, which is no candidate")
        before = self._register(plain, "before")

        view.title(f"3. kill -9 of {leader.name}, which leads; nobody does anything else")
        pid = running_pid(str(leader.root))
        killed = time.monotonic()
        candidates.kill(leader)
        view.say(
            f"killed the supervisor of {leader.name}, pid {pid}; its lease in etcd has up to {self.lease_s} s left"
        )
        after = self._register(plain, "after", killed)
        successor = self._leader()
        view.say(f"{successor.name} leads in term {self._election(successor)['term']}", GOOD)

        view.title(f"4. {leader.name} is started again, and finds that it leads no more")
        began = time.monotonic()
        rig.start(leader.name)
        self._timed(f"{leader.name} is a candidate again", self._is_calm, began)
        wanted = {before, after}
        self._timed(
            "both agents' keys on all four nodes", lambda: all(wanted <= keys(node) for node in rig.nodes), began
        )
        for node in rig.nodes:
            role = "leads" if node is self._leader() else "candidate" if node.advertised else "worker"
            view.say(f"{node.name}: {role}, agents {', '.join(f'{one:03}' for one in sorted(keys(node)))}")

    def _register(self, node: RigNode, name: str, began: float | None = None) -> int:
        """Registers an agent, and repeats the request until it is answered, as agents do. Returns the id."""
        began = time.monotonic() if began is None else began
        found: dict[str, Any] = {}

        def is_answered() -> bool:
            try:
                found.update(authd(node.root, {"function": "add", "arguments": {"name": name, "ip": "any"}}, ASK_S))
            except WdbError:
                return False
            return found.get("error") == 0

        self._timed(f"agent `{name}` registered, its id given and on two disks", is_answered, began)
        number = int(found["data"]["id"])
        self.view.say(f"agent `{name}` has the id {number:03}", GOOD)
        return number

    def _timed(self, what: str, is_so: Callable[[], bool], began: float | None = None) -> None:
        began = time.monotonic() if began is None else began
        patience = Patience(STEP_S)
        while not is_so():
            if patience.is_over():
                raise RigError(f"not within {STEP_S:g} s: {what}")
            time.sleep(0.2)
        self.results.append((what, time.monotonic() - began))
        self.view.say(f"{what}: {self.results[-1][1]:.1f} s", GOOD)

    def _facts(self, node: RigNode) -> dict[str, Any]:
        told = self.rig.command(node, "ha", "status", "--json", timeout_s=ASK_S).stdout
        facts: dict[str, Any] = json.loads(told) if told.startswith("{") else {}
        return facts

    def _election(self, node: RigNode) -> dict[str, Any]:
        return self._facts(node).get("election") or {}

    def _leader(self) -> RigNode:
        """Returns the node that leads and serves, as any candidate reports it."""
        for node in self.rig.candidates:
            found = self._election(node) if running_pid(str(node.root)) is not None else {}
            if found.get("serves") and found.get("leader"):
                return self.rig.node(found["leader"])
        raise RigError("nobody leads")

    def _is_calm(self) -> bool:
        """Whether a node leads, the confirming candidate may take over, and all others follow."""
        try:
            facts = self._facts(self._leader())
        except RigError:
            return False
        rows = (facts.get("election") or {}).get("candidates") or []
        may = [row for row in rows if row["role"] != "leader" and not row["may_not_lead"]]
        follow = [row for row in facts.get("candidates") or [] if not row["may_not_lead"]]
        others = len(self.rig.candidates) - 1
        return facts.get("registrations") == "synchronous" and bool(may) and len(rows) - 1 == len(follow) == others


def keys(node: RigNode) -> set[int]:
    """Returns the ids in a node's client.keys."""
    try:
        lines = (node.root / "etc/client.keys").read_text().splitlines()
    except FileNotFoundError:
        return set()
    return {int(line.split()[0]) for line in lines if line and " !" not in line}


def run(
    console: Console, *, directory: Path | None, lease_s: int, plain: bool, program: tuple[str, ...] = PROGRAM
) -> int:
    """Runs the demonstration and cleans up after it. Returns the exit code: 0 when every chapter succeeded, else 1."""
    began = time.monotonic()
    with guarded("clusterd-demo-") as temporary:
        view: View = PlainView(console) if plain or not console.is_terminal else LiveView(console)
        rig = Rig.create(directory or temporary / "rig", 3, scale=SCALE, program=program)
        demo = FailoverDemo(rig, view, lease_s)
        failure = ""
        try:
            candidates.add_candidates(rig, 3, 3, lease_s=lease_s)
            with view:
                view.say(
                    f"The lease has {lease_s} s here instead of {candidates.LEASE_S}; intervals are ten times as short."
                )
                try:
                    demo.play()
                except RigError as problem:
                    failure = str(problem)
                    show_logs(rig, view)
        finally:
            problems = rig.down()
    table = Table("what happened", "after", box=None, pad_edge=False)
    for what, seconds in demo.results:
        table.add_row(what, f"{seconds:.1f} s")
    console.print()
    console.print(table)
    for line in filter(None, [failure, *problems]):
        console.print(f"at the end: {line}", markup=False)
    console.print(
        f"\n{time.monotonic() - began:.0f} s in all; nothing is left running, nothing is left on disk.", highlight=False
    )
    return 1 if failure or problems else 0
