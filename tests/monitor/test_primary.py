"""`GET /primary`: 200 on the node that leads, and 503 with a reason on every other one."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from clusterd.leadership import NOT_LEADING
from clusterd.monitor.primary import primary_problem
from clusterd.role import ROLE_FILE, NodeRole, Role, RoleChange, update_role
from clusterd.rundir import board_path, run_dir
from clusterd.settings import ClusterBlock, Clusterd, HaSettings, Settings
from clusterd.vitals import Sample
from ipc.board import FOR_EVER_NS, Board

LED = NodeRole(7, "master", 7, "10.0.0.1:1516", "m")


def in_s(seconds: float) -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) + int(seconds * 1e9)


class Lone:
    def __init__(self, root: Path) -> None:
        self.root = str(root)
        os.makedirs(run_dir(self.root))
        self.board = Board.create(board_path(self.root))
        self.state = "S"
        for name in ("net", "sync", "store"):
            row = self.board.add_row(name)
            row.begin(os.getpid(), 1)
            row.set_ready()

    def ask(self, given: NodeRole | None = None, node_type: Role = "master", *, ha: bool = False) -> str:
        if given is not None:
            update_role(self.root, lambda before: given)
        own = Clusterd(ha=HaSettings(enabled=ha, replica=ha))
        settings = Settings(self.root, cluster=ClusterBlock(node_type=node_type), clusterd=own, serves_store=True)
        return primary_problem(settings, self.board, lambda pid: Sample(0.0, 0.0, self.state))


@pytest.fixture
def lone(tmp_path: Path) -> Iterator[Lone]:
    made = Lone(tmp_path)
    yield made
    made.board.close()


def test_a_master_leads_by_its_role_where_there_is_no_election(lone: Lone) -> None:
    assert lone.ask() == ""
    assert lone.ask(node_type="worker") == "this node is a worker"
    assert lone.ask(LED, "worker") == ""
    assert lone.ask(NodeRole(8, "worker", 7, "10.0.0.2:1516", "n")) == (
        "this node is a worker, its master is n at 10.0.0.2:1516"
    )


def test_in_an_election_only_the_lease_of_the_own_term_counts(lone: Lone) -> None:
    assert lone.ask(LED, ha=True) == NOT_LEADING
    for term, until_ns, leads in (
        (7, in_s(60), True),
        (6, in_s(60), False),
        (7, in_s(-1), False),
        (7, FOR_EVER_NS, True),
    ):
        lone.board.set_lead(term, until_ns)
        assert (lone.ask(LED, ha=True) == "") == leads


def test_who_was_replaced_or_changes_its_role_does_not_lead(lone: Lone) -> None:
    assert "leads no more" in lone.ask(NodeRole(8, "master", 7, "10.0.0.2:1516", "n"))
    assert "changes" in lone.ask(NodeRole(8, "master", 8, "10.0.0.1:1516", "m", change=RoleChange("demote")))
    lone.board.depose(9)
    assert "leads no more" in lone.ask(NodeRole(9, "master", 9, "10.0.0.1:1516", "m")), "also while the disk is full"
    Path(lone.root, ROLE_FILE).write_text("{")
    assert "cannot be understood" in lone.ask()


@pytest.mark.parametrize("state", ["T", "Z"])
def test_a_master_that_cannot_serve_is_not_asked_to(lone: Lone, state: str) -> None:
    lone.state = state
    assert lone.ask().startswith("net: it ")


@pytest.mark.parametrize("name", ["net", "sync"])
def test_a_master_whose_processes_are_away_is_not_asked_to(lone: Lone, name: str) -> None:
    lone.board.row(name).set_down()
    assert lone.ask().startswith(f"{name}: it has ended")
    lone.board.row(name).begin(os.getpid(), 2)
    assert lone.ask() == f"{name}: it is starting"
