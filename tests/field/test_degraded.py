"""Parts that fail alone: the node goes on, says so in `status`, and uses the part again once it is repaired."""

import json
from typing import Any

import pytest

from clusterd.rundir import WDB_SOCKET
from clusterd.store.schema import DATABASE
from clusterd.wdb.stream import is_served
from tests.conftest import MakeRig
from tools.rig import workload
from tools.rig.nodes import Rig, RigError, RigNode
from tools.rig.peer import wait_until

pytestmark = pytest.mark.slow


def problems(rig: Rig, node: RigNode) -> dict[str, str]:
    try:
        found: dict[str, Any] = rig.status(node.name)[node.name]
    except RigError:
        return {}
    return dict(found["problems"])


def text_of_status(rig: Rig, node: RigNode) -> str:
    return " ".join(rig.command(node, "status", timeout_s=60).stdout.split())


def test_a_damaged_agent_database_keeps_no_file_from_its_way(make_rig: MakeRig) -> None:
    rig = make_rig(1)
    for node in rig.nodes:
        path = node.root / DATABASE
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"no database " * 1000)
    rig.start()
    rig.wait_equal(60)
    workload.change(rig.master.root, seed=3, edit=3, add=3, delete=1)
    rig.wait_equal(60)
    for node in rig.nodes:
        assert "clusterd store renew" in problems(rig, node)["store"]
        assert "clusterd store renew" in text_of_status(rig, node)
        done = rig.command(node, "store", "renew", timeout_s=60)
        assert done.returncode == 0, done.stderr
        wait_until(lambda node=node: is_served(f"{node.root}/{WDB_SOCKET}"), 90, "the new database is served")
        wait_until(lambda node=node: "store" not in problems(rig, node), 60, "the problem is over")
        (kept,) = node.root.glob(f"{DATABASE}.damaged-*")
        assert kept.read_bytes() == b"no database " * 1000


def test_an_unwritable_log_is_reported_and_used_again_when_it_is_writable(make_rig: MakeRig) -> None:
    rig = make_rig(1)
    rig.start()
    rig.wait_equal(60)
    worker = rig.workers[0]
    log, away = worker.root / "logs/cluster.log", worker.root / "logs/cluster.log.1"
    log.rename(away)
    log.mkdir()  # whoever the node runs as, it cannot open that
    away.unlink()
    wait_until(lambda: "log" in problems(rig, worker), 120, "status tells that the log cannot be written")
    assert "cluster.log cannot be written by" in text_of_status(rig, worker)
    workload.change(rig.master.root, seed=4, edit=3, add=3, delete=1)
    rig.wait_equal(60)
    log.rmdir()
    wait_until(lambda: "log" not in problems(rig, worker), 120, "the problem is over")
    wait_until(lambda: "lines could not be written here." in log.read_text(), 60, "the log says that lines are missing")
    lines = json.loads(rig.command(worker, "status", "--json", timeout_s=60).stdout)["processes"]
    assert sum(process["log_lines_lost"] for process in lines) > 0
