"""Nothing is imported after the fork: a node whose package or interpreter was moved away, or may not be read, works on."""

import contextlib
import secrets
import signal
import sys
from pathlib import Path

import pytest

from clusterd.api.table import ENDPOINTS
from tests.conftest import MakeRig
from tests.system.rest import OVERRIDES, Caller, turn_on
from tools.rig import workload
from tools.rig.faults import signal_process
from tools.rig.nodes import Rig, RigError, RigNode
from tools.rig.peer import wait_until
from tools.rig.wdb_client import WdbClient, authd

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
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


def work(rig: Rig) -> None:
    """A little of everything that a node does."""
    for node in rig.nodes:
        with Caller(node) as caller:
            for endpoint in ENDPOINTS:
                path = endpoint.path
                for name, value in PLACES.items():
                    path = path.replace(name, value)
                if endpoint.method == "GET" and "{" not in path:
                    caller.ask("GET", path)
            caller.upload("/rules/files/local.xml?overwrite=true", RULE)
            caller.ask("POST", "/groups", json={"group_id": "spied"})
            caller.ask("DELETE", "/groups?groups_list=spied")
        with Caller(node, user="nobody") as stranger:
            assert stranger.login().status_code == 401
        authd(node.root, {"function": "add", "arguments": {"name": f"{node.name}-{secrets.token_hex(3)}", "ip": "any"}})
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


def revive(rig: Rig, node: RigNode, process: str) -> None:
    pid = rig.processes(node.name)[process]
    assert pid is not None
    signal_process(pid, signal.SIGKILL)

    def is_back() -> bool:
        with contextlib.suppress(RigError):
            return rig.processes(node.name).get(process) not in (pid, None)
        return False

    wait_until(is_back, 120, f"{process} is back")


def test_no_process_imports_anything_after_the_fork(make_rig: MakeRig) -> None:
    rig = make_rig(1, program=SPY, overrides=OVERRIDES)
    turn_on(rig)
    rig.start()
    rig.wait_equal(60)
    work(rig)
    for node in rig.nodes:
        for process in rig.processes(node.name):
            if process != "supervisor":
                revive(rig, node, process)
    rig.wait_equal(60)
    work(rig)
    rig.stop(*(node.name for node in rig.nodes))
    noted = Path(rig.directory, "imports")
    lines = sorted(set(noted.read_text().splitlines())) if noted.exists() else []
    noted.unlink(missing_ok=True)
    assert lines == []
