"""The rig's agents report, move and are compared with their own record; a changed row is found."""

import json
import os
import signal
import threading
from pathlib import Path

import pytest

from tests.conftest import MakeRig
from tools.rig.agents import Fleet, assign, make_group
from tools.rig.agents_talk import Agent, Patient
from tools.rig.cli import FAILED, main
from tools.rig.databases import EMPTY, AgentsComparison, compare_agents
from tools.rig.nodes import Rig, RigError
from tools.rig.peer import wait_until

QUICK = {"intervals": {"master": {"agent_group_start_delay": 0.3}, "worker": {"agent_groups_mismatch_limit": 3}}}


@pytest.mark.slow
def test_agents_report_move_and_are_compared(make_rig: MakeRig, capsys: pytest.CaptureFixture[str]) -> None:
    rig = make_rig(2, overrides=QUICK)
    (rig.master.root / "etc/client.keys").write_text("")
    rig.start()
    where = ["--dir", str(rig.directory)]
    assert main(["agents", "report", *where]) == FAILED
    assert "no agents yet" in capsys.readouterr().err
    assert main(["agents", "add", "20", "--through", "3", "--clients", "5", *where]) == 0
    assert main(["agents", "add", "100", "--direct", *where]) == 0
    assert main(["agents", "report", "--for", "1", "--changes", "0.5", "--moves", "0.1", "--seed", "1", *where]) == 0
    assert main(["groups", "assign", "shop", "--all", *where]) == 0
    assert main(["agents", "move", "10", "--seed", "1", *where]) == 0
    assert main(["compare", "--wait", "60", *where]) == 0, capsys.readouterr().out
    assert "agents: 120, equal" in capsys.readouterr().out
    fleet = Fleet.load(rig)
    spoken = min(fleet.truth())
    with Patient(rig.master.root) as client:
        client.command(f"global sql update agent set version = 'broken' where id = {spoken}")
    with Patient(rig.workers[1].root) as client:
        client.command('global insert-agent {"id":900,"name":"planted","date_add":1}')
    assert main(["compare", "--json", *where]) == FAILED
    facts = json.loads(capsys.readouterr().out)
    assert facts["rig_manager_2"]["is_equal"]
    assert facts["agents"]["differences"]["rows"] == [
        f"agent {spoken}: version is 'broken', it said {fleet.truth()[spoken]['version']!r}"
    ]
    assert facts["agents"]["differences"]["agents"] == ["rig_manager_3 has agent 900, the master has not"]
    assert main(["compare", "--files-only", *where]) == 0
    assert main(["groups", "delete", "shop", *where]) == 0
    assert main(["groups", "delete", "shop", *where]) == FAILED


@pytest.mark.slow
def test_reports_go_on_when_a_store_is_killed(make_rig: MakeRig) -> None:
    rig = make_rig(2, overrides=QUICK)
    (rig.master.root / "etc/client.keys").write_text("")
    rig.start()
    fleet = Fleet(rig)
    fleet.add_direct(60, prefix="agent")
    make_group(rig, "shop")
    assign(rig, "shop", fleet.agents, mode="override")
    stop, killed = threading.Event(), 0
    talking = threading.Thread(
        target=fleet.report, kwargs={"seconds": 60, "rate": 100, "changes": 0.5, "moves": 0.05, "seed": 2, "stop": stop}
    )
    talking.start()
    try:
        for node in rig.nodes:
            pid = rig.processes(node.name)["store"]
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            killed += 1
            wait_until(lambda one=node, old=pid: rig.processes(one.name)["store"] not in (None, old), 60, "a new store")  # type: ignore[misc]
    finally:
        stop.set()
        talking.join()
    assert killed == 3
    wait_until(lambda: compare_agents(rig, fleet.truth()).is_equal, 60, "equal databases")


def test_fleet_needs_workers(tmp_path: Path) -> None:
    with pytest.raises(RigError, match="--workers"):
        Fleet(Rig(tmp_path, []))


def test_names_are_not_given_twice(make_rig: MakeRig) -> None:
    fleet = Fleet(make_rig(1))
    fleet.agents = {1: Agent("agent1", "rig_manager_2"), 2: Agent("agent4", "rig_manager_2")}
    assert fleet._new_names("agent", 3) == ["agent3", "agent5", "agent6"]


def test_damaged_record_is_reported(make_rig: MakeRig) -> None:
    rig = make_rig(1)
    (rig.directory / "agents.json").write_text('{"1": {"name": 5}}')
    with pytest.raises(RigError, match="damaged"):
        Fleet.load(rig)


def test_long_lists_of_differences_are_cut(tmp_path: Path) -> None:
    found = AgentsComparison(agents=100)
    for number in range(100):
        found.note("rows", f"agent {number}")
    lines = list(found.lines())
    assert len(lines) == 21
    assert lines[-1] == "rows: and 80 more"
    assert not found.is_equal
    assert EMPTY["status_code"] == 0
