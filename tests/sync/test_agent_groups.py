"""Decisions about agent groups on scripted ports: when a change counts as handed out, and which rows a worker still
gets."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from clusterd.errors import ClusterError
from clusterd.sync.agents.broadcasts import Broadcast, Broadcasts, content
from clusterd.sync.agents.groups_master import AgentGroupsMaster
from clusterd.sync.agents.worker_queue import ATTEMPTS, MOST_WAITING, WorkerQueue
from clusterd.sync.links.peer import Peer
from clusterd.sync.links.records import WorkerRecord
from clusterd.wdb.batches import GroupsRow
from clusterd.wdb.client import DatabaseError
from tests.fakes.events import Events
from tests.sync.groups_bench import Site, peer
from tests.sync.rounds_bench import run


def broadcast(path: str = "/groups", *, agents: tuple[int, ...] = (1,), has_groups: bool | None = None) -> Broadcast:
    made = Broadcast(path)
    made.chunks = 1
    made.has_groups = bool(agents) if has_groups is None else has_groups
    for agent in agents:
        made.rows[agent] = content(GroupsRow(agent, ["web"]))
        made.confirmations.append(b"handed out %d" % agent)
    return made


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


# ---- handed out ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ends", "told"),
    [
        ("both acknowledge", True),
        ("one is lost", False),
        ("one is lost after it had it", True),
        ("nobody is there", True),
    ],
)
def test_groups_are_handed_out_when_every_connected_worker_has_them(ends: str, told: bool) -> None:
    async def story() -> None:
        site = Site()
        all_of_them, made = Broadcasts(site.context), broadcast(agents=(1, 2))
        made.waiting = set() if ends == "nobody is there" else {1, 2}
        all_of_them.add(made)
        all_of_them.settle(made)
        if made.waiting:
            all_of_them.has_result(made, 1)
            await settled()
            assert (site.asked, site.removed) == ([], [])
            if ends == "one is lost after it had it":
                all_of_them.left(1)
            if ends == "one is lost":
                all_of_them.left(2)
            else:
                all_of_them.has_result(made, 2)
        await settled()
        assert site.removed == ["/groups"]
        assert site.asked == (made.confirmations if told else [])
        all_of_them.settle(made)
        assert site.removed == ["/groups"]

    run(story())


def test_an_absent_store_keeps_the_marks_and_is_reported() -> None:
    async def story() -> None:
        site = Site()

        def away(request: Any) -> tuple[str, bytes]:
            raise DatabaseError(2005, "gone")

        site.answer = away
        all_of_them, made = Broadcasts(site.context), broadcast()
        all_of_them.add(made)
        all_of_them.settle(made)
        await settled()
        assert len(site.asked) == 1
        (line,) = site.texts("WARNING")
        assert "stay marked for now" in line

    run(story())


def test_rows_on_their_way_are_the_same_by_the_latest_that_speaks_of_the_agent_and_is_not_lost() -> None:
    site = Site()
    all_of_them = Broadcasts(site.context)
    web, shop = GroupsRow(1, ["web"]), GroupsRow(1, ["shop"])
    assert not all_of_them.say_the_same(web)
    first, second = broadcast("/1"), broadcast("/2", agents=(2,))
    for made in (first, second):
        made.waiting = {1}
        all_of_them.add(made)
    assert all_of_them.say_the_same(web)
    assert not all_of_them.say_the_same(shop)
    third = broadcast("/3", agents=())
    third.rows[1], third.waiting = content(shop), {1}
    all_of_them.add(third)
    assert (all_of_them.say_the_same(web), all_of_them.say_the_same(shop)) == (False, True)
    third.is_lost = True
    assert not all_of_them.say_the_same(shop)
    all_of_them.has_result(third, 1)
    assert all_of_them.say_the_same(web)


# ---- what a worker is still given ------------------------------------------------------------------------------------


def queue_of(site: Site, *, record: WorkerRecord | None = None) -> tuple[WorkerQueue, Broadcasts]:
    known = record or WorkerRecord()
    all_of_them = Broadcasts(site.context)
    return WorkerQueue(site.context, all_of_them, peer(), lambda one: known), all_of_them


def test_a_message_with_only_the_hash_waits_for_no_other() -> None:
    site = Site()
    queue, _ = queue_of(site)
    hash_only = broadcast(agents=())
    assert queue.put(hash_only)
    assert hash_only.waiting == {1}
    later = broadcast("/later", agents=())
    assert not queue.put(later)
    assert later.waiting == set()
    assert queue.put(broadcast("/rows"))
    assert queue.put(broadcast("/stock", agents=(), has_groups=True)), "its rows are not noted with a wazuh-db"


ROWS = b'[{"data":[{"id":1,"name":"a","groups":["web"]}],"hash":"a"}]'
HASH = b'[{"data":[],"hash":"a"}]'


def connected(link: int = 1) -> Peer:
    return cast(
        Peer, SimpleNamespace(name=f"w{link}", tag=f"Worker w{link}", link=link, spawn=lambda work: work.close())
    )


@pytest.mark.parametrize("ours", [True, False])
def test_changes_that_are_read_while_a_worker_is_busy_wait_for_it(tmp_path: Path, ours: bool) -> None:
    """A wazuh-db has cleared its marks by then: nobody else would ever tell the worker, but its checksums."""

    async def story() -> None:
        site = Site(ours=ours)
        site.root = tmp_path
        groups, worker = AgentGroupsMaster(site.context, {}), connected()
        groups.joined(worker)
        for chunk in (HASH, ROWS, HASH):
            site.answer = lambda request, chunk=chunk: ("ok", chunk)  # type: ignore[misc]
            await groups._round(site.context.tag_log("Master", "Local agent-groups"))
        assert [waiting.has_groups for waiting in groups.queue_of(worker)._queue] == [False, True]

    run(story())


@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize("nothing", [b"[]", b'[{"data":[]}]'])
def test_database_that_announces_more_and_gives_nothing_is_not_asked_for_ever(
    tmp_path: Path, nothing: bytes, ours: bool
) -> None:
    left = iter(range(9))

    async def story() -> None:
        site = Site(ours=ours)
        site.root, site.answer = tmp_path, lambda request: ("due" if next(left, None) is not None else "ok", nothing)
        groups = AgentGroupsMaster(site.context, {})
        groups.joined(connected())
        await groups._round(site.context.tag_log("Master", "Local agent-groups"))
        with pytest.raises(DatabaseError, match="none come"):
            await groups._reader.everything(site.context.tag_log("Master", "Agent-groups send full"))
        assert len(site.texts("ERROR")) == 1

    run(story())


def test_changes_that_are_read_while_the_last_worker_leaves_are_not_handed_out(tmp_path: Path) -> None:
    async def story() -> None:
        site = Site()
        site.root = tmp_path
        groups, worker = AgentGroupsMaster(site.context, {}), connected()
        groups.joined(worker)

        def answer(request: Any) -> tuple[str, bytes]:
            groups.left(worker)
            return "ok", ROWS

        site.answer = answer
        await groups._round(site.context.tag_log("Master", "Local agent-groups"))
        await settled()
        assert site.removed == [f"{tmp_path}/groups-1"]
        assert ["handed-out" in str(request) for request in site.asked] == [False]

    run(story())


RESULT = b'{"updated_chunks": 1, "error_messages": [], "time_spent": 0.1}'


class Patience:
    """One worker's queue. The test says when the master waits no longer for a result."""

    def __init__(self) -> None:
        self.site = Site()
        self.queue, _ = queue_of(self.site)

    async def begin(self) -> "asyncio.Task[str]":
        """Sends a message, as far as its result."""
        sent = len(self.site.sent)
        sending = asyncio.create_task(self.queue.send_patiently(broadcast()))
        while len(self.site.sent) == sent:
            await asyncio.sleep(0)
        await settled()
        return sending

    def is_over(self) -> None:
        """The time for the result is over."""
        answer = self.queue._answer
        assert answer is not None
        answer.set_exception(TimeoutError())


