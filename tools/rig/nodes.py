"""A rig: a master and workers on loopback ports of this machine, below one directory.

    DIR/rig.json             the rig's nodes (no key in it)
    DIR/agents.json          its agents and the last report of each, if it has any
    DIR/rig_manager_1        the master's root; rig_manager_2, ... the workers'
    DIR/links/NODE.sock      control of a worker's link (faults.py), if the rig has links
    DIR/etcd                 etcd's members (etcd.py), and DIR/switchboard.sock the cables (switchboard.py), if it has
                             candidates (candidates.py)

Nodes are driven through the `clusterd` command only, as an operator would. Every process of a rig carries
CLUSTERD_RIG=DIR in its environment, so `down` finds what is left after any crash without knowing how the nodes work
inside, and never touches another rig. A node that somebody has restarted by hand is found by its pid file.
"""

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import psutil

from clusterd.pidfile import running_pid
from clusterd.rights import DEBUGGABLE
from tools import stopping
from tools.rig.cluster_json import amend, for_a_rig, merged
from tools.rig.compare import Comparison, compare
from tools.rig.etcd import STATE as ETCD_STATE
from tools.rig.etcd import EtcdCluster
from tools.rig.guard import MARK, carrying
from tools.rig.patience import Patience
from tools.rig.ports import HOST, free_port
from tools.rig.within import init_within, read_status

STATE = "rig.json"
SWITCHBOARD = "switchboard.sock"
AGENTS = "agents.json"
"""The last reports of the rig's agents (agents.py)."""
START_TIMEOUT_S = 650.0
STOP_TIMEOUT_S = 30
STATUS_TIMEOUT_S = 60.0
PROGRAM = (sys.executable, "-m", "tools.cli")
PROJECT = Path(__file__).resolve().parent.parent.parent

TOLD = ("unreachable", "problem", "problems", "syncs", "peers", "manifest", "results", "workers", "jobs")
"""Members of a node's status that say why files do not arrive."""

Run = Callable[[Sequence[str], IO[str], IO[str], Mapping[str, str], float], int]
"""Runs a command line: where its output and its errors go, its environment, seconds. Returns the exit code; raises
subprocess.TimeoutExpired, then nothing of it runs."""


def run_program(
    line: Sequence[str], out: IO[str], err: IO[str], environment: Mapping[str, str], timeout_s: float
) -> int:
    """`Run` for every program."""
    done = subprocess.run(
        line, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment, timeout=timeout_s, check=False
    )
    return done.returncode


class RigError(Exception):
    """A rig could not do what was requested; the text tells which node, why, and what to do."""


@dataclass(frozen=True)
class RigNode:
    """One node of a rig. `port`: the master listens there; for a worker, the port at which it dials its master.
    `link_pid` 0: no link. `advertised`: of a candidate, the port of the switchboard at which others reach it."""

    name: str
    kind: str
    root: Path
    port: int
    link_pid: int = 0
    link_control: Path | None = None
    advertised: int = 0


