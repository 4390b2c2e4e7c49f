"""Three candidates and a real etcd: the leader is killed or frozen, another one leads with everything that was
answered, and the old one comes back as a worker."""

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from clusterd.left_behind import LEFT_BEHIND
from clusterd.pidfile import running_pid
from tests.conftest import rigs
from tests.system.dapi_client import ask, result
from tests.system.test_agents import QUICK
from tests.warm import read_ha
from tools.rig import candidates
from tools.rig.nodes import Rig, RigNode
from tools.rig.peer import wait_until
from tools.rig.wdb_client import WdbError, authd

pytestmark = pytest.mark.slow
PATIENCE_S = 60.0
PAUSE_S = 0.02
"""Between two requests of a client: as long as a request takes, so that one is under way half of the time."""
LEASE_S = 10
RULE = '<group name="g,"><rule id="100001" level="3"><description>d</description></rule></group>'


@pytest.fixture(scope="module")
def running() -> Iterator[Rig]:
    with rigs() as make:
        made = make(2, overrides=QUICK)
        (made.master.root / "etc/client.keys").write_text("")
        candidates.add_candidates(made, 3, 3, lease_s=LEASE_S)
        made.start()
        wait_until(lambda: is_settled(made), PATIENCE_S, "a leader, and two candidates that may follow it")
        assert leader(made) == made.master
        yield made


@pytest.fixture
def rig(running: Rig) -> Rig:
    """All nodes run; any of them leads."""
    wait_until(lambda: is_settled(running), PATIENCE_S, "a leader, and two candidates that may follow it")
    return running


def election(rig: Rig, node: RigNode) -> dict[str, Any]:
    """Returns what `clusterd ha status` shows; empty while it shows nothing."""
    found = read_ha(node.root) or {}
    return found.get("election") or {}


def leader(rig: Rig, *but: RigNode) -> RigNode | None:
    """Returns which node leads, by its own word."""
    return next((one for one in rig.nodes if one not in but and election(rig, one).get("role") == "leader"), None)


def is_settled(rig: Rig) -> bool:
    """Waits until all nodes take part, and another one holds whatever the leader answers."""
    now = leader(rig)
    rows = election(rig, now)["candidates"] if now is not None else []
    ready = [row for row in rows if row["role"] != "leader" and row["state"] == "following" and not row["may_not_lead"]]
    confirming = [row for row in rows if row["is_confirming"]]
    return len(rows) == 3 and len(ready) >= 1 and len(confirming) == 1


def may_follow(rig: Rig, node: RigNode) -> bool:
    """Returns whether the leader could hand over to this node. It need not be the confirming one, because the leader
    waits for it."""
    now = leader(rig)
    rows = election(rig, now)["candidates"] if now is not None else []
    (row,) = [row for row in rows if row["name"] == node.name] or [{"state": "", "may_not_lead": ""}]
    why = row["may_not_lead"] or ""
    return row["state"] == "following" and (not why or why.endswith(("has what was answered last", "was answered")))


def register(node: RigNode, name: str) -> int:
    """Returns the id, or 0 when the answer was not good."""
    try:
        answer = authd(node.root, {"function": "add", "arguments": {"name": name, "ip": "any"}}, 30.0)
    except (WdbError, OSError):
        return 0
    return int(answer["data"]["id"]) if answer["error"] == 0 else 0


def registered(node: RigNode, name: str) -> int:
    """Tries until a node accepts; a name that was registered without an answer is replaced by another one."""
    tries = 0
    found = 0

    def attempt() -> bool:
        nonlocal tries, found
        tries += 1
        found = register(node, f"{name}-{tries}")
        return found > 0

    wait_until(attempt, PATIENCE_S, f"the registration of {name}")
    return found


def ids(node: RigNode) -> set[int]:
    keys = (node.root / "etc/client.keys").read_text().splitlines()
    return {int(line.split()[0]) for line in keys if not line.split()[1].startswith(("!", "#"))}


