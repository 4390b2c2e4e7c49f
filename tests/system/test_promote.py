"""A master is lost and an operator makes a candidate the master: the others find it, nothing that was answered is lost,
and the old master comes back as a worker."""

import json
import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from clusterd.left_behind import LEFT_BEHIND
from clusterd.pidfile import running_pid
from clusterd.role import ROLE_FILE, read_role
from tests.conftest import MakeRig
from tests.system.test_replica import candidate_and_plain, ha, ids, register
from tools.rig.compare import compare
from tools.rig.nodes import Rig, RigNode
from tools.rig.peer import wait_until
from tools.rig.ports import free_port

pytestmark = pytest.mark.slow
PATIENCE_S = 60.0


@pytest.fixture
def rig(make_rig: MakeRig) -> Rig:
    """A master, a candidate with a port of its own, and a plain worker that knows only the master's address."""
    made = candidate_and_plain(make_rig)
    conf = made.workers[0].root / "etc/ossec.conf"
    text = conf.read_text().replace(f"<port>{made.master.port}</port>", f"<port>{free_port()}</port>")
    conf.write_text(text.replace("<node>127.0.0.1</node>", f"<node>127.0.0.1:{made.master.port}</node>"))
    return made


def port_of(node: RigNode) -> int:
    from clusterd.config.loading import load

    settings = load(str(node.root)).settings
    assert settings is not None
    return settings.configured.port


def run(rig: Rig, node: RigNode, *arguments: str) -> Any:
    """Returns the result of `promote` or `demote` as JSON."""
    done = rig.command(node, *arguments, "--json", timeout_s=300)
    found = json.loads(done.stdout or "{}")
    assert found, done.stderr
    assert (done.returncode == 0) == found["ok"]
    return found


def status(rig: Rig, node: RigNode) -> dict[str, Any]:
    return rig.status(node.name)[node.name]


def is_ready(rig: Rig, node: RigNode) -> bool:
    own = (status(rig, node).get("results") or {}).get("self") or {}
    return own.get("result") == "equal" and ha(rig, node)["may_not_lead"] is None and ha(rig, node)["lag"] == 0


def kill_node(rig: Rig, node: RigNode) -> None:
    pid = running_pid(str(node.root))
    assert pid is not None
    children = [one for one in rig.processes(node.name).values() if one]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not any(Path(f"/proc/{one}").exists() for one in children), PATIENCE_S, "the end of a node")


def leads(rig: Rig, node: RigNode, workers: int) -> bool:
    found = status(rig, node)
    connected = [row for row in found.get("workers") or [] if row["state"] == "connected"]
    return found["node"]["type"] == "master" and len(connected) == workers


def is_worker_of(rig: Rig, node: RigNode, port: int) -> bool:
    peers = status(rig, node)["peers"] or []
    return [peer["name"] for peer in peers if peer["kind"] == "master"] == [f"127.0.0.1:{port}"]


def test_lost_master_is_replaced_and_comes_back_as_a_worker(rig: Rig) -> None:
    rig.start()
    master, candidate, plain = rig.master, *rig.workers
    wait_until(lambda: is_ready(rig, candidate), PATIENCE_S, "a candidate that may lead")
    first = register(master, "first")
    assert first in ids(candidate)
    rig.wait_equal(PATIENCE_S)
    # While it lives no other node leads, even if an operator says that it is down.
    found = run(rig, candidate, "promote", "--old-master-is-down")
    assert any("is connected" in reason for reason in found["reasons"]), found
    assert read_role(str(candidate.root)) is None
    wait_until(lambda: is_ready(rig, candidate), PATIENCE_S, "everything at the candidate")
    kill_node(rig, master)
    with socket.create_server(("127.0.0.1", master.port)):
        found = run(rig, candidate, "promote", "--old-master-is-down")
    assert any("may be frozen" in reason for reason in found["reasons"]), found
    assert any("--old-master-is-down is missing" in reason for reason in run(rig, candidate, "promote")["reasons"])

    supervisor = running_pid(str(candidate.root))
    found = run(rig, candidate, "promote", "--old-master-is-down")
    assert found["ok"], found
    port = port_of(candidate)
    assert (found["term"], running_pid(str(candidate.root))) == (1, supervisor), "the daemon stays"
    assert [step.partition(":")[0] for step in found["steps"]] == ["kept", "agents", "keys", "users"]
    assert status(rig, candidate)["node"]["role"] == "master (promoted, term 1; etc/ossec.conf says worker)"
    shown = rig.command(candidate, "control", "nodes", timeout_s=60).stdout
    assert "master (promoted, term 1" in shown
    assert "nothing to do" in run(rig, candidate, "promote", "--old-master-is-down")["reasons"][0]

    # The plain worker knows only the old address: the old node tells it the new one, below.
    lone = master.root / "etc/rules/lone.xml"
    lone.write_text("<group name='lone,'></group>\n")
    rig.start(master.name)
    wait_until(
        lambda: (status(rig, master)["node"].get("term") or {}).get("is_deposed"), PATIENCE_S, "a deposed master"
    )
    done = rig.command(master, "status", timeout_s=60)
    assert done.returncode == 11
    assert f"clusterd demote --master 127.0.0.1:{port}" in " ".join(done.stdout.split())
    wait_until(lambda: leads(rig, candidate, 1), PATIENCE_S, "the plain worker at the new master")
    assert is_worker_of(rig, plain, port)
    second = register(plain, "second")
    assert second > first
    assert not (plain.root / "etc/rules/lone.xml").exists()

    before = {path: (master.root / path).stat().st_mtime_ns for path in rules(candidate) & rules(master)}
    found = run(rig, master, "demote", "--master", f"127.0.0.1:{port}")
    assert found["ok"], found
    wait_until(lambda: is_worker_of(rig, master, port), PATIENCE_S, "the old master at the new one")
    wait_until(lambda: all(equals(candidate, node) for node in (master, plain)), PATIENCE_S, "equal nodes")
    kept = master.root / LEFT_BEHIND / "1"
    assert (kept / "files/etc/rules/lone.xml").read_text().startswith("<group name='lone")
    assert [path.name for path in (kept / "files").rglob("*.xml")] == ["lone.xml"], "what is equal is not kept"
    (row,) = status(rig, master)["left_behind"]
    assert (row["files"], row["agents"], row["some"]) == (1, 0, ["etc/rules/lone.xml"])
    assert len(before) > 10
    assert all((master.root / path).stat().st_mtime_ns == before[path] for path in before), "equal files stay"
    keys = (candidate.root / "etc/client.keys").read_text()
    assert [int(line.split()[0]) for line in keys.splitlines()] == [first, second]
    assert register(master, "third") > second


