"""An implementation under test as a master and workers below one directory, each a process in the foreground.

    with Cluster(REFERENCE, base, {"intervals": {...}}) as cluster:
        cluster.start(cluster.master)
        cluster.log(cluster.master).wait(SCANNED, 60)

A node's directory is that of a stock node: etc/ossec.conf, etc/cluster.json, queue/cluster, logs/cluster.log. What
happens is read from the log lines that every implementation writes alike (wire.md 9).
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.suite.processes import family
from tools.init_node import CONFIGURATION, DIRECTORIES
from tools.rig.guard import MARK
from tools.rig.ports import HOST, free_port

PROJECT = Path(__file__).resolve().parent.parent.parent
KEY = "c98b62a9b6169ac5f67dae55ae4a9088"
CLUSTER = "bench"
SCANNED = re.compile(r"\[Local integrity\] Finished in ([0-9.]+)s\. Calculated metadata of (\d+) files")
CHECKING = re.compile(r"\[Worker (?!echoes)[^]]*\] \[Integrity check\] Starting")
APPLIED = re.compile(r"\[Integrity sync\] Finished in ([0-9.]+)s")
WAITING = re.compile(r"Could not connect to master|Successfully connected to master")
STOP_TIMEOUT_S = 20.0
POLL_S = 0.005


class JobFailed(Exception):
    """A job could not be measured, or its result is wrong; the text says what happened."""


@dataclass(frozen=True)
class Implementation:
    """`template`: the shell command of one node, with {root}, {role}, {name}, {host} and {port}; it stays in the
    foreground, and ends, with all its processes, on SIGTERM. The key is in {root}/etc/ossec.conf only. `is_ours`: needs
    no shell."""

    name: str
    template: str
    is_ours: bool = True

    def line(self, node: "Node") -> list[str]:
        values = {"root": str(node.root), "role": node.role, "name": node.name, "host": HOST, "port": str(node.port)}
        text = self.template.format(**{key: shlex.quote(value) for key, value in values.items()})
        return shlex.split(text) if self.is_ours else ["/bin/sh", "-c", text]


_PYTHON = shlex.quote(sys.executable)
CLUSTERD = Implementation("clusterd", f"{_PYTHON} -m tools.cli --root {{root}} start -f")
REFERENCE = Implementation("reference", f"{_PYTHON} -m benchmarks.reference --root {{root}}")


def peer_from_environment() -> Implementation | None:
    """The implementation that PEER_CMD names, if it is set."""
    template = os.environ.get("PEER_CMD", "")
    return Implementation("peer", template, is_ours=False) if template else None


@dataclass
class Node:
    """`process`: None while it does not run."""

    name: str
    role: str
    root: Path
    port: int
    implementation: Implementation
    process: "subprocess.Popen[bytes] | None" = None


class Log:
    """Follows a node's log from its beginning, or from where the last wait left it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._rest = ""
        self._waiting: list[str] = []

    def _read(self) -> list[str]:
        """Returns new complete lines."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return []
        self._offset += len(data)
        *lines, self._rest = (self._rest + data.decode(errors="replace")).split("\n")
        return lines

    def wait(self, pattern: "re.Pattern[str]", timeout_s: float) -> tuple[float, "re.Match[str]"]:
        """Returns the moment (monotonic, when it was seen) and the match of the next line with `pattern`; the next wait
        begins after it. Raises JobFailed after the time."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            self._waiting += self._read()
            while self._waiting:
                if found := pattern.search(self._waiting.pop(0)):
                    return time.monotonic(), found
            time.sleep(POLL_S)
        raise JobFailed(f"{self._path}: no line with {pattern.pattern!r} in {timeout_s:g} s; it ends: {self._tail()}")

    def _tail(self) -> str:
        try:
            return " / ".join(self._path.read_text(errors="replace").splitlines()[-3:])
        except FileNotFoundError:
            return "there is no log"


