"""A node with fake children in a process of its own, and a check that nothing of it is left."""

import os
import signal
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from clusterd.pidfile import running_pid
from clusterd.rights import DEBUGGABLE
from clusterd.rundir import REPLICA_DIR, board_path
from ipc.board import Board, RowSnapshot
from tests.supervisor.helpers import MARK, make_tree, marked, until
from tests.warm import WARM, Forked


class FakeNode:
    """`start` runs it in the foreground; its log goes to `stderr`."""

    def __init__(self, root: Path) -> None:
        self.root = make_tree(root)
        self.mark = uuid.uuid4().hex
        self.process: Forked | None = None

    def behave(self, name: str, behaviour: str) -> None:
        # In one step: a child that is born in the middle of a write would find nothing there, and be ready at once.
        half = self.root / "behaviour"
        half.write_text(behaviour)
        half.rename(self.root / f"behave-{name}")

    def start(self, **options: float) -> None:
        """Starts the node; does not wait."""
        words = [f"{name}={value}" for name, value in options.items()]
        command = [sys.executable, "-m", "tests.supervisor.fake_node", str(self.root), *words]
        with (self.root / "stderr").open("wb") as stderr:
            self.process = WARM.start(command, os.environ | {MARK: self.mark, DEBUGGABLE: "1"}, err=stderr.fileno())

    def serve(self, **options: float) -> None:
        """Starts the node; returns when it serves."""
        self.start(**options)
        until(lambda: "The node serves" in self.log, "the node serves")

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def log(self) -> str:
        path = self.root / "logs" / "cluster.log"
        return path.read_text() if path.exists() else ""

    @property
    def crash_log(self) -> str:
        return (self.root / "logs" / "clusterd-crash.log").read_text()

    @property
    def story(self) -> list[str]:
        path = self.root / "story"
        return path.read_text().splitlines() if path.exists() else []

    def row(self, name: str) -> RowSnapshot:
        board = Board.open(board_path(str(self.root)))
        try:
            return board.row(name).snapshot()
        finally:
            board.close()

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def wait(self) -> int:
        assert self.process is not None
        return self.process.wait(60)

    def left(self) -> list[str]:
        """Returns processes and files that should be gone when the node has ended."""
        files = [*self.root.glob("var/run/*"), *self.root.glob("queue/cluster/*")]
        keep = self.root / "queue/cluster/.clusterd"
        spool = list((keep / "spool").iterdir()) if keep.exists() else []
        return [str(path) for path in (*files, *spool) if path != keep] + [str(p) for p in marked(self.mark)]

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        pid = running_pid(str(self.root))
        if pid is not None and psutil.pid_exists(pid):
            os.kill(pid, signal.SIGKILL)
        try:
            until(lambda: not marked(self.mark), "every process of the node is gone")
        finally:
            for process in marked(self.mark):
                process.kill()


def killed_and_back(node: FakeNode, name: str) -> None:
    before = node.row(name)
    os.kill(before.pid, signal.SIGKILL)
    until(lambda: node.row(name).state == "ready" and node.row(name).pid not in (0, before.pid), f"{name} is back")
    after = node.row(name)
    assert after.incarnation == before.incarnation + 1
    assert after.restarts == before.restarts + 1


@pytest.fixture
def make_node(tmp_path: Path) -> Iterator[Callable[[], FakeNode]]:
    made: list[FakeNode] = []

    def make() -> FakeNode:
        made.append(FakeNode(tmp_path / f"n{len(made)}"))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def node(make_node: Callable[[], FakeNode]) -> FakeNode:
    return make_node()


@pytest.fixture
def root(tmp_path: Path) -> str:
    for directory in ("etc/rules", "etc/shared/default", "logs", "queue/db", "var/run/clusterd", REPLICA_DIR):
        (tmp_path / directory).mkdir(parents=True)
    return str(tmp_path)
