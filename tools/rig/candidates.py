"""A rig in which several nodes may be master: etcd, a switchboard between the nodes, and what is done to whole nodes.

rig_manager_1 leads first, as its ossec.conf says; the first nodes are candidates, the others plain workers. Every node
has the addresses of all candidates as its <nodes>.
"""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import msgspec
import psutil

from clusterd.pidfile import running_pid
from tools.rig.cluster_json import amend
from tools.rig.etcd import CLIENT_PORT, EtcdCluster
from tools.rig.faults import wait_stopped
from tools.rig.guard import MARK
from tools.rig.nodes import PROJECT, Rig, RigError, RigNode
from tools.rig.patience import Patience
from tools.rig.ports import HOST, free_port
from tools.rig.switchboard import Way, Wiring

LEASE_S = 15
NODES = re.compile(r"<nodes>.*?</nodes>", re.S)
PORT = re.compile(r"<port>\d+</port>")


def add_candidates(rig: Rig, candidates: int, members: int, *, lease_s: int = LEASE_S, **ha: Any) -> None:
    """Makes the first nodes of a new rig candidates, with an etcd of so many members, which is started. `ha`: more of
    `clusterd.ha`. Raises RigError; `down` removes what there is."""
    if not 0 < candidates <= len(rig.nodes):
        raise RigError(f"{len(rig.nodes)} nodes cannot have {candidates} candidates")
    etcd = EtcdCluster.create(rig.directory, members)
    with contextlib.ExitStack() as stack:

        def listen() -> socket.socket:
            return stack.enter_context(socket.create_server((HOST, 0), backlog=1024))

        ways: list[Way] = []

        def way(kind: str, node: str, host: str, port: int) -> int:
            """The port of a new way."""
            listener = listen()
            ways.append(Way(listener.fileno(), kind, node, host, port))
            return int(listener.getsockname()[1])

        endpoints: dict[str, list[str]] = {}
        for number, node in enumerate(rig.nodes[:candidates]):
            port = free_port()
            rig.nodes[number] = replace(node, port=port, advertised=way("peers", node.name, HOST, port))
            endpoints[node.name] = [
                f"http://{HOST}:{way('etcd', node.name, etcd.host(name), CLIENT_PORT)}" for name in etcd.names
            ]
        _start_switchboard(rig, ways)
    rig._save()
    addresses = "".join(f"<node>{HOST}:{node.advertised}</node>" for node in rig.candidates)
    for node in rig.nodes:
        conf = node.root / "etc/ossec.conf"
        text = NODES.sub(f"<nodes>{addresses}</nodes>", conf.read_text())
        conf.write_text(PORT.sub(f"<port>{node.port}</port>", text) if node.advertised else text)
    for node in rig.candidates:
        own = {
            "enabled": True,
            "advertise": f"{HOST}:{node.advertised}",
            "lease": lease_s,
            "etcd": {"endpoints": endpoints[node.name]},
        }
        amend(node.root, {"clusterd": {"ha": own | ha}})
    etcd.start()
    etcd.wait_leader()


def _start_switchboard(rig: Rig, ways: list[Way]) -> None:
    plan = Wiring(str(rig.switchboard), ways, {node.name: str(node.root) for node in rig.nodes})
    process = subprocess.Popen(
        [sys.executable, "-m", "tools.rig.switchboard", msgspec.json.encode(plan).decode()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=[way.fd for way in ways],
        cwd=PROJECT,
        env=os.environ | {MARK: str(rig.directory)},
        start_new_session=True,
    )
    rig.helpers.append(process.pid)
    patience = Patience(20)
    while not rig.switchboard.exists():
        if process.poll() is not None or patience.is_over():
            raise RigError("the switchboard did not start")
        time.sleep(0.02)
    process.returncode = 0  # it lives on without us, see Rig._link


# ---- whole nodes -----------------------------------------------------------------------------------------------------


def processes_of(node: RigNode) -> list[psutil.Process]:
    """The supervisor and all its children; empty when the node does not run."""
    pid = running_pid(str(node.root))
    if pid is None:
        return []
    try:
        supervisor = psutil.Process(pid)
        return [supervisor, *supervisor.children(recursive=True)]
    except psutil.NoSuchProcess:  # its children are ending
        return []


def freeze(node: RigNode) -> int:
    """Stops all processes of a node as a machine that is suspended would; returns how many. Children that are forked
    meanwhile are stopped, too."""
    stopped: set[int] = set()
    while True:
        found = [one for one in processes_of(node) if one.pid not in stopped]
        if not found:
            for pid in stopped:
                wait_stopped(pid)
            return len(stopped)
        for one in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.send_signal(signal.SIGSTOP)
            stopped.add(one.pid)


def thaw(node: RigNode) -> int:
    """Lets all processes of a node go on, the supervisor last; returns how many."""
    found = processes_of(node)
    for one in reversed(found):
        with contextlib.suppress(psutil.NoSuchProcess):
            one.send_signal(signal.SIGCONT)
    return len(found)


def kill(node: RigNode) -> None:
    """kill -9 of the supervisor; returns when its children have ended, too."""
    found = processes_of(node)
    if not found:
        raise RigError(f"{node.name} does not run")
    found[0].kill()
    psutil.wait_procs(found, timeout=60)
    patience = Patience(60)
    while running_pid(str(node.root)) is not None:
        if patience.is_over():
            raise RigError(f"children of {node.name} outlive it")
        time.sleep(0.01)


def leaders(rig: Rig) -> Iterator[RigNode]:
    """The candidates that run and say of themselves that they lead."""
    for name, facts in rig.status(*(node.name for node in rig.candidates)).items():
        if facts.get("running") and (facts.get("node") or {}).get("type") == "master":
            yield rig.node(name)
