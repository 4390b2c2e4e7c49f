"""Operators' test suites read the logs of a cluster: the lines of every kind of sync have the order of a stock node,
whatever the peer is, and none of clusterd's own lines is among them."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from tests.conftest import KEY, MakeRig
from tests.system.log_grammar import Line, kinds, read, violations
from tools.rig import workload
from tools.rig.nodes import Rig, RigNode
from tools.rig.peer import StockMaster, StockWorker, wait_until
from tools.rig.ports import HOST
from tools.rig.wdb_client import WdbClient

pytestmark = pytest.mark.slow

SOON: dict[str, Any] = {
    "intervals": {
        "master": {"agent_group_start_delay": 0.5},
        "worker": {"agent_groups_mismatch_limit": 2, "keep_alive": 3},
    }
}
CAPS: dict[str, Any] = {
    "rig_manager_2": True,
    "rig_manager_3": {"ahead": False},
    "rig_manager_4": {"push": False},
    "rig_manager_5": False,
}
"""Each kind of check and sync on which two nodes can agree: sent ahead, told of changes, digests at intervals, the
stock way."""


def make(make_rig: MakeRig, workers: int) -> Rig:
    rig = make_rig(workers, overrides=SOON, scale=0.1)
    (rig.master.root / "etc/client.keys").write_text("".join(f"{n:03} agent{n} any {n:064x}\n" for n in range(1, 5)))
    for node in rig.nodes:
        (node.root / "etc/local_internal_options.conf").write_text("wazuh_clusterd.debug=2\n")
        if CAPS.get(node.name, True) is not True:
            path = node.root / "etc/cluster.json"
            content = json.loads(path.read_text())
            content.setdefault("clusterd", {})["caps"] = CAPS[node.name]
            path.write_text(json.dumps(content))
    return rig


def check(node: RigNode, *, is_master: bool, stopped: Sequence[str] = ()) -> list[Line]:
    """`stopped`: workers that have been stopped. One that stops while something is on its way to it resets the
    connection, because the kernel does."""
    lines = read(node.root)
    assert not list(violations(lines, is_master=is_master))
    resets = {f"Error during connection with '{name}': [Errno 104] Connection reset by peer." for name in stopped}
    assert not [line for line in lines if line.level == "ERROR" and line.text not in resets]
    return lines


def report(node: RigNode, number: int) -> None:
    content = {
        "id": number,
        "version": "Wazuh v4.14.1",
        "node_name": node.name,
        "agent_ip": "10.0.0.7",
        "connection_status": "active",
        "sync_status": "syncreq",
        "group_config_status": "synced",
    }
    with WdbClient(node.root) as client:
        client.command(f"global update-agent-data {json.dumps(content)}")


def change_files(rig: Rig) -> None:
    """Changes files one by one and in bursts, on the master and by hand on the workers, until all are equal again."""
    for seed in range(3):
        workload.change(rig.master.root, seed=seed, edit=2, add=2, delete=1)
        rig.wait_equal(60)
    for number in range(40):
        (rig.master.root / "etc/rules/burst.xml").write_text(f"<group name='{number}'></group>\n")
        workload.change(rig.master.root, seed=100 + number, edit=1, add=1, delete=0)
    rig.wait_equal(60)
    for node in rig.workers:
        workload.tamper(node.root, seed=7)
    rig.wait_equal(60)


def agents(node: RigNode) -> set[int]:
    with WdbClient(node.root) as client:
        return {row["id"] for row in client.rows("select id from agent where id > 0")}


def groups_hash(node: RigNode) -> str | None:
    with WdbClient(node.root) as client:
        return client.group_hash()


def change_agents(rig: Rig) -> None:
    """Reports come from the workers; groups go to them, and all groups to a worker whose groups differ."""
    wait_until(lambda: all(agents(node) == {1, 2, 3, 4} for node in rig.nodes), 60, "the agents are known everywhere")
    for node in rig.workers:
        for number in range(1, 5):
            report(node, number)

    def all_equal() -> bool:
        found = {groups_hash(node) for node in rig.nodes}
        return len(found) == 1 and None not in found

    def set_groups(node: RigNode, groups: list[str], status: str) -> None:
        with WdbClient(node.root) as client:
            client.set_groups("override", [{"id": 1, "name": "agent1", "groups": groups}], status)

    set_groups(rig.master, ["default"], "syncreq")
    wait_until(all_equal, 60, "the groups are everywhere")
    for node in rig.workers:
        with WdbClient(node.root) as client:
            client.command("global sql update agent set `group` = null, group_hash = null where id > 0")

    def asked() -> bool:
        return all("Agent-groups recv full" in {line.subtag for line in read(node.root)} for node in rig.workers)

    wait_until(asked, 60, "each worker has asked for all groups")


def wait_for_groups(rig: Rig, *workers: str) -> None:
    """A worker that is stopped in the middle of a task lacks its last line, or says that it cannot answer."""
    wait_until(lambda: all(has_sent_its_groups(rig.master, name) for name in workers), 60, "no groups are under way")


def has_sent_its_groups(master: RigNode, worker: str) -> bool:
    last = {line.subtag: line.text for line in read(master.root) if line.tag == f"Worker {worker}"}
    return all(text.startswith("Finished") for subtag, text in last.items() if subtag.startswith("Agent-groups send"))


def test_nodes_of_every_kind_write_the_lines_of_stock_in_their_order(make_rig: MakeRig) -> None:
    rig = make(make_rig, len(CAPS))
    rig.start()
    rig.wait_equal(60)
    change_files(rig)
    change_agents(rig)
    wait_for_groups(rig, "rig_manager_2")
    rig.stop("rig_manager_2")
    workload.change(rig.master.root, seed=50, edit=2, add=2, delete=2)
    rig.start("rig_manager_2")
    rig.wait_equal(60)
    workers = [node.name for node in rig.workers]
    wait_for_groups(rig, *workers)
    rig.stop(*workers)
    rig.stop("master")
    lines = check(rig.master, is_master=True, stopped=workers)
    assert kinds(lines, "Integrity check") >= set("SRFG")
    assert kinds(lines, "Integrity sync") >= set("SMCZzF")
    assert kinds(lines, "Agent-info sync") >= set("SUF")
    assert kinds(lines, "Agent-groups send") >= set("SZF")
    assert kinds(lines, "Agent-groups send full") >= set("SROZF")
    for node in rig.workers:
        lines = check(node, is_master=False)
        assert kinds(lines, "Integrity check") >= set("PSCZzF"), node.name
        assert kinds(lines, "Integrity sync") >= set("SMAUVF"), node.name
        assert kinds(lines, "Agent-info sync") >= set("PSOZF"), node.name
        assert kinds(lines, "Agent-groups recv") >= set("SUOMF"), node.name
        assert kinds(lines, "Agent-groups recv full") >= set("SURF"), node.name


def test_master_of_a_stock_worker_writes_the_lines_of_stock(make_rig: MakeRig) -> None:
    rig = make(make_rig, 1)
    rig.start("master")
    node = rig.workers[0]
    with StockWorker((HOST, rig.master.port), KEY, node.name, node.root, cluster="rig") as worker:
        worker.join()
        worker.sync(60)
        for seed in range(3):
            workload.change(rig.master.root, seed=seed, edit=2, add=2, delete=1)
            wait_until(lambda: worker.sync(60) >= 0 and rig.compare()[node.name].is_equal, 60, "equal")
        assert worker.keepalive() == b"keepalive"
        (peer,) = rig.status("master")["rig_manager_1"]["peers"]
        assert (peer["name"], peer["program"]) == (node.name, "stock")
    rig.stop("master")
    lines = check(rig.master, is_master=True)
    assert kinds(lines, "Integrity check") >= set("SRFG")
    assert kinds(lines, "Integrity sync") >= set("SMCZzF")


def test_worker_of_a_stock_master_writes_the_lines_of_stock(make_rig: MakeRig) -> None:
    rig = make(make_rig, 1)
    root = rig.master.root
    where: dict[str, Any] = {"name": "rig_manager_1", "cluster": "rig", "port": rig.master.port, "scan_interval_s": 0.3}
    with StockMaster(root, KEY, **where) as master:
        rig.start("rig_manager_2")
        session = master.session("rig_manager_2")
        rig.wait_equal(60)
        for seed in range(3):
            workload.change(root, seed=seed, edit=2, add=2, delete=1)
            workload.tamper(rig.workers[0].root, seed=seed)
            rig.wait_equal(60)
        count = len(session.checks)
        wait_until(lambda: len(session.checks) > count + 2, 60, "checks without differences")
        rig.stop("rig_manager_2")
    lines = check(rig.workers[0], is_master=False)
    assert kinds(lines, "Integrity check") >= set("PSCZzF")
    assert kinds(lines, "Integrity sync") >= set("SMAUVF")
