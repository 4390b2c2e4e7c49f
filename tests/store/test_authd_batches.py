"""Registration in large numbers, and when the disk or the database refuses: the class itself, over a database in a
dictionary."""

import asyncio
import contextlib
import errno
import os
import subprocess
import threading
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterd.agent_keys import GREATEST_ID, parse_keys
from clusterd.store.keys import KeyFile
from hashing.atomic import FileOps
from tests.fakes.agent_table import FakeAgentTable
from tests.sizes import examples
from tests.store.faults import disk_full
from tests.store.live_authd import Node, live_authd

REPLACE_ANY = {
    "enabled": True,
    "disconnected_time": {"enabled": False, "value": 0},
    "after_registration_time": 0,
    "key_mismatch": False,
}


# ---- many at once ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_thousand_at_once_get_different_ids_and_few_file_writes(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        answers = await asyncio.gather(*(node.add(f"agent{n}", groups="default") for n in range(2000)))
        assert {one["error"] for one in answers} == {0}
        data = [one["data"] for one in answers]
        for member in ("id", "name", "key"):
            assert len({one[member] for one in data}) == 2000
        assert node.authd.file_writes <= 20
        assert {(key.id, key.key) for key in node.keys.values()} == {(one["id"], one["key"]) for one in data}
        node.assert_even()

    live_authd(tmp_path, work)


def test_requests_of_one_batch_see_each_other(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        answers = await asyncio.gather(
            *(node.add("same") for _ in range(20)),
            *(node.add(f"name{n}", "10.0.0.1") for n in range(20)),
            *(node.add(f"chosen{n}", id="4711") for n in range(20)),
        )
        errors = [one["error"] for one in answers]
        for part, refusal in ((errors[:20], 9008), (errors[20:40], 9007), (errors[40:], 9012)):
            assert sorted(part) == [0] + [refusal] * 19
        node.assert_even()

    live_authd(tmp_path, work)


def test_registrations_and_deletions_are_answered_when_a_candidate_has_them(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        await node.add("first")
        for ask in (lambda: node.add("second"), lambda: node.ask("remove", id="001")):
            node.table.confirms, before = asyncio.Event(), node.table.unconfirmed
            asking = asyncio.create_task(ask())
            while node.table.unconfirmed == before and not asking.done():
                await asyncio.sleep(0.001)
            assert not asking.done()
            node.table.confirms.set()
            assert (await asking)["error"] == 0
        node.assert_even()

    live_authd(tmp_path, work)


def test_id_that_the_table_remembers_is_not_given_again(tmp_path: Path) -> None:
    """Its key was purged, and the file no longer has it."""

    async def work(node: Node) -> None:
        node.table.highest = 41
        assert (await node.add("next"))["data"]["id"] == "042"
        node.table.highest = 3
        assert (await node.add("another"))["data"]["id"] == "043"

    live_authd(tmp_path, work)


def test_stop_lets_the_batch_under_way_be_answered_and_begins_no_other(tmp_path: Path) -> None:
    """A key that is written without an answer makes its agent collide with itself when it asks again."""

    async def work(node: Node) -> None:
        writing, may_end = threading.Event(), threading.Event()

        def slowly(number: int, name: str) -> None:
            if name == "fsync":
                writing.set()
                may_end.wait(60)

        node.ops.fault = slowly
        first = asyncio.create_task(node.add("first"))
        await asyncio.to_thread(writing.wait, 60)
        second = asyncio.create_task(node.add("second"))
        await asyncio.sleep(0)
        ending = asyncio.create_task(node.authd.finish())
        await asyncio.sleep(0)
        assert not ending.done()
        may_end.set()
        await ending
        first.cancel()  # as a stop ends the connections
        assert (await first)["error"] == 0
        assert node.keys.keys() == {"first"}
        assert not second.done()
        second.cancel()

    live_authd(tmp_path, work)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.sampled_from("abcd"), st.sampled_from(["any", "10.0.0.1", "10.0.0.2"])),
        st.tuples(st.just("chosen"), st.sampled_from("abcd"), st.sampled_from(["001", "3", "005"])),
        st.tuples(st.just("remove"), st.integers(1, 8).map(lambda n: f"{n:03d}"), st.booleans()),
    ),
    max_size=25,
)