class Cluster:
    """The master and its workers; `down`, or the end of the block, leaves no process and no directory."""

    def __init__(
        self,
        implementation: Implementation,
        base: Path,
        settings: dict[str, Any] | None = None,
        *,
        workers: int = 0,
        of_workers: Implementation | None = None,
    ) -> None:
        """`settings` becomes every node's etc/cluster.json. `of_workers`: what the workers are, if something else."""
        self.base = base
        self.port = free_port()
        self._settings = settings or {}
        self.master = self._make("master", "master", implementation)
        self.workers = [self._make(f"w{n}", "worker", of_workers or implementation) for n in range(1, workers + 1)]
        self._logs: dict[str, Log] = {}

    @property
    def nodes(self) -> list[Node]:
        return [self.master, *self.workers]

    def configure(self, settings: dict[str, Any]) -> None:
        """Changes the settings from the next start on."""
        self._settings = settings
        for node in self.nodes:
            (node.root / "etc/cluster.json").write_text(json.dumps(settings))

    def start(self, *nodes: Node) -> None:
        """Starts processes and returns at once. The log begins anew."""
        for node in nodes:
            (node.root / "logs/cluster.log").unlink(missing_ok=True)
            self._logs[node.name] = Log(node.root / "logs/cluster.log")
            environment = os.environ | {"PYTHONPATH": str(PROJECT), MARK: str(self.base)}
            environment.pop("CLUSTERD_ROOT", None)
            with (node.root / "logs/output").open("wb") as output:
                node.process = subprocess.Popen(
                    node.implementation.line(node),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=environment,
                    cwd=PROJECT,
                    start_new_session=True,
                )

    def log(self, node: Node) -> Log:
        return self._logs[node.name]

    def pids(self, node: Node) -> list[int]:
        """Returns all processes of a node; raises JobFailed if it does not run."""
        if node.process is None or node.process.poll() is not None:
            said = (node.root / "logs/output").read_text(errors="replace")[-300:]
            raise JobFailed(f"{node.name} ({node.implementation.name}) does not run: {said.strip()}")
        return family(node.process.pid)

    def stop(self, *nodes: Node) -> None:
        """Ends nodes, by default all, at the same time. Processes that do not end are killed and reported by
        JobFailed."""
        running = [node for node in nodes or tuple(reversed(self.nodes)) if node.process is not None]
        members = {node.name: _processes(node) for node in running}
        for node in running:
            assert node.process
            if node.process.poll() is None:
                send = node.process.send_signal if node.implementation.is_ours else _to_group(node.process.pid)
                send(signal.SIGTERM)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        late = []
        for node in running:
            assert node.process
            try:
                node.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                late.append(node.name)
            _, left = psutil.wait_procs(members[node.name], timeout=1)
            for process in left:
                process.kill()
            node.process.wait(5)
            node.process = None
        if late:
            raise JobFailed(f"did not end on SIGTERM in {STOP_TIMEOUT_S:g} s and was killed: {', '.join(late)}")

    def forget(self, node: Node) -> None:
        """Removes what a stopped node has learnt, but not its files: the next scan is a first one."""
        shutil.rmtree(node.root / "queue")
        for directory in DIRECTORIES:
            (node.root / directory).mkdir(parents=True, exist_ok=True)

    def down(self) -> None:
        try:
            self.stop()
        finally:
            shutil.rmtree(self.base, ignore_errors=True)

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    def _make(self, name: str, role: str, implementation: Implementation) -> Node:
        root = self.base / name
        for directory in DIRECTORIES:
            (root / directory).mkdir(parents=True, exist_ok=True)
        text = CONFIGURATION.format(
            cluster=CLUSTER, name=name, node_type=role, key=KEY, port=self.port, bind=HOST, node=HOST
        )
        (root / "etc/ossec.conf").write_text(text)
        (root / "etc/cluster.json").write_text(json.dumps(self._settings))
        return Node(name, role, root, self.port, implementation)


def _processes(node: Node) -> list[psutil.Process]:
    assert node.process
    found = []
    for pid in family(node.process.pid):
        try:
            found.append(psutil.Process(pid))
        except psutil.NoSuchProcess:
            continue
    return found


def _to_group(pid: int) -> Any:
    return lambda number: os.killpg(pid, number)
