"""authd beside other writers of client.keys, and after a loss of keys."""

import asyncio
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest

from clusterd.agent_keys import Key
from clusterd.key_guard import KeyContent, note_accepted, written_by_authd
from clusterd.rundir import STATE
from clusterd.store.errors import NotKept
from tests.fakes.agent_table import FakeAgentTable
from tests.store.faults import disk_full
from tests.store.live_authd import Node, live_authd


def test_agent_that_another_program_adds_meanwhile_is_kept(tmp_path: Path) -> None:
    other = Key("0815", "hand", "any", "b" * 64)

    async def work(node: Node) -> None:
        await node.add("first")

        async def change() -> None:
            node.table.before_change = None
            node.path.write_text(node.path.read_text() + other.line())

        node.table.before_change = change
        answers = await asyncio.gather(node.add("second"), node.add("hand"))
        assert [one["error"] for one in answers] == [0, 9008]
        assert answers[0]["data"]["id"] == "816"
        assert node.keys.keys() == {"first", "hand", "second"}
        assert node.table.agents.keys() == {1, 816}

    live_authd(tmp_path, work)


def test_file_that_never_rests_ends_in_a_refusal(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        await node.add("first")
        writes = 0

        async def change() -> None:
            nonlocal writes
            writes += 1
            node.path.write_text(f"001 first any {'c' * writes}\n")

        node.table.before_change = change
        refused = await node.add("second")
        assert refused["error"] == 9009
        assert "another program" in refused["message"]
        assert node.table.agents.keys() == {1}

    live_authd(tmp_path, work)


def test_invalid_lines_are_reported_and_stay(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        node.path.write_text("broken\n001 first any k\n")
        await node.add("second")
        await node.add("third")
        assert node.path.read_text().splitlines()[-1] == "broken"
        assert [text for _, text in node.log] == ["etc/client.keys: 1 lines are not of agents; they stay as they are."]
        node.path.write_text("broken\n")
        assert (await node.add("fourth"))["error"] == 9009
        assert node.path.read_text() == "broken\n"

    live_authd(tmp_path, work)


def test_keys_never_stand_in_the_log(tmp_path: Path) -> None:
    secret = "5ec4e7" * 12

    async def work(node: Node) -> None:
        node.path.write_text(f"broken {secret}\n001 first any {secret}\n")
        await node.add("a", key=secret)
        node.ops.fault = disk_full
        await node.add("b", key=secret)
        assert len(node.log) == 2
        assert not [text for _, text in node.log if secret in text]

    live_authd(tmp_path, work)


def lose_most(node: Node) -> None:
    node.path.write_text("009 one-left any kkk\n")


def empty(node: Node) -> None:
    node.path.write_text("")


def lose_the_file(node: Node) -> None:
    node.path.unlink(missing_ok=True)


@pytest.mark.parametrize("lose", [lose_most, empty, lose_the_file])
def test_key_file_that_has_lost_most_keys_is_not_written_before_an_operator_allows_it(
    lose: Callable[[Node], None], tmp_path: Path
) -> None:
    async def before(node: Node) -> None:
        for number in range(10):
            await node.add(f"agent{number}")

    async def after(node: Node) -> None:
        lose(node)
        content = node.path.read_bytes() if node.path.exists() else None
        for function, arguments in (
            ("add", {"name": "new", "ip": "any"}),
            ("remove", {"id": "009"}),
            ("get", {"id": "009"}),
        ):
            answer = await node.ask(function, **arguments)
            assert answer["error"] == 9009
            assert "agent keys at once" in answer["message"]
            assert "clusterd sync --allow-delete" in answer["message"]
        assert (node.path.read_bytes() if node.path.exists() else None) == content
        assert len(node.table.agents) == 10
        assert [level for level, _ in node.log] == ["ERROR"]

    async def allowed(node: Node) -> None:
        lose(node)
        (tmp_path / STATE).mkdir(parents=True, exist_ok=True)
        note_accepted(str(tmp_path / STATE), KeyContent(node.path.read_bytes() if node.path.exists() else None))
        assert (await node.add("new"))["error"] == 0
        assert "new" in node.keys
        assert len(node.keys) <= 2

    table = live_authd(tmp_path, before).table
    live_authd(tmp_path, after, table)
    live_authd(tmp_path, allowed, table)


def test_keys_come_back_with_the_file_and_removal_by_request_is_no_loss(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        for number in range(10):
            await node.add(f"agent{number}")
        content = node.path.read_text()
        node.path.write_text("")
        assert (await node.add("new"))["error"] == 9009
        node.path.write_text(content)
        assert (await node.add("new"))["error"] == 0
        assert len(node.keys) == 11
        for number in range(1, 11):
            assert (await node.ask("remove", id=f"{number:03}", purge=True))["error"] == 0
        assert node.keys.keys() == {"new"}
        assert written_by_authd(str(tmp_path / STATE))[-1] == blake2b(node.path.read_bytes()).digest()
        assert (await node.add("newer"))["error"] == 0

    live_authd(tmp_path, work)


def test_agent_whose_row_may_not_outlive_a_power_cut_is_taken_back(tmp_path: Path) -> None:
    """The row exists although the request was refused: without this it stayed until client.keys changed."""

    class Unsynced(FakeAgentTable):
        is_broken = False

        async def apply(self, added: Any, removed: Any) -> None:
            await super().apply(added, removed)
            if self.is_broken:
                raise NotKept("[Errno 5] Input/output error")

    table = Unsynced()

    async def work(node: Node) -> None:
        assert (await node.add("kept"))["error"] == 0
        table.is_broken = True
        assert (await node.add("refused"))["error"] == 9009
        node.assert_even()
        table.is_broken = False
        assert (await node.add("refused"))["error"] == 0
        node.assert_even()

    live_authd(tmp_path, work, table)
