"""The store process alone, with its sockets, below a root of its own."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

import clusterd.store.process
from clusterd.logs import Log
from clusterd.rundir import STORE_SOCKETS, board_path, run_dir
from clusterd.settings import ClusterBlock, Clusterd, Secret, Settings
from clusterd.wdb.stream import is_served
from ipc.board import Board
from tests.fakes.forks import die_with_parent
from tools.rig.patience import Patience

START_S = 60.0


class LoneStore:
    """A forked store. `kill` ends it with -9, `restart` begins its next life."""

    def __init__(self, settings: Settings) -> None:
        self.root = Path(settings.root)
        self._settings = settings
        self._board = Board.create(board_path(settings.root))
        self._row = self._board.add_row("store")
        self._lives = 0
        self.pid = 0

    def start(self) -> None:
        self._lives += 1
        self._row.begin(0, self._lives)
        log = Log(str(self.root / "logs/cluster.log"), 2, "text")
        pid = os.fork()
        if pid == 0:
            die_with_parent()
            status = 1
            try:
                os.setsid()
                status = clusterd.store.process.run(self._settings, self._board, log)
            finally:
                os._exit(status)
        log.close()
        self.pid = pid
        self._row.set_pid(pid)
        patience = Patience(START_S)
        while self._row.snapshot().state != "ready":
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended or patience.is_over():
                self.pid = 0
                reason = self.root / "var/run/clusterd/reason"
                raise RuntimeError(f"the store did not start: {reason.read_text() if reason.exists() else status}")
            time.sleep(0.005)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """Stops the process cleanly; returns the exit code."""
        return self._end(signal.SIGTERM)

    def restart(self, settings: Settings | None = None) -> None:
        """Starts the process again, after `kill` or `stop`, with other settings if there are any."""
        self._settings = settings or self._settings
        self.start()

    @property
    def log(self) -> str:
        return (self.root / "logs/cluster.log").read_text()

    def close(self) -> None:
        if self.pid:
            self.kill()
        self._board.close()

    def _end(self, number: signal.Signals) -> int:
        os.kill(self.pid, number)
        patience = Patience(START_S)
        while True:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            if ended:
                break
            if patience.is_over():
                os.kill(self.pid, signal.SIGKILL)
                raise RuntimeError("the store did not end")
            time.sleep(0.002)
        self.pid = 0
        return os.waitstatus_to_exitcode(status)


def lone_settings(root: Path, node_type: str = "master", **own: Any) -> Settings:
    """Those of a store without a node, whose directories are made if they are missing; etc/shared/default exists.
    `own`: fields of settings.Clusterd."""
    for directory in ("etc/shared/default", "logs", "queue/db", "queue/sockets", "queue/cluster", "var/run"):
        (root / directory).mkdir(parents=True, exist_ok=True)
    Path(run_dir(str(root))).mkdir(exist_ok=True)
    return Settings(
        root=str(root),
        cluster=ClusterBlock(
            node_name="alone",
            node_type="worker" if node_type == "worker" else "master",
            key=Secret(b"c98b62a9b6169ac5f67dae55ae4a9088"),
        ),
        clusterd=msgspec.structs.replace(Clusterd(), **own),
        serves_store=True,
    )


@contextlib.contextmanager
def lone_store(root: Path, node_type: str = "master", **own: Any) -> Iterator[LoneStore]:
    """See lone_settings."""
    store = LoneStore(lone_settings(root, node_type, **own))
    try:
        store.start()
        yield store
        if store.pid:
            store.stop()
        left = [name for name in STORE_SOCKETS if (root / name).exists() and not is_served(f"{root}/{name}")]
        assert not left, f"sockets left behind: {left}"
    finally:
        store.close()
