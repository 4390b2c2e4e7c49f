"""What the election reads from its node and writes to it."""

import asyncio
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from clusterd.election import node as module
from clusterd.election.facts import Kept, Lacking
from clusterd.election.node import FAILED, Node
from clusterd.messages.replica import Show
from clusterd.role import NodeRole, RoleChange, read_role, update_role
from clusterd.rundir import ELECTION_KEPT, run_dir
from clusterd.settings import ClusterBlock, Clusterd, HaSettings, Settings
from clusterd.signals import ROLE_WRITTEN
from clusterd.wire import commands
from ipc.board import Board


class World:
    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, **ha: Any) -> None:
        for directory in ("var/run/clusterd", "queue/cluster/.clusterd", "logs"):
            (root / directory).mkdir(parents=True)
        self.root = str(root)
        self.signals: list[tuple[int, int]] = []
        monkeypatch.setattr(module.os, "kill", lambda pid, number: self.signals.append((pid, number)))
        self.lines: list[str] = []
        own = Clusterd(ha=HaSettings(enabled=True, replica=True, advertise="10.0.0.1:1516", **ha))
        block = ClusterBlock(node_name="one", node_type="worker")
        self.board = Board.create(f"{run_dir(self.root)}/board")
        settings = Settings(self.root, cluster=block, clusterd=own, serves_store=True)
        self.node = Node(
            settings, self.board, lambda level, text: self.lines.append(f"{level} {text}"), lambda event: None
        )

    def role(self) -> NodeRole:
        found = read_role(self.root)
        assert found is not None
        return found


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = World(tmp_path, monkeypatch)
    yield made
    made.board.close()


def test_promotion_is_on_disk_before_the_supervisor_is_told_and_not_begun_twice(world: World) -> None:
    (Path(run_dir(world.root)) / FAILED).write_text("the last one failed")
    assert world.node.facts().failed == "the last one failed"
    assert world.node.begin_promotion(7, ("10.0.0.2:1516",), keeps_agents=False, without_agents=False) == ""
    found = world.role()
    assert (found.term, found.master, found.master_name, found.former) == (
        7,
        "10.0.0.1:1516",
        "one",
        ("10.0.0.2:1516",),
    )
    assert found.change == RoleChange("promote")
    assert found.by == "clusterd election"
    assert world.signals == [(os.getppid(), ROLE_WRITTEN)]
    assert (world.node.facts().is_changing, world.node.facts().failed) == (True, "")
    assert "under way" in world.node.begin_promotion(8, (), keeps_agents=True, without_agents=False)
    assert "under way" in world.node.begin_demotion(8, "10.0.0.2:1516", "two")
    assert "under way" in world.node.hear_of(8, "10.0.0.2:1516", "two")
    assert world.role() == found
    assert len(world.signals) == 1


def test_demotion_keeps_the_former_role_in_case_it_fails(world: World) -> None:
    before = NodeRole(3, "master", 3, "10.0.0.1:1516", "one")
    update_role(world.root, lambda _: before)
    facts = world.node.facts()
    assert (facts.is_master, facts.led, facts.term, facts.may_not_lead) == (True, 3, 3, "")
    assert world.node.begin_demotion(9, "10.0.0.2:1516", "two") == ""
    found = world.role()
    assert (found.term, found.led, found.master_name, found.former) == (9, 3, "two", ())
    assert found.change is not None
    assert msgspec.convert(found.change.before, NodeRole) == before


def test_leader_is_noted_with_its_address_and_one_of_a_lower_term_is_not(world: World) -> None:
    assert world.node.hear_of(4, "10.0.0.2:1516", "two") == ""
    assert world.node.hear_of(4, "10.0.0.9:1516", "two") == ""
    assert world.role().master == "10.0.0.9:1516"
    assert world.node.hear_of(3, "10.0.0.3:1516", "three") == ""
    assert (world.role().term, world.role().master_name) == (4, "two")
    assert len(world.signals) == 2, "nobody is told of what is not new"


def test_damaged_role_keeps_what_was_known_and_the_node_from_leading(world: World) -> None:
    world.node.hear_of(4, "10.0.0.2:1516", "two")
    (Path(world.root) / "queue/cluster/.clusterd/role.json").write_text("{")
    facts = world.node.facts()
    assert (facts.term, facts.may_not_lead) == (4, "its role.json is damaged")
    assert world.node.begin_demotion(5, "10.0.0.2:1516", "two")


@pytest.mark.parametrize(
    ("results", "reason"),
    [
        ([{}], "no check has ended"),
        ([{"result": "equal", "complete": True}], ""),
        ([{"result": "synced", "complete": True}, {"result": "failed", "detail": "", "complete": True}], ""),
        ([{"result": None, "complete": True}], ""),
        ([{"result": "equal", "complete": True}, {"result": None, "complete": False}], "no check has ended"),
        ([{"result": "failed", "detail": "the link ended"}], "no check has ended"),
        ([{"result": "equal"}, {"result": "partly", "detail": "2 deletions wait"}], "2 deletions wait"),
        ([{"result": "synced", "problems": {"etc/rules/a.xml": "no room"}}], "etc/rules/a.xml: no room"),
    ],
)
def test_files_that_were_complete_stay_so_while_a_later_check_is_interrupted(
    world: World, results: list[dict[str, Any]], reason: str
) -> None:
    for one in results:
        world.node._look_at_files(one)
    world.node._shown, world.node._shown_at = {"role": "candidate", "state": "following"}, float("inf")
    found = world.node.facts().may_not_lead
    assert reason in found if reason else found == ""