def test_a_result_that_comes_late_is_not_taken_for_that_of_the_next_message() -> None:
    """Groups that the worker may never write would count as handed out."""

    async def story() -> None:
        worker = Patience()
        first = await worker.begin()
        worker.is_over()
        assert await first == "no result came in time"
        second = await worker.begin()
        worker.queue.finished(RESULT)
        await settled()
        assert not second.done()
        worker.queue.finished(RESULT)
        assert await second == ""

    run(story())


def test_a_result_that_never_comes_costs_one_message_its_own_and_no_more() -> None:
    async def story() -> None:
        worker = Patience()
        first = await worker.begin()
        worker.is_over()
        await first
        second = await worker.begin()
        worker.queue.finished(RESULT)
        worker.is_over()
        assert await second == "no result came in time"
        third = await worker.begin()
        worker.queue.finished(RESULT)
        assert await third == ""

    run(story())


def test_a_worker_that_is_too_slow_is_named_once_and_left_to_the_checksums() -> None:
    site = Site()
    queue, _ = queue_of(site)
    put = [queue.put(broadcast(f"/{number}")) for number in range(MOST_WAITING + 2)]
    assert put == [True] * MOST_WAITING + [False, False]
    (line,) = site.texts("ERROR")
    assert line.startswith(
        f"w1 does not take the groups it is sent and is left to the comparison of checksums: {MOST_WAITING}"
    )


