"""The supervisor follows role.json whenever it is written."""

import errno
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from clusterd import role as role_module
from clusterd.logs import Log
from clusterd.role import NodeRole, RoleChange, read_role, update_role
from clusterd.settings import ClusterBlock, Settings
from clusterd.signals import ROLE_WRITTEN
from clusterd.supervisor import role_follow
from clusterd.supervisor.plan import NodeResources
from clusterd.supervisor.role_follow import RoleFollower
from ipc.board import Board
from tests.supervisor.conftest import FakeNode
from tests.supervisor.helpers import until


class Ending:
    """Children that do something while they end."""

    def __init__(self) -> None:
        self.must_stop = False
        self.ended = self.renewed = 0
        self.meanwhile: Callable[[], None] = lambda: None

    def end_role(self) -> None:
        self.ended += 1
        self.meanwhile()

    def renew(self) -> None:
        self.renewed += 1

    def descriptors(self, child: str) -> tuple[int, ...]:
        return ()


@pytest.fixture
def follower(tmp_path: Path) -> Any:
    """A master of term 3, its children, and the supervisor's part that follows its role."""
    for directory in ("var/run/clusterd", "queue/cluster/.clusterd/spool", "logs"):
        (tmp_path / directory).mkdir(parents=True)
    settings = Settings(str(tmp_path), cluster=ClusterBlock(node_name="one")).with_role(NodeRole(3, "master", 3))
    board = Board.create(str(tmp_path / "var/run/clusterd/board"))
    row = board.add_row("supervisor")
    log = Log(str(tmp_path / "logs/cluster.log"), 0, "text")
    node = NodeResources(settings, None, board, log)  # type: ignore[arg-type]
    children = Ending()
    yield (
        node,
        children,
        RoleFollower(
            node,
            children,  # type: ignore[arg-type]
            row,
            log,
            os.devnull,
            reason=lambda: "",
            wait=lambda seconds: None,
            changing=lambda text: None,
        ),
    )
    board.close()
    log.close()


def write(node: NodeResources, **role: Any) -> None:
    update_role(node.settings.root, lambda before: NodeRole(**role))


def test_what_is_written_while_children_end_is_followed_at_once(follower: Any) -> None:
    """The supervisor waits for their end and misses the signal that would tell of the change: net has heard of a higher
    term, and the election makes the node a worker."""
    node, children, found = follower
    write(node, term=5, role="master", led=3)

    def demote() -> None:
        children.meanwhile = lambda: None
        write(node, term=5, role="worker", led=3, master="127.0.0.1:1")

    children.meanwhile = demote
    assert found.look()
    assert (node.settings.is_master, node.settings.is_deposed) == (False, False)
    assert node.settings.role.role == "worker"
    assert (children.ended, children.renewed) == (2, 2)
    assert not found.look(), "nothing is new"


def test_first_term_that_a_worker_hears_of_ends_no_process(follower: Any) -> None:
    node, children, found = follower
    node.settings = Settings(node.settings.root, cluster=ClusterBlock(node_name="two", node_type="worker"))
    write(node, term=4, master="127.0.0.1:1", master_name="one")
    assert not found.look()
    assert children.ended == 0
    assert node.settings.cluster.nodes == ("127.0.0.1:1",)


def test_a_stop_meanwhile_ends_the_following(follower: Any) -> None:
    node, children, found = follower
    write(node, term=5, role="master", led=3)
    children.meanwhile = lambda: setattr(children, "must_stop", True)
    assert not found.look()
    assert children.renewed == 0
    assert msgspec.structs.asdict(node.settings)["role"].led == 3


