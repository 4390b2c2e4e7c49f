"""Nothing is imported after the fork: a node works on when its package or interpreter was moved away, or may not be
read."""

import json
import secrets
import signal
import sys
from pathlib import Path

import httpx
import pytest

from clusterd.api.table import ENDPOINTS
from tests.conftest import MakeRig
from tests.system.rest import OVERRIDES, Caller, turn_on
from tools.rig import workload
from tools.rig.faults import signal_process
from tools.rig.nodes import Rig, RigNode, run_program
from tools.rig.peer import wait_until
from tools.rig.ports import free_port
from tools.rig.wdb_client import WdbClient, authd

pytestmark = pytest.mark.slow
SPY = (sys.executable, "-m", "tests.field.spy_program")
RULE = b'<group name="x,"><rule id="100001" level="3"><description>One</description></rule></group>'
PLACES = {
    "{agent_id}": "000",
    "{group_id}": "default",
    "{node_id}": "rig_manager_1",
    "{filename}": "local.xml",
    "{requirement}": "pci_dss",
    "{file_name}": "agent.conf",
}


def open_ports(rig: Rig) -> None:
    """Each node has a monitoring port of its own."""
    for node in rig.nodes:
        path = node.root / "etc/cluster.json"
        settings = json.loads(path.read_text())
        settings["clusterd"]["monitor"] = {"enabled": True, "port": free_port()}
        path.write_text(json.dumps(settings))


def watch(rig: Rig, node: RigNode) -> None:
    """Reads everything that the monitoring port shows."""
    wait_until(lambda: rig.status(node.name)[node.name]["monitor_url"] is not None, 120, "its URL is known")
    with httpx.Client(base_url=rig.status(node.name)[node.name]["monitor_url"], timeout=60) as client:
        for path in (
            "/livez",
            "/readyz?verbose",
            "/metrics",
            "/status.json",
            "/lag.json",
            "/history.json?since=2h",
            "/",
        ):
            assert client.get(path).status_code in (200, 503)
        for path in ("/none", "/history.json?since=x"):
            assert client.get(path).status_code in (404, 400)
        with client.stream("GET", "/events", headers={"Last-Event-ID": "1"}) as stream:
            next(stream.iter_lines())


def work(rig: Rig) -> None:
    """Does a little of everything that a node does."""
    for node in rig.nodes:
        watch(rig, node)
        with Caller(node) as caller:
            for endpoint in ENDPOINTS:
                path = endpoint.path
                for name, value in PLACES.items():
                    path = path.replace(name, value)
                if endpoint.method == "GET" and "{" not in path:
                    caller.ask("GET", path)
            for answer in (
                caller.upload("/rules/files/local.xml?overwrite=true", RULE),
                caller.ask("POST", "/groups", json={"group_id": "spied"}),
                caller.ask("DELETE", "/groups?groups_list=spied"),
            ):
                assert (answer.status_code, answer.json()["error"]) == (200, 0), (node.name, answer.text, rig.told())
        with Caller(node, user="nobody") as stranger:
            assert stranger.login().status_code == 401
        name = f"{node.name}-{secrets.token_hex(3)}"
        added = authd(node.root, {"function": "add", "arguments": {"name": name, "ip": "any"}})
        assert added["error"] == 0, (added, rig.told())
        with WdbClient(node.root) as database:
            database.ask("global sql select count(*) from agent")
            database.ask("global nonsense")
    workload.change(rig.master.root, seed=5, edit=4, add=4, delete=4)
    rig.wait_equal(60)
    workload.change(rig.workers[0].root, seed=6, edit=2, add=2, delete=2)
    rig.wait_equal(60)
    for arguments in (("status",), ("diff",), ("sync", "--wait"), ("control", "health"), ("reload",)):
        for node in rig.nodes:
            rig.command(node, *arguments, timeout_s=60)


def revive(rig: Rig, node: RigNode) -> None:
    """Replaces every process except the supervisor."""
    killed = {name: pid for name, pid in rig.processes(node.name).items() if name != "supervisor"}
    for pid in killed.values():
        assert pid is not None
        signal_process(pid, signal.SIGKILL)

    def all_back() -> bool:
        processes = rig.status(node.name)[node.name].get("processes", [])
        ready = {one["name"]: one["pid"] for one in processes if one["state"] == "ready"}
        return all(ready.get(name) not in (pid, None) for name, pid in killed.items())

    wait_until(all_back, 120, f"the processes of {node.name} are back")


def test_no_process_imports_anything_after_the_fork(make_rig: MakeRig) -> None:
    """In their first lives the nodes start and join; all other work is left to their second lives."""
    rig = make_rig(1, overrides=OVERRIDES)
    turn_on(rig)
    open_ports(rig)
    command = rig.program, rig.run
    rig.program, rig.run = SPY, run_program
    rig.start()
    rig.program, rig.run = command
    rig.wait_equal(60)
    for node in rig.nodes:
        revive(rig, node)
    wait_until(rig.are_connected, 120, "the nodes are connected again")
    rig.wait_equal(60)
    work(rig)
    rig.stop(*(node.name for node in rig.nodes))
    noted = Path(rig.directory, "imports")
    lines = sorted(set(noted.read_text().splitlines())) if noted.exists() else []
    noted.unlink(missing_ok=True)
    assert lines == []