def test_a_store_that_does_not_answer_keeps_a_candidate_from_leading(world: World) -> None:
    world.node._look_at_files({"result": "equal", "complete": True})
    asyncio.run(world.node.refresh())
    facts = world.node.facts()
    assert not facts.is_known
    assert facts.may_not_lead == "its store does not answer"


def test_who_takes_the_lead_does_not_wait_for_what_sync_says_of_files(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sync has just lost its master, and may be busy; what it said two seconds ago holds."""
    asked: list[str] = []

    def status(root: str, command: str, *, timeout_s: float) -> dict[str, Any]:
        asked.append(command)
        return {"results": {"self": {"result": "equal"}}}

    monkeypatch.setattr(module, "ask_json", status)
    asyncio.run(world.node.refresh(files=False))
    assert asked == []
    asyncio.run(world.node.refresh())
    assert asked == [commands.STATUS]


@pytest.mark.parametrize(
    ("row", "lacking"),
    [
        ({"result": "equal", "lag_s": None, "lag_files": 0, "whole_of": 100.0}, Lacking()),
        ({"result": "equal", "lag_s": 0.2, "lag_files": None, "whole_of": 98.5}, Lacking(1, 1.5)),
        ({"result": "synced", "lag_s": 0.2, "lag_files": 0, "whole_of": None}, Lacking(1, None)),
        ({"result": "failed", "lag_s": 20.0, "lag_files": 12, "whole_of": 101.0}, Lacking(12, 0.0)),
        ({"result": "unknown", "lag_s": 20.0, "lag_files": None, "whole_of": None}, Lacking()),
        (None, Lacking(1, None)),
    ],
)
def test_files_that_a_worker_lacks_are_those_that_status_shows(
    world: World, monkeypatch: pytest.MonkeyPatch, row: dict[str, Any] | None, lacking: Lacking
) -> None:
    """A master that cannot look at its own files does not know; that is no reason to keep it from handing over."""
    asked: list[tuple[object, ...]] = []

    def answer(root: str, *question: object, timeout_s: float) -> dict[str, Any]:
        asked.append(question)
        return {"answered_at": 100.0, "result": row}

    monkeypatch.setattr(module, "ask_json", answer)
    assert asyncio.run(world.node.lacking("two")) == lacking
    assert asked == [(commands.LACKING, b"two")]


def test_master_that_does_not_say_what_a_worker_lacks_hands_over(world: World) -> None:
    assert asyncio.run(world.node.lacking("two")) == Lacking()


def test_store_is_told_whether_its_node_may_lead(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers must not wait for a candidate whose files are incomplete: if the leader were lost, no node could lead."""
    heard: list[str | None] = []

    async def answer(request: Show, timeout_s: float) -> bytes:
        heard.append(request.objection)
        return b'{"role": "candidate", "state": "following", "epoch": "e", "past": [["d", 7]], "position": 9}'

    monkeypatch.setattr(world.node._store, "ask", answer)
    for result in ("partly", "equal"):
        asyncio.run(world.node.refresh())
        found = {"result": result, "detail": "2 files are left out", "complete": result == "equal"}
        world.node._look_at_files(found)
    asyncio.run(world.node.refresh())
    assert heard[1:] == ["its files are incomplete: 2 files are left out", ""]
    assert (heard[0] or "").startswith("it is not known whether its files are complete")
    assert world.node.facts().past == (("d", 7),)
    (Path(world.root) / "queue/cluster/.clusterd/role.json").write_text("{")
    world.node.facts()
    asyncio.run(world.node.refresh())
    assert heard[-1] == "its role.json is damaged"


def test_lease_and_promise_outlive_the_process_in_a_file_that_only_its_owner_may_read(world: World) -> None:
    assert world.node.kept() is None
    world.node.keep(Kept("id", 7, 12.5, ("one", "two")))
    assert world.node.kept() == Kept("id", 7, 12.5, ("one", "two"))
    path = Path(run_dir(world.root)) / ELECTION_KEPT
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text("{")
    assert world.node.kept() is None


def test_operators_programs_run_one_after_the_other_and_their_results_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    code = f"import os; open({str(out)!r}, 'a').write(' '.join(os.environ[f'CLUSTERD_{{n}}'] for n in "
    code += "('EVENT', 'TERM', 'LEADER', 'NODE')) + chr(10)); print('moved')"
    run = (os.path.realpath(sys.executable), "-c", code)
    world = World(tmp_path / "root", monkeypatch, on_promote=run, on_demote=("/bin/false",))
    monkeypatch.setattr(module, "program_problem", lambda path, user: "")

    async def story() -> None:
        world.node.run_program("promote", 7, "one")
        world.node.run_program("demote", 7, "two")
        await world.node.end_programs(60)

    asyncio.run(story())
    assert out.read_text() == "on_promote 7 one one\n"
    assert any("moved" in line for line in world.lines)
    assert world.lines[-1] == "ERROR on_demote (false), term 7: ended with exit code 1."
    assert world.node.last_program is not None
    assert (world.node.last_program["name"], world.node.last_program["problem"]) == (
        "on_demote",
        "ended with exit code 1",
    )
    world.board.close()


def test_answer_of_the_store_from_before_a_change_of_role_does_not_count_after_it(world: World) -> None:
    """Otherwise the floor of a new term would be a position of the earlier one."""
    world.node._shown, world.node._shown_at = {"role": "master", "epoch": "e", "position": 90}, time.monotonic()
    assert world.node.facts().position == 90
    assert world.node.begin_promotion(7, (), keeps_agents=True, without_agents=False) == ""
    assert not world.node.facts().is_known