def test_change_that_fails_on_a_full_disk_is_taken_back_when_there_is_room(
    follower: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then it stands in the file as under way, and the election does nothing with this node."""
    node, children, found = follower
    before = NodeRole(3, "master", 3)
    under_way = NodeRole(4, "master", 3, change=RoleChange("promote", msgspec.to_builtins(before)))
    update_role(node.settings.root, lambda _: under_way)
    written = read_role(node.settings.root)
    full = True

    def write(*_: object) -> None:
        if full:
            raise OSError(28, "No space left on device")
        real(*_)  # type: ignore[arg-type]

    class Failed:
        def collect(self) -> int:
            return 256

    monkeypatch.setattr(role_follow, "TAKE_BACK_S", 600.0)
    real = role_module._write
    monkeypatch.setattr(role_module, "_write", write)
    monkeypatch.setattr(role_follow, "fork", lambda *_: Failed())
    assert found.look()
    assert (node.settings.role, children.renewed) == (written, 1)
    assert not found.is_due(time.monotonic())
    later = time.monotonic() + role_follow.TAKE_BACK_S
    assert found.is_due(later)
    assert not found.look()
    assert found.is_due(later + role_follow.TAKE_BACK_S), "the disk is still full"
    full = False
    assert found.look()
    assert read_role(node.settings.root) == node.settings.role == before
    assert (node.settings.is_master, children.renewed) == (True, 2), "with processes that know nothing of term 4"
    assert not found.is_due(later + 60)
    log = Path(node.settings.root, "logs/cluster.log").read_text()
    assert log.count("not taken back yet") == 1
    assert not found.look()


def test_change_whose_process_cannot_be_started_is_taken_back(follower: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does what cannot be removed from the spool end the node."""
    node, children, found = follower
    before = NodeRole(3, "master", 3)
    update_role(
        node.settings.root,
        lambda _: NodeRole(4, "master", 3, change=RoleChange("promote", msgspec.to_builtins(before))),
    )

    def refuse(*_: object) -> None:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(role_follow, "fork", refuse)
    monkeypatch.setattr("clusterd.supervisor.sweep.empty_spool", refuse)
    assert found.look()
    assert read_role(node.settings.root) == node.settings.role == before
    assert (children.ended, children.renewed) == (1, 1)
    log = Path(node.settings.root, "logs/cluster.log").read_text()
    assert "its process cannot be started: Resource temporarily unavailable" in log
    assert "is not removed before the next start" in log


def test_processes_that_cannot_be_made_in_the_middle_of_a_change_are_made_later(
    follower: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None of the node's processes runs at that moment, and nothing but the supervisor would bring them back."""
    node, children, found = follower
    write(node, term=5, role="worker", led=3, master="127.0.0.1:1")
    renew, refusals = children.renew, [OSError(errno.EMFILE, "Too many open files")] * 2

    def renew_later() -> None:
        if refusals:
            raise refusals.pop()
        renew()

    monkeypatch.setattr(children, "renew", renew_later)
    assert found.look()
    assert (node.settings.is_master, children.renewed) == (False, 1)
    log = Path(node.settings.root, "logs/cluster.log").read_text()
    assert log.count("The processes of the role cannot be made yet") == 1


def test_role_that_is_written_while_the_node_starts_is_followed(follower: Any) -> None:
    """A command tells a node that runs. One that has read its role, and has no pid file yet, does not seem to."""
    node, _, found = follower
    assert found.is_due(0.0)
    write(node, term=5, role="worker", led=3, master="127.0.0.1:1")
    assert found.look()
    assert not found.is_due(0.0)


@pytest.mark.slow
def test_what_works_in_any_role_does_not_end_a_node_whose_role_changes(node: FakeNode) -> None:
    """A REST API whose certificate was replaced by one that it may not read must not cost the cluster its new master:
    while the node has this role, too, it is tried again, and the node serves without it."""
    node.behave("api", "works")
    node.serve(start_s=4.0)
    node.behave("api", "refuse the certificate cannot be read")
    update_role(str(node.root), lambda before: NodeRole(7, master="127.0.0.1:1"))
    node.signal(ROLE_WRITTEN)
    until(lambda: "The node serves: former master" in node.log, "it serves in its new role")
    until(lambda: re.search(r"api \(pid \d+\) ended .*: the certificate cannot be read", node.log), "it says why")
    node.behave("api", "late")
    until(lambda: node.row("api").state == "starting", "it hangs")
    update_role(str(node.root), lambda before: NodeRole(7, "worker", master="127.0.0.1:1"))
    node.signal(ROLE_WRITTEN)
    until(lambda: "The node serves: worker" in node.log, "it serves without waiting for that")
    node.behave("api", "works")
    until(lambda: node.row("api").state == "ready", "it works again")
    assert node.process is not None
    assert node.process.poll() is None


@pytest.mark.slow
def test_a_change_of_role_reads_no_configuration(node: FakeNode) -> None:
    """A node that takes over at night must not take over what somebody was just editing."""
    node.serve()
    (node.root / "etc").mkdir(exist_ok=True)
    (node.root / "etc/ossec.conf").write_text("<ossec_config><cluster><port>half of an ed")
    update_role(str(node.root), lambda before: NodeRole(7, master="127.0.0.1:1"))
    node.signal(ROLE_WRITTEN)
    until(lambda: "The node serves: former master" in node.log, "it serves in its new role")
    update_role(str(node.root), lambda before: NodeRole(8, master="127.0.0.1:2"))
    node.signal(ROLE_WRITTEN)
    until(lambda: "role net" in node.story, "net hears of a master whose role is the same")
    assert "hup" not in "".join(node.story)
    assert "configuration" not in node.log