def test_a_worker_that_is_behind_gets_each_message_once_until_it_takes_one() -> None:
    async def story() -> None:
        site, record = Site(), WorkerRecord()
        queue, all_of_them = queue_of(site, record=record)
        serving = asyncio.create_task(queue.serve())
        refusals: list[Exception] = [ClusterError(1000, "no room")] * (ATTEMPTS + 1)
        site.fails = list(refusals)
        for number in range(2):
            made = broadcast(f"/{number}")
            all_of_them.add(made)
            queue.put(made)
        while site.fails:
            await asyncio.sleep(0.001)
        while "/1" not in site.removed:
            await asyncio.sleep(0.001)
        assert site.removed == ["/0", "/1"]
        assert len(site.sent) == ATTEMPTS + 1, "five times what it could not write first, the next one once"
        assert record.groups_problem
        assert len([line for line in site.texts("ERROR") if "left to the comparison" in line]) == 1
        assert len([line for line in site.texts("ERROR") if "Error sending agent-groups" in line]) == 1
        assert "groups for w1" in site.context.troubles.shown()
        made = broadcast("/2")
        all_of_them.add(made)
        queue.put(made)
        while len(site.sent) < ATTEMPTS + 2:
            await asyncio.sleep(0.001)
        await settled()
        queue.finished(b'{"updated_chunks": 1, "error_messages": [], "time_spent": 0.1}')
        while "/2" not in site.removed:
            await asyncio.sleep(0.001)
        assert record.groups_problem == ""
        assert "w1 takes groups again." in site.texts("INFO")
        assert "groups for w1" not in site.context.troubles.shown()
        told = [(event.files, event.result) for event in cast(Events, site.context.events).told]  # type: ignore[union-attr]
        assert told == [(1, "failed"), (1, "failed"), (1, "ok")]
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)

    run(story())


def test_what_a_leaving_worker_had_before_stays_marked() -> None:
    site = Site()
    queue, all_of_them = queue_of(site)
    made = broadcast()
    all_of_them.add(made)
    queue.put(made)
    queue.left()
    assert (made.is_lost, site.removed, site.asked) == (True, ["/groups"], [])


@pytest.mark.parametrize(("text", "problem"), [(b"disk full", "disk full"), (b"", "refused without a reason")])
def test_a_worker_that_refuses_ends_the_wait_with_its_reason(text: bytes, problem: str) -> None:
    async def story() -> None:
        site = Site()
        queue, _ = queue_of(site)
        made = broadcast(agents=())
        sending = asyncio.create_task(queue.send_patiently(made))
        while not site.sent:
            await asyncio.sleep(0)
        await settled()
        queue.refused(text)
        assert await sending == problem
        queue.refused(text)  # nobody waits for it

    run(story())


def test_a_round_without_workers_reads_nothing_and_one_that_fails_leaves_no_file(tmp_path: Path) -> None:
    async def story() -> None:
        site = Site()
        groups = AgentGroupsMaster(site.context, {})
        await groups._round(site.context.tag_log("Master", "Local agent-groups"))
        assert site.asked == []
        assert "No clients connected. Skipping." in site.texts("INFO")

        def away(request: Any) -> tuple[str, bytes]:
            raise DatabaseError(2005, "gone")

        site.root, site.answer = tmp_path, away
        groups.joined(cast(Peer, SimpleNamespace(name="w1", tag="Worker w1", link=1, spawn=lambda work: work.close())))
        for _ in range(3):
            await groups._round(site.context.tag_log("Master", "Local agent-groups"))
        assert len(site.texts("ERROR")) == 1, "once until it is over"
        assert site.removed == [f"{tmp_path}/groups-{number}" for number in (1, 2, 3)]

    run(story())
