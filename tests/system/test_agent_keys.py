"""A master whose client.keys is emptied while it runs: whole nodes, their stores, file events and command line."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MakeRig
from tools.rig.nodes import Rig, RigNode
from tools.rig.peer import wait_until
from tools.rig.wdb_client import WdbClient, authd

pytestmark = pytest.mark.slow

AGENTS = 20


def keys(node: RigNode) -> Path:
    return node.root / "etc/client.keys"


def names(node: RigNode) -> set[str]:
    lines = keys(node).read_text().splitlines() if keys(node).exists() else []
    return {line.split(" ")[1] for line in lines}


def add(node: RigNode, name: str) -> Any:
    return authd(node.root, {"function": "add", "arguments": {"name": name, "ip": "any"}})


def agents(node: RigNode) -> int:
    with WdbClient(node.root) as client:
        return int(client.rows("select count(*) as n from agent where id > 0")[0]["n"])


def problems(rig: Rig) -> dict[str, str]:
    found: dict[str, str] = rig.status(rig.master.name)[rig.master.name].get("problems", {})
    return found


def allow_delete(rig: Rig) -> None:
    done = rig.command(rig.master, "sync", "--allow-delete", timeout_s=60)
    assert done.returncode == 0, done.stderr


def test_emptied_key_file_costs_no_worker_its_keys_and_no_registration_makes_it_lasting(make_rig: MakeRig) -> None:
    rig = make_rig(1)
    keys(rig.master).write_text("")
    rig.start()
    wait_until(lambda: "error" in add(rig.master, "agent0"), 60, "authd")
    for number in range(1, AGENTS):
        assert add(rig.master, f"agent{number}")["error"] == 0
    [worker] = rig.workers
    everybody = {f"agent{number}" for number in range(AGENTS)}
    wait_until(lambda: names(worker) == everybody, 60, "the keys on the worker")

    keys(rig.master).write_text("")
    wait_until(lambda: "agent keys" in problems(rig), 60, "status names the loss")
    assert names(worker) == everybody
    for through in (rig.master, worker):
        refused = add(through, "late")
        assert refused["error"] == 9009
        assert "20 of 20 agent keys" in refused["message"]
    assert keys(rig.master).read_text() == ""

    # The loss is remembered by a process that replaces another, and by the next life of the node.
    for name in ("sync", "store"):
        pid = rig.processes(rig.master.name)[name]
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda name=name, pid=pid: rig.processes(rig.master.name).get(name) not in (None, pid), 60, name)
    wait_until(lambda: "agent keys" in problems(rig), 60, "the next sync process knows it")
    rig.stop(rig.master.name)
    rig.start(rig.master.name)
    wait_until(lambda: "agent keys" in problems(rig), 60, "the next life knows it")
    assert add(rig.master, "late")["error"] == 9009
    assert names(worker) == everybody
    assert agents(rig.master) == AGENTS

    # The worker still has the file: once it is copied back, the master goes on.
    keys(rig.master).write_bytes(keys(worker).read_bytes())
    wait_until(lambda: problems(rig) == {}, 60, "all is well")
    assert add(rig.master, "late")["error"] == 0
    wait_until(lambda: names(worker) == everybody | {"late"}, 60, "the new key on the worker")

    # Agents that were removed by request, without a trace, disappear at once, whatever their share.
    listed = {line.split(" ")[1]: line.split(" ")[0] for line in keys(rig.master).read_text().splitlines()}
    for name in sorted(everybody):
        answer = authd(rig.master.root, {"function": "remove", "arguments": {"id": listed[name], "purge": True}})
        assert answer["error"] == 0
    wait_until(lambda: names(worker) == {"late"}, 60, "the removed keys gone from the worker")
    assert problems(rig) == {}


def test_intended_loss_reaches_every_worker_once_it_is_allowed(make_rig: MakeRig) -> None:
    rig = make_rig(1)
    lines = [f"{number:03} agent{number} any {number:064x}\n" for number in range(1, AGENTS + 1)]
    keys(rig.master).write_text("".join(lines))
    rig.start()
    [worker] = rig.workers
    wait_until(lambda: len(names(worker)) == AGENTS and agents(rig.master) == AGENTS, 60, "all agents on both nodes")
    keys(rig.master).write_text(lines[0])
    wait_until(lambda: "agent keys" in problems(rig), 60, "status names the loss")
    assert len(names(worker)) == AGENTS
    told = json.loads(rig.command(rig.master, "status", "--json", timeout_s=60).stdout)
    assert "19 of 20" in json.dumps(told)
    assert add(rig.master, "new")["error"] == 9009
    allow_delete(rig)
    wait_until(lambda: names(worker) == {"agent1"}, 60, "the worker follows")
    wait_until(lambda: add(rig.master, "new")["error"] in (0, 9008), 60, "registration goes on")
    wait_until(lambda: names(worker) == {"agent1", "new"}, 60, "the new key")
    wait_until(lambda: agents(rig.master) == 2, 60, "the database follows")
    assert problems(rig) == {}