@dataclass
class Rig:
    """`directory` contains everything. Returned by `create` or `load`; `down` removes the rig in whatever state it is.

    `program` is the command line of `clusterd`, so that the same tests can run on another build of it. `run` runs it.
    `within`: `init`, `status --json` and `stop` are done in this process, by what the commands run.
    """

    directory: Path
    nodes: list[RigNode] = field(default_factory=list)
    scale: float = 1.0
    program: tuple[str, ...] = PROGRAM
    run: Run = run_program
    within: bool = False
    helpers: list[int] = field(default_factory=list)
    """Pids of the rig's own processes beside links and etcd."""

    @classmethod
    def create(
        cls,
        directory: Path,
        workers: int,
        *,
        scale: float = 1.0,
        links: bool = False,
        overrides: dict[str, Any] | None = None,
        program: tuple[str, ...] = PROGRAM,
        key: str | None = None,
        run: Run = run_program,
        within: bool = False,
    ) -> "Rig":
        """Creates the nodes' directories and configuration; starts nothing but the links.

        `overrides` is merged into every node's etc/cluster.json, over the values of `scale`. The directory must not
        exist, or be empty; it is made passable, because nodes started as root switch to a user of their own. `key`: the
        cluster's, for tests in which a peer of their own joins; random by default. On failure nothing is left.
        """
        directory = directory.resolve()
        if (directory / STATE).exists():
            raise RigError(
                f"there is a rig in {directory}: run `down --dir {directory}` first, or choose another --dir"
            )
        if directory.exists() and any(directory.iterdir()):
            raise RigError(f"{directory} is not empty and not a rig: choose another --dir")
        directory.mkdir(parents=True, exist_ok=True)
        if directory.stat().st_uid != os.geteuid():
            raise RigError(f"{directory} belongs to another user: choose another --dir")
        directory.chmod(0o711)
        rig = cls(directory, scale=scale, program=program, run=run, within=within)
        rig._save()
        try:
            key = key or secrets.token_hex(16)
            port = free_port()
            for number in range(1, workers + 2):
                rig._add(number, port, key, links, overrides or {})
        except BaseException:
            rig.down()
            raise
        return rig

    @classmethod
    def load(cls, directory: Path) -> "Rig":
        """Returns the rig in `directory`; raises RigError when there is none."""
        directory = directory.resolve()
        try:
            state = json.loads((directory / STATE).read_text())
        except FileNotFoundError:
            raise RigError(f"no rig in {directory}: run `up` first, or name its --dir") from None
        except ValueError as error:
            raise RigError(f"{directory / STATE} is damaged ({error}): run `down --dir {directory}`") from None
        nodes = [
            RigNode(
                **item
                | {
                    "root": Path(item["root"]),
                    "link_control": Path(item["link_control"]) if item["link_control"] else None,
                }
            )
            for item in state["nodes"]
        ]
        return cls(directory, nodes, state["scale"], tuple(state["program"]), helpers=state.get("helpers", []))

    @property
    def master(self) -> RigNode:
        return self.nodes[0]

    @property
    def workers(self) -> list[RigNode]:
        return self.nodes[1:]

    @property
    def candidates(self) -> list[RigNode]:
        """The nodes that may become master, of a rig made with candidates."""
        return [node for node in self.nodes if node.advertised]

    @property
    def etcd(self) -> EtcdCluster | None:
        return EtcdCluster.load(self.directory)

    @property
    def switchboard(self) -> Path:
        """The control socket of the cables (switchboard.py), in a rig with candidates."""
        return self.directory / SWITCHBOARD

    def node(self, name: str) -> RigNode:
        """Returns a node by name, by number (1 is the master), or `master`; raises RigError that lists the existing
        ones."""
        for number, node in enumerate(self.nodes, 1):
            if name in (node.name, str(number)) or (name == "master" and number == 1):
                return node
        raise RigError(f"no node {name!r} in this rig; there are {', '.join(node.name for node in self.nodes)}")

    def start(self, *names: str) -> None:
        """Starts the named nodes, or all, the master first. Raises RigError with the reason of a node."""
        for node in [self.node(name) for name in names] or self.nodes:
            done = self.command(node, "start", "--wait-master", "0", timeout_s=START_TIMEOUT_S)
            if done.returncode:
                raise RigError(f"{node.name} did not start (exit {done.returncode}): {done.stderr.strip()}")

    def stop(self, *names: str, timeout_s: int = STOP_TIMEOUT_S) -> list[str]:
        """Stops the named nodes, or all, at the same time; returns one text for each that did not stop cleanly."""
        nodes = [self.node(name) for name in names] or self.nodes

        def one(node: RigNode) -> str | None:
            if self.within:
                ended = stopping.stop(str(node.root), timeout_s=timeout_s)
                return None if ended.ok else f"{node.name}: stop ended with {ended.code}: {ended.reason}"
            try:
                done = self.command(node, "stop", "--timeout", str(timeout_s), timeout_s=timeout_s + 60)
            except RigError as error:
                return str(error)
            return f"{node.name}: stop ended with {done.returncode}: {done.stderr.strip()}" if done.returncode else None

        with ThreadPoolExecutor(max_workers=8) as threads:
            return [text for text in threads.map(one, reversed(nodes)) if text]

    def status(self, *names: str) -> dict[str, dict[str, Any]]:
        """Returns `status --json` of the named nodes, or all, asked at the same time; for a node that does not answer,
        `{"unreachable": reason}`."""
        nodes = [self.node(name) for name in names] or self.nodes

        def one(node: RigNode) -> dict[str, Any]:
            if self.within:
                return read_status(node.root)
            try:
                done = self.command(node, "status", "--json", timeout_s=STATUS_TIMEOUT_S)
                facts: dict[str, Any] = json.loads(done.stdout)
            except RigError as error:
                return {"unreachable": str(error)}
            except ValueError:
                return {"unreachable": done.stderr.strip() or f"exit {done.returncode} without JSON"}
            return facts

        with ThreadPoolExecutor(max_workers=8) as threads:
            return dict(zip((node.name for node in nodes), threads.map(one, nodes), strict=True))

    def processes(self, name: str) -> dict[str, int | None]:
        """Returns process name to pid of one node, from its own status; None for a process that is down."""
        (facts,) = self.status(name).values()
        if "unreachable" in facts:
            raise RigError(f"{name} does not tell its processes: {facts['unreachable']}")
        return {item["name"]: item["pid"] for item in facts["processes"]}

    def compare(self) -> dict[str, Comparison]:
        """Compares each worker's directories with the master's, file by file."""
        return {node.name: compare(self.master.root, node.root) for node in self.workers}

    def wait_equal(self, timeout_s: float, pause_s: float = 0.1) -> float:
        """Polls until all workers equal the master; returns the seconds taken. Raises RigError with the remaining
        differences, and as a note what the nodes say of themselves: a test that fails once in a hundred runs has to
        explain itself."""
        began, patience = time.monotonic(), Patience(timeout_s)
        while not all((found := self.compare())[node.name].is_equal for node in self.workers):
            if patience.is_over():
                left = [f"{name}: {line}" for name, one in found.items() for line in list(one.lines())[:3]]
                failure = RigError(f"not equal after {timeout_s:g} s: {'; '.join(left)}")
                failure.add_note(self.told())
                raise failure
            patience.rest(pause_s)
        return time.monotonic() - began

    def are_connected(self) -> bool:
        """Whether every worker has a link to the master, and both ends know."""
        seen = {name: [peer["kind"] for peer in facts.get("peers") or []] for name, facts in self.status().items()}
        return all(seen[node.name] == ["master"] for node in self.workers) and seen[self.master.name] == [
            "worker"
        ] * len(self.workers)

    def told(self, lines: int = 60) -> str:
        """What each node says of itself: the parts of its status that speak of syncs, the last lines of its log."""
        parts = []
        for name, facts in self.status().items():
            shown = {key: facts[key] for key in TOLD if facts.get(key)}
            parts.append(f"---- status of {name}: {json.dumps(shown, default=str)}")
            try:
                log = (self.node(name).root / "logs/cluster.log").read_text(errors="replace").splitlines()
            except OSError as failure:
                log = [str(failure)]
            parts += [f"---- the last of {len(log)} lines of its log:", *log[-lines:]]
        return "\n".join(parts)

    def command(
        self, node: RigNode, *arguments: str, timeout_s: float, key: str | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """Runs `clusterd --root ROOT ...` for one node. Output is written to files, because a daemon that keeps pipes
        open would make this wait. Raises RigError when it does not end in time."""
        environment = os.environ | {MARK: str(self.directory), DEBUGGABLE: "1"}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(PROJECT), os.environ.get("PYTHONPATH"))))
        environment.pop("CLUSTERD_ROOT", None)
        environment.pop("CLUSTERD_KEY", None)
        if key is not None:
            environment["CLUSTERD_KEY"] = key
        line = [*self.program, "--root", str(node.root), *arguments]
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            try:
                code = self.run(line, out, err, environment, timeout_s)
            except subprocess.TimeoutExpired:
                raise RigError(f"{node.name}: `{' '.join(arguments)}` did not end in {timeout_s:g} s") from None
            out.seek(0)
            err.seek(0)
            return subprocess.CompletedProcess(line, code, out.read(), err.read())

    def running(self) -> list[psutil.Process]:
        """Returns every process of this rig, found by its mark, or by the pid file of a node that somebody started by
        hand; never the caller or its parents."""
        own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
        mark = str(self.directory)
        found = {process.pid: process for process in carrying(MARK, lambda found: found == mark)}
        for root in self.directory.glob("rig_manager_*"):
            pid = running_pid(str(root))
            if pid is not None and pid not in found:
                with contextlib.suppress(psutil.NoSuchProcess):  # its last children are ending
                    supervisor = psutil.Process(pid)
                    found |= {one.pid: one for one in (supervisor, *supervisor.children(recursive=True))}
        return [process for pid, process in found.items() if pid not in own]

    def down(self, stop_timeout_s: int = STOP_TIMEOUT_S) -> list[str]:
        """Stops the nodes, kills remaining processes, removes the directory. Returns one text for each failure."""
        alive = {Path(root) for process in self.running() if (root := _root_of(process))}
        names = [node.name for node in self.nodes if node.root in alive or running_pid(str(node.root)) is not None]
        problems = self.stop(*names, timeout_s=stop_timeout_s) if names else []
        own = {*self.helpers, *(node.link_pid for node in self.nodes)}
        _kill([process for process in self.running() if process.pid in own])
        if (etcd := self.etcd) is not None:
            etcd.stop()
        if left := self.running():
            problems += [f"killed process {process.pid} ({' '.join(_cmdline(process))[:100]})" for process in left]
            _kill(left)
        for path in [*self.directory.glob("rig_manager_*"), self.directory / "links", self.directory / "etcd"]:
            shutil.rmtree(path, ignore_errors=True)
        for name in (AGENTS, STATE, ETCD_STATE, SWITCHBOARD):
            (self.directory / name).unlink(missing_ok=True)
        if self.directory.exists() and not any(self.directory.iterdir()):
            self.directory.rmdir()
        return problems

    def _add(self, number: int, port: int, key: str, links: bool, overrides: dict[str, Any]) -> None:
        name = f"rig_manager_{number}"
        root = self.directory / name
        if number == 1:
            node = RigNode(name, "master", root, port)
            where = ["--bind", HOST, "--port", str(port)]
        else:
            node = self._link(name, root, port) if links else RigNode(name, "worker", root, port)
            where = ["--master", f"{HOST}:{node.port}"]
        self.nodes.append(node)
        self._save()
        line = ("init", "--type", node.kind, "--name", name, "--cluster", "rig", *where)
        if self.within:
            init_within(root, line[1:], key)
        else:
            done = self.command(node, *line, timeout_s=120, key=key)
            if done.returncode:
                raise RigError(f"{name}: init failed (exit {done.returncode}): {done.stderr.strip()}")
        amend(root, merged(for_a_rig(self.scale), overrides))

    def _link(self, name: str, root: Path, master_port: int) -> RigNode:
        """Starts a worker's link. Its listening socket is created here and inherited, so its port is never free
        again."""
        (self.directory / "links").mkdir(mode=0o700, exist_ok=True)
        control = self.directory / "links" / f"{name}.sock"
        with socket.create_server((HOST, 0)) as listener:
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "tools.rig.faults",
                    str(listener.fileno()),
                    HOST,
                    str(master_port),
                    str(control),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[listener.fileno()],
                cwd=PROJECT,
                env=os.environ | {MARK: str(self.directory)},
                start_new_session=True,
            )
            port: int = listener.getsockname()[1]
        patience = Patience(20)
        while not control.exists():
            if process.poll() is not None or patience.is_over():
                raise RigError(f"the link of {name} did not start")
            time.sleep(0.02)
        process.returncode = 0  # it lives on without us: `down` ends it by its mark, and Popen shall not warn about it
        return RigNode(name, "worker", root, port, process.pid, control)

    def _save(self) -> None:
        state = {"scale": self.scale, "program": self.program, "helpers": self.helpers}
        state["nodes"] = [asdict(node) for node in self.nodes]
        beside = self.directory / f".{STATE}.new"
        beside.write_text(json.dumps(state, indent=2, default=str) + "\n")
        beside.replace(self.directory / STATE)


def _cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return ["?"]


def _root_of(process: psutil.Process) -> str | None:
    line = _cmdline(process)
    return line[line.index("--root") + 1] if "--root" in line[:-1] else None


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(processes, timeout=60)
