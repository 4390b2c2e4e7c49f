"""A rig with candidates: whole nodes, members of etcd and links fail and are repaired, as an operator would do it."""

import io
import os
import socket
import subprocess
import time
from collections.abc import Callable

import psutil
import pytest
from rich.console import Console

from clusterd.config.loading import load
from clusterd.pidfile import running_pid
from tests.conftest import MakeRig
from tests.tools.test_rig_nodes import run
from tools.rig import candidates, switchboard
from tools.rig.demo_failover import FailoverDemo
from tools.rig.guard import MARK, guarded
from tools.rig.nodes import PROJECT, Rig, RigError, RigNode
from tools.rig.patience import Patience
from tools.rig.peer import wait_until
from tools.rig.ports import HOST
from tools.rig.screen import PlainView

pytestmark = pytest.mark.slow

PATIENCE_S = 60.0


@pytest.fixture
def rig(make_rig: MakeRig) -> Rig:
    """Two candidates, a plain worker and one member of etcd, which alone runs."""
    made = make_rig(2)
    candidates.add_candidates(made, 2, 1, lease_s=20, failsafe=True)
    return made


def test_candidates_are_configured_to_find_each_other_and_etcd(rig: Rig) -> None:
    first, second, plain = (load(str(node.root)).settings for node in rig.nodes)
    assert first
    assert second
    assert plain
    addresses = tuple(f"{HOST}:{node.advertised}" for node in rig.candidates)
    assert first.configured.nodes == second.configured.nodes == plain.configured.nodes == addresses
    ha = first.clusterd.ha
    assert (ha.enabled, ha.advertise, ha.lease_s, ha.failsafe) == (True, addresses[0], 20, True)
    assert ha.etcd.endpoints != second.clusterd.ha.etcd.endpoints
    assert not plain.clusterd.ha.enabled
    assert (first.configured.node_type, second.configured.node_type) == ("master", "worker")
    assert Rig.load(rig.directory).candidates == rig.candidates


def answers(url: str) -> bool:
    """Returns whether a candidate there can reach etcd."""
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as sock:
        sock.settimeout(1)
        try:
            sock.sendall(b"GET /version HTTP/1.0\r\n\r\n")
            return sock.recv(100).startswith(b"HTTP/1.0 200")
        except OSError:
            return False


def test_cut_from_etcd_is_one_nodes_and_is_mended(rig: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    ours, theirs = (load(str(node.root)).settings for node in rig.candidates)
    assert ours
    assert theirs
    (first,), (second,) = ours.clusterd.ha.etcd.endpoints, theirs.clusterd.ha.etcd.endpoints
    wait_until(lambda: answers(first), PATIENCE_S, "etcd answers within a second")
    wait_until(lambda: answers(second), PATIENCE_S, "etcd answers within a second")
    for how in ("", "--silent"):
        assert run(capsys, rig, "cut", "1", "--from", "etcd", *filter(None, [how]))[0] == 0
        assert not answers(first)
        wait_until(lambda: answers(second), PATIENCE_S, "etcd answers within a second")
        assert run(capsys, rig, "cut", "1", "--mend")[0] == 0
        wait_until(lambda: answers(first), PATIENCE_S, "etcd answers within a second")
    assert run(capsys, rig, "kill", "etcd-1")[0] == 0
    assert not answers(second)
    assert run(capsys, rig, "start", "etcd-1")[0] == 0
    wait_until(lambda: answers(second), PATIENCE_S, "a member that was started again")


def test_whole_nodes_freeze_die_and_are_cut_off_and_come_back(rig: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    master, worker, plain = rig.nodes
    rig.start()

    def is_linked(node: RigNode) -> bool:
        (facts,) = rig.status(node.name).values()
        return any(peer["kind"] == "master" for peer in facts.get("peers") or [])

    def becomes(node: RigNode, wanted: bool) -> None:
        wait_until(lambda: is_linked(node) == wanted, PATIENCE_S, f"{node.name} linked: {wanted}")

    becomes(worker, True)
    becomes(plain, True)
    for node in (worker, plain):  # one dials a candidate, both are known by their processes
        assert run(capsys, rig, "cut", node.name, "--from", "peers")[0] == 0
        becomes(node, False)
        assert is_linked(plain if node is worker else worker)
        assert run(capsys, rig, "cut", node.name, "--from", "peers", "--mend")[0] == 0
        becomes(node, True)
    assert run(capsys, rig, "freeze", "2")[0] == 0
    stopped = candidates.processes_of(worker)
    assert len(stopped) > 3
    _until_over(lambda: {one.status() for one in stopped} != {"stopped"})  # a signal arrives in its time
    assert run(capsys, rig, "thaw", "2")[0] == 0
    assert "stopped" not in {one.status() for one in stopped}
    assert run(capsys, rig, "kill", "2")[0] == 0
    _until_over(lambda: bool(candidates.processes_of(worker)))
    code, said = run(capsys, rig, "start")
    assert code == 0, said
    assert said == f"etcd-1 runs\n{worker.name} runs\n"
    becomes(worker, True)
    assert [node.name for node in candidates.leaders(rig)] == [master.name]
    candidates.kill(plain)
    with pytest.raises(RigError, match="does not run"):
        candidates.kill(plain)


def _until_over(is_so: Callable[[], bool]) -> None:
    patience = Patience(PATIENCE_S)
    while is_so():
        assert not patience.is_over()
        time.sleep(0.05)


@pytest.mark.parametrize("is_known", [True, False])
def test_node_that_was_started_by_hand_ends_with_its_rig(make_rig: MakeRig, is_known: bool) -> None:
    made = make_rig(0)
    environment = {name: value for name, value in os.environ.items() if name != MARK}
    line = [*made.program, "--root", str(made.master.root), "start", "--wait-master", "0"]
    subprocess.run(line, env=environment, cwd=PROJECT, check=True, stdout=subprocess.DEVNULL, timeout=600)
    assert len(made.running()) > 3
    supervisor = psutil.Process(running_pid(str(made.master.root)))
    # Without its record the nodes are not known: what runs is killed.
    problems = made.down() if is_known else Rig(made.directory).down()
    assert (problems == []) == is_known
    assert not supervisor.is_running() or supervisor.status() == psutil.STATUS_ZOMBIE


def test_demonstration_of_a_failover_comes_to_its_end(make_rig: MakeRig) -> None:
    made = make_rig(3)
    candidates.add_candidates(made, 3, 3, lease_s=6)
    out = io.StringIO()
    demo = FailoverDemo(made, PlainView(Console(file=out, width=300)), 6)
    demo.play()
    assert [what for what, _ in demo.results if "registered" in what] == [
        "agent `before` registered, its id given and on two disks",
        "agent `after` registered, its id given and on two disks",
    ]
    assert demo.results[-1][0] == "both agents' keys on all four nodes", out.getvalue()


def test_nothing_of_etcd_and_of_the_cables_is_left() -> None:
    with guarded("rig-") as base:
        made = Rig.create(base / "0", 1)
        candidates.add_candidates(made, 2, 1)
        assert len(made.running()) == 2
        with pytest.raises(OSError, match="unknown command"):
            switchboard.tell(made.switchboard, "cut", "nobody", "all")
        assert made.down() == []
        assert not made.running()
        assert not (base / "0").exists()
