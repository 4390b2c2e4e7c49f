"""The database follows etc/shared, and deletes only the groups whose directories it saw disappear."""

import asyncio
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from clusterd.messages.journal import GroupEvent
from clusterd.settings import DEFAULT_RULES
from clusterd.store import agents, follow_groups, groups, schema
from clusterd.store.engine import Session
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


def test_only_groups_that_came_while_the_process_ran_are_told(
    live: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the first look fails: the database may be locked then. The API makes a group there first."""

    async def work(node: Node) -> None:
        (node.shared / "old").mkdir()
        await node.engine.write(lambda session: groups.insert_group(session, "old"))
        with monkeypatch.context() as locked:
            locked.setattr(follow_groups, "note_seen", refuse)
            await node.look()
        await node.look()
        assert node.told == []
        await node.engine.write(lambda session: groups.insert_group(session, "new"))
        (node.shared / "new").mkdir()
        await node.look()
        assert [(event.what, event.group) for event in node.told if isinstance(event, GroupEvent)] == [
            ("created", "new")
        ]

    def refuse(*given: object) -> None:
        raise sqlite3.OperationalError("database is locked")

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


async def with_agents(node: Node, count: int) -> None:
    """Groups g0, g1, ..., each with an agent."""
    for number in range(count):
        (node.shared / f"g{number}").mkdir()
    await node.look()
    data = [{"id": number + 1, "groups": [f"g{number}"]} for number in range(count)]

    def assign(session: Session) -> None:
        for number in range(count):
            agents.insert_agent(session, agents.NewAgentRow(number + 1, f"a{number}", 1))
        groups.set_agent_groups(session, {"mode": "override", "data": data}, on_worker=False)

    await node.engine.write(assign)


ASSIGNED = 'select "group" from agent where id > 0 order by id'


def test_groups_whose_directories_are_gone_at_once_keep_their_agents(live: Callable[..., None]) -> None:
    """Nobody could tell afterwards who was in which group."""

    async def work(node: Node) -> None:
        await with_agents(node, 9)
        for number in range(6):
            (node.shared / f"g{number}").rmdir()
        for _ in range(3):
            await node.look()
        assert await node.column(ASSIGNED) == [f"g{number}" for number in range(9)]
        [said] = node.said
        assert "6 of 10 directories of etc/shared are gone at once" in said
        node.told.clear()
        for number in range(6):  # they are put back one after the other
            (node.shared / f"g{number}").mkdir()
            await node.look()
        assert await node.column(ASSIGNED) == [f"g{number}" for number in range(9)]
        assert node.told == [], "no group is new"
        (node.shared / "g0").rmdir()
        await node.look()
        assert await node.column(ASSIGNED) == ["default"] + [f"g{number}" for number in range(1, 9)]

    live(work)


def test_directories_that_come_back_one_by_one_after_all_were_gone_cost_no_group(live: Callable[..., None]) -> None:
    async def work(node: Node) -> None:
        await with_agents(node, 3)
        shutil.rmtree(node.shared)
        node.shared.mkdir()
        await node.look()
        for name in ("default", "g2", "g0"):
            (node.shared / name).mkdir()
            await node.look()
        assert await node.column(ASSIGNED) == ["g0", "g1", "g2"]

    live(work)


def test_slow_removal_is_judged_as_one(live: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(node: Node) -> None:
        await with_agents(node, 9)
        monkeypatch.setattr(follow_groups, "SURE_S", 3600.0)
        for number in range(6):
            (node.shared / f"g{number}").rmdir()
            await node.look()
        monkeypatch.setattr(follow_groups, "SURE_S", 0.0)
        await node.look()
        assert await node.column(ASSIGNED) == [f"g{number}" for number in range(9)]

    live(work)


@pytest.mark.parametrize("allowed", ["by the setting", "by the API", "on a worker"])
def test_many_groups_go_at_once_where_somebody_wants_it(live: Callable[..., None], allowed: str) -> None:
    async def work(node: Node) -> None:
        await with_agents(node, 9)
        if allowed == "by the setting":
            node.follower.groups._max_delete_share = lambda: 1.0
        for number in range(6):
            (node.shared / f"g{number}").rmdir()
            if allowed == "by the API":
                await node.engine.write(lambda session, n=number: groups.delete_group(session, f"g{n}", "syncreq"))
        await node.look()
        assert await node.column(ASSIGNED) == ["default"] * 6 + ["g6", "g7", "g8"]
        assert not [line for line in node.said if line.startswith("WARNING")]

    live(work, on_worker=allowed == "on a worker")


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
        node.follower.groups._rules = lambda: msgspec.structs.replace(DEFAULT_RULES, link_targets=(str(real / "git"),))
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


def test_file_system_that_hangs_holds_up_nobody_else(
    live: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(node: Node) -> None:
        goes_on = threading.Event()

        def hang(_: str) -> list[object]:
            goes_on.wait(60)
            return []

        monkeypatch.setattr("clusterd.store.follow_groups.os.scandir", hang)
        looking = asyncio.create_task(node.look())
        for _ in range(3):
            assert await node.groups() == []
        assert not looking.done()
        goes_on.set()
        await looking

    live(work)