def equals(one: RigNode, other: RigNode) -> bool:
    """Compares contents. A former master keeps the modes of its files."""
    return not [line for line in compare(one.root, other.root).lines() if not line.startswith("wrong mode")]


def rules(node: RigNode) -> set[str]:
    return {f"etc/rules/{path.name}" for path in (node.root / "etc/rules").iterdir()}


def test_promotion_that_is_killed_is_finished_at_the_next_start(rig: Rig) -> None:
    master, candidate, _ = rig.nodes
    rig.start(master.name, candidate.name)
    wait_until(lambda: is_ready(rig, candidate), PATIENCE_S, "a candidate that may lead")
    first = register(master, "first")
    wait_until(lambda: is_ready(rig, candidate), PATIENCE_S, "everything at the candidate")
    kill_node(rig, master)
    supervisor = running_pid(str(candidate.root))
    assert supervisor is not None
    os.kill(supervisor, signal.SIGSTOP)
    found = run(rig, candidate, "promote", "--old-master-is-down", "--timeout", "1")
    assert not found["ok"]
    os.kill(supervisor, signal.SIGKILL)
    wait_until(lambda: running_pid(str(candidate.root)) is None, PATIENCE_S, "the end of the supervisor")
    given = read_role(str(candidate.root))
    assert given is not None
    assert (given.term, given.led, given.change is not None) == (1, 0, True)
    rig.start(candidate.name)
    wait_until(lambda: leads(rig, candidate, 0), PATIENCE_S, "the new master")
    assert register(candidate, "second") > first
    (candidate.root / ROLE_FILE).write_text("{")
    assert rig.command(candidate, "check-config", timeout_s=60).returncode != 0


def test_failed_promotion_changes_nothing(rig: Rig) -> None:
    master, candidate, _ = rig.nodes
    rig.start(master.name, candidate.name)
    wait_until(lambda: is_ready(rig, candidate), PATIENCE_S, "a candidate that may lead")
    kill_node(rig, master)
    (candidate.root / "etc/clusterd-api-users.json").mkdir()
    api = candidate.root / "queue/cluster/.clusterd/replica/api"
    api.mkdir(exist_ok=True)
    (api / "users.json").write_text("[]")
    found = run(rig, candidate, "promote", "--old-master-is-down")
    assert not found["ok"]
    assert "Nothing has changed" in found["reasons"][0]
    assert read_role(str(candidate.root)) is None
    wait_until(lambda: status(rig, candidate)["node"]["type"] == "worker", PATIENCE_S, "the worker as it was")
    assert status(rig, candidate)["node"]["role"] == "worker"
    (candidate.root / "etc/clusterd-api-users.json").rmdir()
    wait_until(lambda: _promoted(rig, candidate), PATIENCE_S, "the next try")


def _promoted(rig: Rig, node: RigNode) -> bool:
    """Its checks ended with the life of sync, and there is no master to check with; it knows what they said."""
    return bool(run(rig, node, "promote", "--old-master-is-down")["ok"])