@pytest.mark.slow
@given(steps=STEPS, together=st.booleans(), forced=st.booleans())
@settings(deadline=None, max_examples=examples(40))
def test_no_sequence_gives_an_id_or_a_name_twice(
    steps: list[tuple[str, str, Any]], together: bool, forced: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    extra = {"force": REPLACE_ANY} if forced else {}

    async def work(node: Node) -> None:
        def start(what: str, first: str, second: Any) -> Awaitable[Any]:
            if what == "remove":
                return node.ask("remove", id=first, purge=second)
            if what == "chosen":
                return node.add(first, id=second, **extra)
            return node.add(first, second, **extra)

        if together:
            answers = await asyncio.gather(*(start(*step) for step in steps))
        else:
            answers = [await start(*step) for step in steps]
        given_ids = [
            int(answer["data"]["id"])
            for step, answer in zip(steps, answers, strict=True)
            if step[0] == "add" and not answer["error"]
        ]
        assert len(set(given_ids)) == len(given_ids)
        if not node.path.exists():
            assert not given_ids
            return
        lines = parse_keys(node.path.read_text())[0]
        in_use = [key for key in lines if not key.is_removed]
        assert len({key.number for key in lines}) == len(lines)
        assert len({key.name for key in in_use}) == len(in_use)
        addresses = [key.ip for key in in_use if key.ip != "any"]
        assert len(set(addresses)) == len(addresses)
        node.assert_even()

    live_authd(tmp_path_factory.mktemp("steps"), work)


# ---- what cannot be written ------------------------------------------------------------------------------------------


def test_full_disk_refuses_with_the_reason_and_changes_nothing(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        await node.add("before", "10.0.0.1")
        content, rows = node.path.read_bytes(), dict(node.table.agents)
        node.ops.fault = disk_full
        refused = [await node.add(f"during{n}") for n in range(2)] + [
            await node.ask("remove", id="001"),
            await node.add("before", force=REPLACE_ANY),
            await node.add("other", id="001", force=REPLACE_ANY),
        ]
        for one in refused:
            assert one["error"] == 9009
            assert one["message"].startswith("Issue generating key: ")
            assert "No space left" in one["message"]
        assert node.path.read_bytes() == content
        assert node.table.agents.keys() == rows.keys()
        node.assert_even()
        assert [line for line in os.listdir(tmp_path / "etc") if line.startswith(".")] == []
        node.ops.fault = lambda number, name: None
        assert (await node.add("during0"))["data"]["id"] == "002"
        assert [level for level, _ in node.log] == ["ERROR", "INFO"]

    live_authd(tmp_path, work)


def test_a_question_in_an_unwritten_batch_gets_the_true_state(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        await node.add("first")
        node.ops.fault = disk_full
        answers = await asyncio.gather(
            node.add("second"),
            node.ask("get", id="002"),
            node.add("second"),
            node.ask("remove", id="001"),
            node.ask("get", id="001"),
            node.add("third", "nowhere"),
            node.add("third", groups="none"),
        )
        assert [one["error"] for one in answers] == [9009, 9011, 9009, 9009, 0, 9006, 9014]

    live_authd(tmp_path, work)


def test_database_that_refuses_leaves_the_file_alone(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        await node.add("before")
        content = node.path.read_bytes()
        node.table.refuses = "database or disk is full"
        assert await node.add("during") == {
            "error": 9009,
            "message": "Issue generating key: database or disk is full",
        }
        assert node.path.read_bytes() == content
        node.table.refuses = None
        assert (await node.add("during"))["data"]["id"] == "002"
        node.assert_even()

    live_authd(tmp_path, work)


def test_deletion_is_answered_when_the_row_is_gone_too(tmp_path: Path) -> None:
    """A candidate that takes over makes a key of each row that had one."""

    async def work(node: Node) -> None:
        await node.add("first")
        node.table.refuses = "database or disk is full"
        for _ in range(2):
            assert (await node.ask("remove", id="001"))["error"] == 9009
            assert (node.keys, set(node.table.agents)) == ({}, {1})
        assert (await node.ask("get", id="001"))["error"] == 9009
        assert (await node.add("second"))["error"] == 9009
        node.table.refuses = None
        assert (await node.ask("remove", id="001"))["error"] == 9011
        node.assert_even()
        assert (await node.add("second"))["error"] == 0
        node.assert_even()

    live_authd(tmp_path, work)


def test_row_that_stays_refuses_only_those_who_asked_for_its_agent(tmp_path: Path) -> None:
    """Who was registered in the same batch has key and row: who asks again would find the name taken, for an hour."""

    async def work(node: Node) -> None:
        await node.add("old")
        await node.add("replaced", id="007")
        changes = 0

        async def refuse_the_second() -> None:
            nonlocal changes
            changes += 1
            node.table.refuses = "database is locked" if changes == 2 else None

        node.table.before_change = refuse_the_second
        answers = await asyncio.gather(
            node.add("new"),
            node.ask("remove", id="001"),
            node.add("another", id="007", force=REPLACE_ANY),
            node.ask("get", id="001"),
            node.add("newer"),
        )
        assert [one["error"] for one in answers] == [0, 9009, 9009, 9009, 0]
        assert node.keys.keys() == {"new", "newer", "another"}
        for one in (answers[0], answers[4]):
            assert (await node.ask("get", id=one["data"]["id"]))["data"] == one["data"]
        assert (await node.ask("remove", id="001"))["error"] == 9011
        assert 1 not in node.table.agents

    live_authd(tmp_path, work)


def test_replaced_agent_is_removed_also_if_a_later_check_fails(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        await node.add("old", "10.0.0.1")
        refused = await node.add("manager", "10.0.0.1", force=REPLACE_ANY)
        assert refused["error"] == 9008
        assert node.keys == {}
        assert "001 !old 10.0.0.1" in node.path.read_text()
        assert node.table.agents == {}

    live_authd(tmp_path, work)


@pytest.mark.parametrize("at", range(1, 13))
def test_whichever_file_operation_fails_file_and_database_stay_even(at: int, tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        await node.add("old", "10.0.0.1", id="007")
        before = node.path.read_bytes()
        start = len(node.ops.names)
        node.ops.fault = lambda number, name: OSError(errno.EIO, "Input/output error") if number == start + at else None
        answers = await asyncio.gather(
            node.add("new"), node.add("newer", "10.0.0.1", force=REPLACE_ANY), node.add("again", id="007")
        )
        errors = {one["error"] for one in answers}
        node.assert_even()
        if errors == {9009}:
            assert node.path.read_bytes() == before
        else:
            assert errors == {0}
            assert node.keys.keys() == {"new", "newer", "again"}
        assert (errors == {9009}) == (at <= 5)
        assert not [name for name in os.listdir(tmp_path / "etc") if name.startswith(".")]

    node = live_authd(tmp_path, work)
    assert not [text for level, text in node.log if level != "ERROR" and "error" in text.lower()]


@pytest.mark.parametrize("at", range(1, 6))
def test_agent_that_is_not_replaced_after_all_keeps_what_it_has(at: int, tmp_path: Path) -> None:
    """Its groups, above all: its key stays, and nobody was told otherwise."""

    async def work(node: Node) -> None:
        await node.add("old", "10.0.0.1", id="007", groups="default")
        before = node.table.agents[7]
        start = len(node.ops.names)
        node.ops.fault = lambda number, name: OSError(errno.ENOSPC, "full") if number == start + at else None
        answer = await node.add("again", id="007", force=REPLACE_ANY)
        assert answer["error"] == 9009
        assert node.table.agents == {7: before}

    live_authd(tmp_path, work)


class Killed(BaseException):
    """The process has ended: nothing that follows runs."""


def bury(directory: Path) -> None:
    """The writer counts as dead: this test only plays it, so its files get the name of a process that is gone."""
    dead = subprocess.Popen(["true"])
    dead.wait()
    for path in directory.glob(f".*pid{os.getpid()}-*"):
        path.rename(path.with_name(path.name.replace(f"pid{os.getpid()}-", f"pid{dead.pid}-")))


@pytest.mark.parametrize("at", range(1, 13))
def test_key_that_was_answered_outlives_a_kill_at_any_file_operation(at: int, tmp_path: Path) -> None:
    table = FakeAgentTable()
    answered: list[Any] = []

    async def until_killed(node: Node) -> None:
        start = 0

        def fault(number: int, name: str) -> Killed | None:
            return Killed(name) if start and number >= start + at else None

        answered.extend([(await node.add("one"))["data"], (await node.add("two", "10.0.0.2"))["data"]])
        start = len(node.ops.names)
        node.ops.fault = fault
        answered.append((await node.add("three"))["data"])
        await node.add("four")

    with contextlib.suppress(Killed):
        live_authd(tmp_path, until_killed, table)
    bury(tmp_path / "etc")
    KeyFile(str(tmp_path), FileOps()).sweep()  # as the store does when it starts

    async def next_life(node: Node) -> None:
        for data in answered:
            assert (await node.ask("get", id=data["id"]))["data"] == data
            assert table.agents[int(data["id"])].internal_key == data["key"]
        new = (await node.add("five"))["data"]
        assert new["id"] not in [data["id"] for data in answered]
        assert not [name for name in os.listdir(tmp_path / "etc") if name.startswith(".")]

    live_authd(tmp_path, next_life, table)
    assert len(answered) == (2 if at <= 10 else 3)


def test_one_bad_request_does_not_refuse_the_others_of_its_batch(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        (tmp_path / "etc/client.keys").write_bytes(b"001 caf\xe9 any kkk\n")
        answers = await asyncio.gather(
            node.add("good"),
            node.add("zone", "fe80::1%a b"),
            node.add("prefix", "10.0.0.0/" + "9" * 5000),
            node.add("id", id="9" * 5000),
            node.add("group", groups="a/../b"),
            node.add("group", groups=[1]),
            node.add("key", key="\x00"),
            node.ask("get", id="001"),
            node.ask("remove", id="9" * 5000),
            node.add("better"),
        )
        assert [one["error"] for one in answers] == [0, 9006, 9006, 9010, 9014, 9014, 9009, 0, 9011, 0]

    live_authd(tmp_path, work)


def test_no_id_is_given_beyond_the_greatest(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        assert (await node.add("last", id=str(GREATEST_ID)))["error"] == 0
        assert (await node.add("beyond"))["error"] == 9013
        assert (await node.add("chosen", id="5"))["error"] == 0

    live_authd(tmp_path, work)


def test_dates_that_cannot_be_written_cost_no_registration_and_are_told_once(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        dates = tmp_path / "queue/agents-timestamp"
        dates.mkdir()
        for name in ("one", "two"):
            assert (await node.add(name))["error"] == 0
        assert [level for level, _ in node.log] == ["ERROR"]
        dates.rmdir()
        assert (await node.add("three"))["error"] == 0
        assert dates.read_text().startswith("003 three any ")

    live_authd(tmp_path, work)
