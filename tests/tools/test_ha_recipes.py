"""contrib/ha with real programs: HAProxy follows GET /primary, and the virtual address is where the lead is."""

import http.server
import re
import shutil
import socket
import subprocess
import textwrap
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from tools.rig.guard import guarded
from tools.rig.peer import wait_until
from tools.rig.ports import free_port

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "contrib/ha"
PATIENCE_S = 60.0


class Node:
    """HAProxy's view of a node: a cluster port that answers with the node's name, and GET /primary."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.leads = False
        node = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                assert self.path == "/primary"
                self.send_response(200 if node.leads else 503)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._port = socket.create_server(("127.0.0.1", 0))
        self._taken: list[socket.socket] = []

    @property
    def monitor(self) -> int:
        return self._http.server_address[1]

    @property
    def port(self) -> int:
        return int(self._port.getsockname()[1])

    @contextmanager
    def running(self) -> Iterator["Node"]:
        threads = [threading.Thread(target=self._http.serve_forever), threading.Thread(target=self._take)]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._http.shutdown()
            self._http.server_close()
            self._port.shutdown(socket.SHUT_RDWR)
            self._port.close()
            for thread in threads:
                thread.join()
            for one in self._taken:
                one.close()

    def _take(self) -> None:
        while True:
            try:
                taken, _ = self._port.accept()
            except OSError:
                return
            self._taken.append(taken)
            with suppress(OSError):  # HAProxy has closed it already
                taken.sendall(self.name.encode())


def answer(port: int) -> str:
    """Returns which node answers there; empty: none."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as sock:
            return sock.recv(100).decode()
    except OSError:
        return ""


@pytest.mark.skipif(shutil.which("haproxy") is None, reason="no haproxy")
def test_haproxy_leads_to_whoever_leads_and_ends_the_connections_of_one_that_does_no_more() -> None:
    with guarded("haproxy-") as directory, ExitStack() as stack:
        nodes = [stack.enter_context(Node(name).running()) for name in ("node-1", "node-2", "node-3")]
        front = free_port()
        text = (RECIPES / "haproxy.cfg").read_text()
        # The cluster port alone, on loopback; here each node has a monitoring port of its own.
        text = text.partition("# Registration of agents")[0].replace("bind :1516", f"bind 127.0.0.1:{front}")
        for number, node in enumerate(nodes, 1):
            assert text.count(f"10.0.0.{number}:1516") == 1
            text = text.replace(f"10.0.0.{number}:1516", f"127.0.0.1:{node.port} port {node.monitor}")
        (directory / "haproxy.cfg").write_text(text)
        proxy = subprocess.Popen(["haproxy", "-q", "-db", "-f", str(directory / "haproxy.cfg")])
        try:
            nodes[0].leads = True
            # A new HAProxy takes every node for healthy until it has asked.
            settled = lambda: {answer(front) for _ in range(6)} == {"node-1"}  # noqa: E731
            wait_until(lambda: proxy.poll() is not None or settled(), PATIENCE_S, "the first leader")
            assert proxy.poll() is None
            with socket.create_connection(("127.0.0.1", front), timeout=PATIENCE_S) as old:
                assert old.recv(100) == b"node-1"
                nodes[0].leads = False
                assert old.recv(100) == b"", "its connections end"
            wait_until(lambda: answer(front) == "", PATIENCE_S, "nobody leads")
            nodes[2].leads = True
            wait_until(lambda: answer(front) == "node-3", PATIENCE_S, "the next leader")
        finally:
            proxy.kill()
            proxy.wait()


def in_namespace(script: str) -> str:
    """Runs a script in a network namespace of its own and returns its output. Skips where the system does not allow
    one."""
    try:
        made = subprocess.run(["unshare", "-rn", "true"], capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("no unshare")
    if made.returncode or shutil.which("ip") is None:
        pytest.skip("no network namespaces here")
    found = subprocess.run(
        ["unshare", "-rn", "sh", "-euc", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S * 5,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


def test_virtual_address_comes_and_goes_with_promote_and_demote() -> None:
    said = in_namespace(f"""
        address() {{ ip -o address show dev lo; }}
        run="{RECIPES}/virtual-address"
        $run down 10.9.9.9/24 lo
        $run up 10.9.9.9/24 lo; $run up 10.9.9.9/24 lo
        address | grep -c "10.9.9.9/24"
        $run down 10.9.9.9/24 lo; $run down 10.9.9.9/24 lo
        address | grep -c "10.9.9.9/24" || true
        $run sideways 10.9.9.9/24 lo 2>/dev/null || echo "exit $?"
    """)
    assert said.splitlines() == [
        "10.9.9.9/24 is on this machine",
        "1",
        "10.9.9.9/24 is not on this machine any more",
        "0",
        "exit 64",
    ]


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
def test_virtual_address_follows_the_monitoring_port(tmp_path: Path) -> None:
    """Stands for GET /primary: serves files of a directory, 404 for a missing one."""
    said = in_namespace(f"""
        ip link set lo up
        cd {tmp_path}
        python3 -m http.server --bind 127.0.0.1 15516 >/dev/null 2>&1 & server=$!
        {RECIPES}/virtual-address watch 10.9.9.9/24 lo > said & watcher=$!
        until_lines() {{  # and so many addresses
            for _ in $(seq 600); do
                [ "$(wc -l < said)" = "$1" ] &&
                    [ "$(ip -o address show dev lo | grep -c 10.9.9.9/24)" = "$2" ] && return
                sleep 0.1
            done
            echo "never $1 $2"
        }}
        touch primary; until_lines 1 1
        rm primary; until_lines 2 0
        touch primary; until_lines 3 1
        kill $server; until_lines 4 0
        python3 -m http.server --bind 127.0.0.1 15516 >/dev/null 2>&1 & server=$!
        until_lines 5 1
        kill $watcher; wait $watcher; until_lines 6 0
        kill $server
        cat said
    """)
    there, gone = "10.9.9.9/24 is on this machine", "10.9.9.9/24 is not on this machine any more"
    assert said.splitlines() == [there, gone] * 3


def test_recipes_name_the_ports_and_paths_that_there_are() -> None:
    from clusterd.settings import ApiSettings, ClusterBlock, MonitorSettings

    text = (RECIPES / "haproxy.cfg").read_text()
    assert f"check port {MonitorSettings().port} " in text
    assert {int(port) for port in re.findall(r"bind :(\d+)", text)} == {ClusterBlock().port, 1515, ApiSettings().port}
    assert f"127.0.0.1:{MonitorSettings().port}/primary" in (RECIPES / "virtual-address").read_text()
