"""The database follows etc/shared, and deletes only the groups whose directories it saw disappear."""

import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import msgspec

from clusterd.settings import DEFAULT_RULES
from clusterd.store import agents, groups, schema
from tests.store.following import Node


def test_groups_come_and_go_with_their_directories(live: Callable[..., None]) -> None:
    async def work(node: Node) -> None:
        (node.shared / "web").mkdir()
        (node.shared / "bad name").mkdir()
        (node.shared / "file").write_text("")
        await node.look()
        assert await node.groups() == ["default", "web"]
        await node.engine.write(lambda session: agents.insert_agent(session, agents.NewAgentRow(1, "a", 1)))
        request = {"mode": "override", "data": [{"id": 1, "groups": ["web"]}]}
        await node.engine.write(lambda session: groups.set_agent_groups(session, request, on_worker=False))
        (node.shared / "web").rmdir()
        await node.look()
        assert await node.groups() == ["default"]
        assert await node.column('select "group" || group_sync_status from agent where id = 1') == ["defaultsyncreq"]

    live(work)


def test_deletion_on_a_worker_is_nothing_to_hand_out(live: Callable[..., None]) -> None:
    async def work(node: Node) -> None:
        (node.shared / "web").mkdir()
        await node.look()
        await node.engine.write(lambda session: agents.insert_agent(session, agents.NewAgentRow(1, "a", 1)))
        request = {"mode": "override", "data": [{"id": 1, "name": "a", "groups": ["web"]}]}
        await node.engine.write(lambda session: groups.set_agent_groups(session, request, on_worker=True))
        (node.shared / "web").rmdir()
        await node.look()
        assert await node.column('select "group" || group_sync_status from agent where id = 1') == ["defaultsynced"]

    live(work, on_worker=True)


def test_group_that_never_had_a_directory_is_kept(live: Callable[..., None]) -> None:
    async def work(node: Node) -> None:
        await node.engine.write(lambda session: groups.insert_group(session, "ghost"))
        await node.look()
        await node.look()
        assert await node.groups() == ["default", "ghost"]
        assert any("ghost" in line for line in node.said)

    live(work)


async def make_and_remove(node: Node) -> None:
    """The follower has seen the directory, and not that it is gone."""
    (node.shared / "web").mkdir()
    await node.look()
    (node.shared / "web").rmdir()


def test_directory_that_went_while_the_node_was_stopped_deletes_nothing(live: Callable[..., None]) -> None:
    async def after(node: Node) -> None:
        await node.look()
        assert await node.groups() == ["default", "web"]

    live(make_and_remove)
    live(after)


def test_directory_that_went_while_the_process_was_dead_deletes_its_group(live: Callable[..., None]) -> None:
    async def after(node: Node) -> None:
        await node.look()
        assert await node.groups() == ["default"]

    live(make_and_remove)
    live(after, is_first_life=False)


def test_missing_or_empty_shared_directory_deletes_nothing(live: Callable[..., None]) -> None:
    async def work(node: Node) -> None:
        (node.shared / "web").mkdir()
        await node.look()
        shutil.rmtree(node.shared)
        await node.look()
        assert await node.groups() == ["default", "web"]
        node.shared.mkdir()
        await node.look()
        assert await node.groups() == ["default", "web"]
        assert len(node.said) == 2

    live(work)


def test_counting_rows_needs_no_lock(live: Callable[..., None], tmp_path: Path) -> None:
    """Another program that reads the file is not disturbed, and disturbs nothing."""

    async def work(node: Node) -> None:
        outside = sqlite3.connect(tmp_path / schema.DATABASE)
        outside.execute("begin")
        outside.execute("select count(*) from agent").fetchone()
        await node.look()
        assert await node.groups() == ["default"]
        outside.close()

    live(work)


def test_group_whose_directory_is_a_link_that_is_followed_is_a_group(live: Callable[..., None], tmp_path: Path) -> None:
    real = Path(os.path.realpath(tmp_path))
    for name in ("git/web", "elsewhere"):
        (real / name).mkdir(parents=True)

    async def work(node: Node) -> None:
        (node.shared / "web").symlink_to(real / "git/web")
        (node.shared / "other").symlink_to(real / "elsewhere")
        await node.look()
        assert await node.groups() == ["default"]
        node.follower._rules = lambda: msgspec.structs.replace(DEFAULT_RULES, link_targets=(str(real / "git"),))
        await node.look()
        assert await node.groups() == ["default", "web"]
        (real / "git").rename(real / "away")  # a disk that is not mounted
        for _ in range(3):
            await node.look()
        assert await node.groups() == ["default", "web"]
        (node.shared / "web").unlink()
        for _ in range(3):
            await node.look()
        assert await node.groups() == ["default"]

    live(work)