def test_killed_leader_is_followed_by_one_that_has_everything_and_comes_back_as_a_worker(rig: Rig) -> None:
    old = leader(rig)
    assert old is not None
    one, another = (node for node in rig.nodes if node != old)
    first = registered(another, "first")
    supervisors = {node.name: running_pid(str(node.root)) for node in rig.nodes}
    for word in (("promote", "--old-master-is-down"), ("demote", "--master", "127.0.0.1")):
        done = rig.command(one, *word, "--yes", timeout_s=60)
        assert done.returncode == 1
        assert "an election decides who leads here" in " ".join(done.stderr.split())
    # Only the election is killed: the lease stays on the board, and the next process takes it up.
    before, pid = election(rig, old), rig.processes(old.name)["election"]
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: rig.processes(old.name)["election"] not in (pid, None), PATIENCE_S, "another life of it")
    assert registered(one, "meanwhile") > first
    wait_until(lambda: election(rig, old).get("role") == "leader", PATIENCE_S, "it goes on")
    assert election(rig, old)["term"] == before["term"], "it was never let go"

    candidates.kill(old)
    wait_until(lambda: leader(rig, old) is not None, PATIENCE_S, "another leader")
    new = leader(rig, old)
    assert new is not None
    other = next(node for node in rig.nodes if node not in (old, new))
    second = registered(other, "second")
    assert second > first
    assert running_pid(str(new.root)) == supervisors[new.name], "the daemon stays"
    assert {first, second} <= ids(new)

    rig.start(old.name)
    wait_until(lambda: election(rig, old).get("leader") == new.name, PATIENCE_S, "the old leader sees the new one")
    wait_until(lambda: rig.status(old.name)[old.name]["node"]["type"] == "worker", PATIENCE_S, "it is a worker")
    assert registered(old, "third") > second
    term = election(rig, new)["term"]
    assert (old.root / LEFT_BEHIND / str(term) / "kept").exists(), "what it had is kept"
    wait_until(lambda: is_settled(rig) and may_follow(rig, old), PATIENCE_S, "all follow the new one")

    # The lead goes back in order: nothing is lost, and clients get errors only during the change.
    began = time.monotonic()
    done = rig.command(other, "ha", "switchover", "--to", old.name, "--json", timeout_s=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["leader"] == old.name
    print(f"switchover: {time.monotonic() - began:.1f} s")
    last = registered(other, "last")
    assert {first, second, last} <= ids(old)
    wait_until(lambda: leader(rig) == old, PATIENCE_S, "it leads")


@pytest.mark.parametrize("frozen_s", [0.0, pytest.param(60.0, marks=pytest.mark.stress)], ids=["lease", "minute"])
def test_frozen_leader_serves_nothing_when_it_wakes_and_becomes_a_worker(rig: Rig, frozen_s: float) -> None:
    """`frozen_s`: so long, but at least until another node leads."""
    old = leader(rig)
    assert old is not None
    first = registered(old, "first")
    until = time.monotonic() + frozen_s
    candidates.freeze(old)
    wait_until(lambda: leader(rig, old) is not None, PATIENCE_S, "another leader")
    new = leader(rig, old)
    assert new is not None
    wait_until(lambda: time.monotonic() > until, PATIENCE_S + frozen_s, "the end of the freeze")
    candidates.thaw(old)
    # From now on it answers as the new leader does, or not at all.
    answered = {register(old, f"awake-{number}") for number in range(5)} - {0}
    assert answered <= ids(new)
    wait_until(lambda: rig.status(old.name)[old.name]["node"]["type"] == "worker", PATIENCE_S, "it is a worker")
    later = registered(old, "later")
    assert later > first
    assert {first, later} <= ids(new)
    assert leader(rig) == new


@pytest.mark.parametrize("how", ["switchover", "stop"])
def test_the_next_leader_has_all_that_was_answered_until_the_lead_changes_hands(rig: Rig, how: str) -> None:
    """Whoever heard that a file or an agent is there finds it on the next leader, and not in what the old one has left
    behind."""
    old = leader(rig)
    assert old is not None
    uploaded: dict[str, str] = {}
    answered: set[int] = set()
    is_over = threading.Event()

    def upload() -> None:
        number = 0
        while not is_over.wait(PAUSE_S):
            number += 1
            name, content = f"{how}-{number}.xml", RULE.replace("100001", str(100001 + number))
            with contextlib.suppress(Exception):  # the lead changes hands
                answer = ask(
                    old,
                    "wazuh.rule",
                    "upload_rule_file",
                    {"filename": name, "content": content},
                    request_type="local_master",
                )
                if "__wazuh_result__" in answer and result(answer)["affected_items"]:
                    uploaded[name] = content

    def add(client: int) -> None:
        number = 0
        while not is_over.wait(PAUSE_S):
            number += 1
            answered.add(register(old, f"{how}-{client}-{number}"))

    clients = [threading.Thread(target=upload), *(threading.Thread(target=add, args=(number,)) for number in range(3))]
    for client in clients:
        client.start()
    try:
        wait_until(lambda: len(uploaded) > 3 and len(answered) > 10, PATIENCE_S, "uploads and registrations")
        began = time.monotonic()
        if how == "stop":
            assert rig.stop(old.name) == []
            assert "Another node is to lead first, within 14 s." in (old.root / "logs/cluster.log").read_text()
        else:
            done = rig.command(old, "ha", "switchover", "--json", timeout_s=120)
            assert done.returncode == 0, done.stdout + done.stderr
        print(f"{how}: {time.monotonic() - began:.1f} s")
        is_over.set()
        wait_until(lambda: leader(rig, old) is not None, PATIENCE_S, "another leader")
        new = leader(rig, old)
        assert new is not None
    finally:
        is_over.set()
        for client in clients:
            client.join()
    there = {path.name: path.read_text() for path in (new.root / "etc/rules").glob("*.xml")}
    lost = answered - {0} - ids(new), {name for name in uploaded if there.get(name) != uploaded[name]}
    assert lost == (set(), set()), f"agents and files of {len(answered)} and {len(uploaded)}"
    if how == "stop":
        rig.start(old.name)
    wait_until(lambda: leader(rig) == new, PATIENCE_S, "it leads")


def test_nodes_that_all_lost_power_have_a_leader_again_without_the_old_one(rig: Rig) -> None:
    """Nobody gives an order: the confirming candidate proves by what is on its disk that it lacks nothing."""
    old, etcd = leader(rig), rig.etcd
    assert old is not None
    assert etcd is not None
    first = registered(old, "before-the-failure")
    others = [node for node in rig.nodes if node != old]
    for node in rig.nodes:
        candidates.kill(node)
    for name in etcd.names:
        etcd.kill(name)
    etcd.start()
    etcd.wait_leader()
    rig.start(*(node.name for node in others))
    wait_until(lambda: leader(rig, old) is not None, PATIENCE_S, "a leader of those that are back")
    new = leader(rig, old)
    assert new is not None
    assert registered(new, "after-the-failure") > first
    assert first in ids(new)
    rig.start(old.name)
    wait_until(lambda: rig.status(old.name)[old.name]["node"]["type"] == "worker", PATIENCE_S, "it is a worker")
