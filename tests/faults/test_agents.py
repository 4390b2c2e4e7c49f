"""Agents report, change, move and are deleted, groups are assigned, while children of all nodes are killed at random:
afterwards the master has what they said last, and groups and checksums are equal on all nodes.

`-m stress`: 10,000 agents for CLUSTERD_STRESS_MINUTES (10); `make test` runs a short one, in which the agents that are
deleted are others than those that get groups: groups of an agent that is deleted meanwhile can make it once more on a
worker, which forgets it after ORPHAN_S (tests/store/test_follow_keys.py holds that).
"""

import contextlib
import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable

import pytest

from clusterd.store.follow_keys import ORPHAN_S
from tests.conftest import MakeRig
from tools.rig.agents import Fleet, make_group
from tools.rig.agents_talk import Patient
from tools.rig.databases import compare_agents
from tools.rig.nodes import Rig, RigError
from tools.rig.wdb_client import WdbClient, WdbRefused

MINUTES = float(os.environ.get("CLUSTERD_STRESS_MINUTES", "10"))
GROUPS = ("default", "shop", "store", "office")
EQUAL_S = ORPHAN_S + 60
OVERRIDES = {"intervals": {"master": {"agent_group_start_delay": 0.5}, "worker": {"agent_groups_mismatch_limit": 3}}}


def kill_children(rig: Rig, stop: threading.Event, seed: int, every_s: float) -> int:
    """Repeats until `stop`. Returns how often."""
    chance, count = random.Random(seed), 0
    while not stop.wait(chance.uniform(0.5, 1.5) * every_s):
        try:
            processes = rig.processes(chance.choice(rig.nodes).name)
        except RigError:
            continue
        pid = processes[chance.choice([name for name in processes if name != "supervisor"])]
        if pid is not None:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            count += 1
    return count


Assigned = dict[int, list[str]]
"""Each agent with the groups of the master's last answer."""


def assign_groups(rig: Rig, agents: list[int], stop: threading.Event, seed: int, assigned: Assigned) -> None:
    chance = random.Random(seed)
    with Patient(rig.master.root) as client:
        while not stop.wait(0.3):
            assigned |= assign_some(client, agents, chance)


def assign_some(client: Patient, agents: list[int], chance: random.Random) -> Assigned:
    """Assigns three groups at most to each of 20 agents. If one was deleted meanwhile, the others have theirs all the
    same."""
    chosen = chance.sample(agents, min(20, len(agents)))
    data = [{"id": one, "groups": chance.sample(GROUPS, chance.randint(1, 3))} for one in chosen]
    request = {"mode": "override", "sync_status": "syncreq", "data": data}
    with contextlib.suppress(WdbRefused):
        client.command(f"global set-agent-groups {json.dumps(request)}")
    return {item["id"]: item["groups"] for item in data}


def groups_on(rig: Rig) -> Assigned:
    with WdbClient(rig.master.root, 15) as client:
        return {item["id"]: item["groups"] for item in client.agent_groups(condition="all")[0]}


def live_through_kills(
    rig: Rig,
    *,
    agents: int,
    seconds: float,
    every_s: float,
    seed: int,
    deletions: float,
    may_go: Callable[[int], bool] | None = None,
    rate: float = 0,
) -> tuple[int, int, float]:
    """Returns how many requests and kills there were, and the seconds until all nodes were equal afterwards. `may_go`:
    agents that get no groups and may be deleted; without it any agent may get groups and be deleted. `rate`: requests a
    second, 0: as fast as possible."""
    (rig.master.root / "etc/client.keys").write_text("")
    rig.start()
    fleet = Fleet(rig)
    outcome = fleet.add(agents, through=rig.master, prefix="agent", groups="default", clients=16)
    assert outcome.failures == {}
    for name in GROUPS[1:]:
        make_group(rig, name)
    fleet.wait_known()
    stop = threading.Event()
    kills: list[int] = []
    assigned: Assigned = {agent_id: ["default"] for agent_id in fleet.agents}
    grouped = [agent_id for agent_id in sorted(fleet.agents) if may_go is None or not may_go(agent_id)]
    helpers = [
        threading.Thread(target=lambda: kills.append(kill_children(rig, stop, seed, every_s))),
        threading.Thread(target=assign_groups, args=(rig, grouped, stop, seed, assigned)),
    ]
    for helper in helpers:
        helper.start()
    try:
        said = fleet.report(
            seconds=seconds,
            rate=rate,
            changes=0.6,
            moves=0.05,
            deletions=deletions,
            may_go=may_go or (lambda agent_id: True),
            seed=seed,
        )
    finally:
        stop.set()
        for helper in helpers:
            helper.join()
    began = time.monotonic()
    while not (found := compare_agents(rig, fleet.truth())).is_equal:
        assert time.monotonic() - began < EQUAL_S, "\n".join(found.lines())
        time.sleep(0.5)
    assert found.agents == len(fleet.agents)
    assert groups_on(rig) == {agent_id: assigned[agent_id] for agent_id in fleet.agents}
    return said.done, kills[0], time.monotonic() - began


@pytest.mark.slow
def test_nothing_is_lost_while_children_are_killed(make_rig: MakeRig) -> None:
    rig = make_rig(2, overrides=OVERRIDES, links=True)
    said, kills, _ = live_through_kills(
        rig,
        agents=160,
        seconds=10,
        every_s=1.0,
        seed=1,
        deletions=0.05,
        may_go=lambda agent_id: agent_id % 4 == 0,
        rate=150,
    )
    assert said > 100
    assert kills >= 3


@pytest.mark.stress
@pytest.mark.timeout(MINUTES * 60 + 600)
def test_ten_thousand_agents_for_minutes(make_rig: MakeRig, capsys: pytest.CaptureFixture[str]) -> None:
    rig = make_rig(2, overrides=OVERRIDES, links=True, scale=0.3)
    said, kills, healed_s = live_through_kills(
        rig, agents=10_000, seconds=MINUTES * 60, every_s=3, seed=2, deletions=0.002
    )
    with capsys.disabled():
        print(f"\n{said} requests, {kills} kills, equal {healed_s:.1f} s after the last")
    assert kills > MINUTES * 10
