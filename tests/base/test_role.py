"""The role that a node was given, and the terms that it has seen: the file, and its effects."""

import os
import stat
from pathlib import Path

import msgspec
import pytest

from clusterd.role import (
    MOST_TERM,
    ROLE_FILE,
    NodeRole,
    Role,
    RoleChange,
    RoleDamaged,
    RoleNow,
    after_deposing,
    heard,
    read_role,
    role_text,
    standing,
    update_role,
)
from clusterd.settings import ClusterBlock, Settings
from tests.base.test_configuration import GOOD
from tools.check import check

LED = NodeRole(3, "master", 3, "10.0.0.2:1516", "two")
WORKER, MASTER = RoleNow("worker"), RoleNow("master")


@pytest.mark.parametrize(
    ("given", "configured", "found"),
    [
        (None, "master", MASTER),
        (None, "worker", WORKER),
        (LED, "worker", MASTER),
        (LED, "master", MASTER),
        (msgspec.structs.replace(LED, term=4), "worker", RoleNow("worker", is_deposed=True)),
        (msgspec.structs.replace(LED, role="worker"), "master", WORKER),
        (NodeRole(3, master="10.0.0.2:1516"), "worker", WORKER),
        (NodeRole(3, master="10.0.0.2:1516"), "master", RoleNow("worker", is_deposed=True)),
        (NodeRole(3, change=RoleChange("promote")), "worker", WORKER),
    ],
)
def test_only_the_master_of_the_highest_term_leads(given: NodeRole | None, configured: Role, found: RoleNow) -> None:
    assert standing(given, configured) == found


def test_a_file_that_was_written_is_read_and_only_its_owner_may(tmp_path: Path) -> None:
    assert read_role(str(tmp_path)) is None
    assert update_role(str(tmp_path), lambda before: LED) == LED == read_role(str(tmp_path))
    path = tmp_path / ROLE_FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [found.name for found in path.parent.iterdir()] == ["role.json"]


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"term": 0}', '{"term": 2, "led": 3}', '{"term": "3"}', "\0" * 50, '{"x":' + "[" * 2000]
)
def test_damaged_file_is_named_and_nobody_leads_by_it(tmp_path: Path, content: str) -> None:
    root = tmp_path
    (root / "etc").mkdir()
    (root / "etc/ossec.conf").write_text(GOOD)
    path = root / ROLE_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    with pytest.raises(RoleDamaged, match="clusterd demote --master HOST"):
        read_role(str(root))
    checked = check(str(root))
    assert not checked.ok
    assert any(ROLE_FILE in line for line in checked.lines)
    with pytest.raises(RoleDamaged):
        update_role(str(root), lambda before: LED)
    assert update_role(str(root), lambda before: before or LED, mend=True) == LED


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    path = tmp_path / ROLE_FILE
    path.parent.mkdir(parents=True)
    (tmp_path / "elsewhere").write_bytes(msgspec.json.encode(LED))
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RoleDamaged):
        read_role(str(tmp_path))


def test_what_is_heard_never_makes_a_term_smaller() -> None:
    assert heard(None, 3, "b:1", "b", 5.0) == NodeRole(3, master="b:1", master_name="b", since=5.0, by="heard of it")
    assert heard(LED, 2, "b:1", "b", 5.0) == LED
    assert heard(LED, 3, "b:1", "two", 5.0) == LED, "the master of a term knows best where it is"
    after = heard(LED, 4, "b:1", "b", 5.0)
    assert (after.term, after.led, after.master, standing(after, "worker").is_deposed) == (4, 3, "b:1", True)


def test_of_two_nodes_that_were_given_one_term_the_greater_name_counts_everywhere() -> None:
    assert heard(LED, 3, "b:1", "one", 5.0) == LED
    lost = heard(LED, 3, "b:1", "z", 5.0)
    assert (lost.led, lost.master, standing(lost, "master").is_deposed) == (0, "b:1", True)
    worker = NodeRole(3, master="a:1", master_name="one")
    assert heard(worker, 3, "b:1", "one", 5.0).master == "b:1", "it has moved"
    assert heard(worker, 3, "b:1", "z", 5.0).master_name == "z"
    assert heard(lost, 3, "a:1", "one", 5.0) == lost


@pytest.mark.parametrize(
    ("given", "term", "deposed"),
    [(None, 0, False), (None, 4, True), (LED, 0, False), (LED, 2, False), (LED, 3, True), (LED, 4, True)],
)
def test_a_term_that_is_only_on_the_board_counts(given: NodeRole | None, term: int, deposed: bool) -> None:
    after = after_deposing(given, term)
    assert standing(after, "master").is_deposed == deposed
    assert deposed or after == given


def test_role_decides_which_addresses_count() -> None:
    block = ClusterBlock(node_type="worker", nodes=("a:1", "b:1"))
    settings = Settings("/", cluster=block)
    assert settings.with_role(None).cluster == block
    follower = settings.with_role(NodeRole(3, master="b:1"))
    assert (follower.is_master, follower.cluster.nodes, follower.configured) == (False, ("b:1", "a:1"), block)
    leader = settings.with_role(LED)
    assert (leader.is_master, leader.cluster.nodes) == (True, (LED.master,))
    assert leader.with_role(None).cluster == block
    deposed = leader.with_role(msgspec.structs.replace(LED, term=4, master="c:1"))
    assert (deposed.is_master, deposed.is_deposed, deposed.cluster.nodes) == (False, True, ())
    demoted = Settings("/", cluster=ClusterBlock(nodes=("a:1",))).with_role(NodeRole(3, "worker", master="b:1"))
    assert (demoted.is_master, demoted.is_deposed, demoted.cluster.nodes) == (False, False, ("b:1",))


@pytest.mark.parametrize(
    ("given", "configured", "text"),
    [
        (None, "master", "master"),
        (LED, "worker", "master (promoted, term 3; etc/ossec.conf says worker)"),
        (LED, "master", "master (term 3)"),
        (NodeRole(3, "worker"), "master", "worker (demoted, term 3; etc/ossec.conf says master)"),
        (NodeRole(3), "worker", "worker (term 3)"),
        (NodeRole(3), "master", "former master (leads no more, term 3 exists; etc/ossec.conf says master)"),
    ],
)
def test_role_in_words(given: NodeRole | None, configured: Role, text: str) -> None:
    assert role_text(given, configured) == text


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_root_writes_it_for_the_user_of_the_daemon(tmp_path: Path) -> None:
    directory = (tmp_path / ROLE_FILE).parent
    directory.mkdir(parents=True)
    os.chown(directory, 65534, 65534)
    update_role(str(tmp_path), lambda before: LED)
    found = (tmp_path / ROLE_FILE).stat()
    assert (found.st_uid, found.st_gid) == (65534, 65534)


def test_no_term_is_written_that_could_not_be_read(tmp_path: Path) -> None:
    root = str(tmp_path)
    last = update_role(root, lambda before: NodeRole(MOST_TERM))
    with pytest.raises(RoleDamaged, match="no term after"):
        update_role(root, lambda before: NodeRole(MOST_TERM + 1))
    assert read_role(root) == last
