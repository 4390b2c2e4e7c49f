"""`clusterd doctor` where a worker and its master do not come together: each fault is planted on running nodes, named
with its cure, and gone when the cure was followed. Other faults are in test_doctor_planted.py."""

import contextlib
import json
import os
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from clusterd.pidfile import running_pid
from tests.tools.planted import Planted, edited
from tools.doctor import cluster
from tools.probe import probe
from tools.rig.cluster_json import merged

pytestmark = pytest.mark.slow

OTHER_KEY = "f" * 32


def tag(name: str, value: str) -> Callable[[str], str]:
    """Replaces the value of an element of ossec.conf."""
    return lambda text: re.sub(f"<{name}>[^<]*</{name}>", f"<{name}>{value}</{name}>", text, count=1)


@pytest.mark.parametrize(
    ("change", "name", "cure", "on_master"),
    [
        (tag("key", OTHER_KEY), "wrong key", "give both nodes the same <key>", "wrong key"),
        (tag("name", "other"), "wrong cluster", "give both nodes the same <name> in <cluster>", "wrong cluster"),
        (
            tag("node_name", "rig_manager_1"),
            "duplicate name",
            "than the master's, then: clusterd restart",
            "duplicate name",
        ),
        (tag("node_name", "rig_manager_3"), "duplicate name", "give one of the two nodes another", "duplicate name"),
        (tag("node", "nowhere.invalid"), "address does not resolve", "correct the name in /etc/hosts or DNS", None),
    ],
    ids=["key", "cluster", "name-of-the-master", "name-of-a-worker", "address"],
)
def test_worker_with_a_wrong_setting(
    nodes: Planted, change: Callable[[str], str], name: str, cure: str, on_master: str | None
) -> None:
    worker = nodes.worker
    nodes.rig.stop(worker.name)
    with edited(worker.root / "etc/ossec.conf", change):
        nodes.rig.start(worker.name)
        found = nodes.wait_found(worker, name)[name]
        assert found.is_fault
        assert cure in found.cure
        assert "clusterd restart" in found.cure
        there = nodes.wait_found(nodes.master, "worker lost", *([on_master] if on_master else ()))
        assert all(one.is_fault for one in there.values())
    assert set(nodes.doctor(worker)) == {"files are not in use"}  # until it is restarted
    nodes.restart(worker)
    if name == "duplicate name":
        forget = re.search(r"here: clusterd (forget \w+)$", there[name].cure)
        assert forget is not None
        done = nodes.rig.command(nodes.master, *forget[1].split(), timeout_s=120)
        # What was refused under the name and address of a worker is forgotten by itself after 30 s.
        assert done.returncode == 0 or "is connected: stop it first" in done.stderr


def test_worker_of_another_version(nodes: Planted) -> None:
    own = nodes.worker.root / "etc/cluster.json"
    nodes.rig.stop(nodes.worker.name)
    with edited(own, lambda text: json.dumps(merged(json.loads(text), {"clusterd": {"version": "4.13.0"}}))):
        nodes.rig.start(nodes.worker.name)
        found = nodes.wait_found(nodes.worker, "wrong version")["wrong version"]
        assert (found.is_fault, "our version is 4.13.0" in found.what) == (True, True)
        assert "the same release and the same clusterd.version" in found.cure
        there = nodes.wait_found(nodes.master, "wrong version")["wrong version"]
        assert "version 4.13.0, ours is 4.14.1" in there.what
    nodes.restart(nodes.worker)


def test_key_that_is_too_short(nodes: Planted) -> None:
    with edited(nodes.worker.root / "etc/ossec.conf", tag("key", "short")):
        found = nodes.wait_found(nodes.worker, "short key")["short key"]
        assert (found.is_fault, "openssl rand -hex 16" in found.cure) == (True, True)


def test_master_that_was_killed_and_programs_that_take_its_port(
    nodes: Planted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closed, taken by an HTTP server, and silent as behind a packet filter, one after the other."""
    master, worker = nodes.master, nodes.worker
    pid = running_pid(str(master.root))
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    found = nodes.wait_found(master, "stale pid file", "not running")
    assert (found["stale pid file"].is_fault, found["not running"].is_fault) == (False, True)
    assert found["stale pid file"].cure == "nothing: the next start removes it"
    assert "dmesg" in found["not running"].cure
    closed = nodes.wait_found(worker, "closed port")["closed port"]
    assert (closed.is_fault, "on the master: clusterd start" in closed.cure) == (True, True)
    monkeypatch.setattr(cluster, "probe", partial(probe, timeout_s=1.0))
    with http_server(master.port):
        taken = nodes.wait_found(master, "port taken")["port taken"]
        assert (taken.is_fault, f"pid {os.getpid()})" in taken.what) == (True, True)
        assert "stop that program, or change <port> on every node" in taken.cure
        other = nodes.wait_found(worker, "not a cluster port")["not a cluster port"]
        assert (other.is_fault, "it speaks HTTP" in other.what) == (True, True)
        assert "correct <port> or <node> in ossec.conf" in other.cure
    with packet_filter(master.port):
        filtered = nodes.wait_found(worker, "firewall")["firewall"]
        assert (filtered.is_fault, "let this node through to that port" in filtered.cure) == (True, True)
    monkeypatch.undo()
    assert found["not running"].cure.endswith(f"clusterd --root {master.root} start")
    nodes.rig.start(master.name)
    for node in (worker, nodes.other):
        nodes.restart(node)  # by themselves they dial within 20 s


class Quiet(BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


@contextlib.contextmanager
def http_server(port: int) -> Iterator[None]:
    with ThreadingHTTPServer(("127.0.0.1", port), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join(60)


@contextlib.contextmanager
def packet_filter(port: int) -> Iterator[None]:
    """SYN is not answered: connections that nobody accepts fill the line of those that wait."""
    with socket.create_server(("127.0.0.1", port), backlog=0) as server, contextlib.ExitStack() as waiting:
        for _ in range(3):
            sock = waiting.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(server.getsockname())
        yield
