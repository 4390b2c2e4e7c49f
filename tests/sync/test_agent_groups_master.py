"""Decisions of the master's side of agent-groups, without nodes."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from types import SimpleNamespace
from typing import cast

import pytest

from clusterd.clock import Clock
from clusterd.errors import ClusterError
from clusterd.settings import MasterIntervals, Settings, WorkerIntervals
from clusterd.sync.agents.all_groups import AllGroupsSender
from clusterd.sync.agents.broadcasts import Broadcast, Broadcasts
from clusterd.sync.agents.groups_master import AgentGroupsMaster
from clusterd.sync.agents.groups_reading import GroupsReader
from clusterd.sync.agents.worker_queue import ATTEMPTS, WorkerQueue
from clusterd.sync.links.context import Context
from clusterd.sync.links.peer import Peer
from clusterd.sync.links.records import WorkerRecord
from clusterd.sync.ports.net_port import NotSent
from clusterd.sync.ports.tag_log import TagLog
from clusterd.sync.ports.troubles import Troubles
from tests.fakes.events import Events
from tests.sync.scripted_node import Lines


def test_result_that_comes_before_anything_was_recorded_is_taken() -> None:
    """quirks.md C15: the stock master answers error 1000."""
    lines = Lines()

    def tag_log(tag: str, subtag: str) -> TagLog:
        return TagLog(lines, tag, subtag)  # type: ignore[arg-type]

    context = SimpleNamespace(tag_log=tag_log, clock=Clock())
    groups = AgentGroupsMaster(cast(Context, context), {})
    peer = cast(Peer, SimpleNamespace(name="w1", tag="Worker w1", link=7))
    groups.all_groups.finished(peer, b'{"updated_chunks": 3, "error_messages": [], "time_spent": 0.1}')
    expected = ("INFO", "Worker w1", "Agent-groups send full", "Finished in 0.000s. Updated 3 chunks.")
    assert lines.written == [expected]


def queue_context(send_string: Callable[[Peer, object], Awaitable[str]]) -> Context:
    context = SimpleNamespace(
        tag_log=lambda tag, subtag: TagLog(Lines(), tag, subtag),  # type: ignore[arg-type]
        sender=SimpleNamespace(send_string=send_string),
        clock=Clock(),
        troubles=Troubles(),
        events=Events(),
        settings=Settings(
            "/nowhere",
            master=MasterIntervals(sync_agent_groups_s=0.001),
            worker=WorkerIntervals(timeout_agent_groups_s=0.05),
        ),
    )
    return cast(Context, context)


def groups_given_to(failure: ClusterError) -> int:
    """Returns how often a worker whose string ends with `failure` gets the same rows."""
    given = 0

    async def send_string(peer: Peer, content: object) -> str:
        nonlocal given
        given += 1
        raise failure

    typed = queue_context(send_string)
    broadcast = Broadcast("groups")
    broadcast.has_groups = True
    peer = cast(Peer, SimpleNamespace(name="w1", tag="Worker w1", link=7, timeout_s=1.0))
    queue = WorkerQueue(typed, Broadcasts(typed), peer, lambda peer: WorkerRecord())
    assert asyncio.run(queue.send_patiently(broadcast))
    return given


def test_a_silent_worker_does_not_get_the_same_groups_again_and_again() -> None:
    """The groups of all agents count as handed out only when every worker has received them."""
    not_answered = ClusterError(3016, "Error 3020")
    not_answered.__cause__ = ClusterError(3020, "new_str")
    assert groups_given_to(not_answered) == 1
    assert groups_given_to(ClusterError(3020, "syn_g_m_w")) == 1


@pytest.mark.parametrize(("failure", "is_taken"), [(NotSent("syn_g_m_w"), True), (ClusterError(3020, "x"), False)])
def test_result_after_a_message_that_the_worker_has_not_read_is_that_of_the_next(
    failure: ClusterError, is_taken: bool
) -> None:
    """Of one that it may have read, the result that comes first may be."""
    failures: list[ClusterError] = [failure]

    async def send_string(peer: Peer, content: object) -> str:
        return "7"

    async def request(command: str, payload: bytes) -> bytes:
        if failures:
            raise failures.pop()
        queue.finished(b'{"updated_chunks": 1, "error_messages": ["no group web"], "time_spent": 0.1}')
        return payload

    context = queue_context(send_string)
    peer = cast(Peer, SimpleNamespace(name="w1", tag="Worker w1", link=7, timeout_s=0.05, request=request))
    queue = WorkerQueue(context, Broadcasts(context), peer, lambda peer: WorkerRecord())

    async def story() -> list[str]:
        return [await queue.send_patiently(Broadcast("groups")) for _ in range(2)]

    told = asyncio.run(story())
    assert told == [str(failure), "no group web" if is_taken else "no result came in time"]


def test_a_worker_that_cannot_take_groups_yet_is_given_them_again() -> None:
    assert groups_given_to(ClusterError(1000, "no room")) == ATTEMPTS


class SlowReader:
    """Reads when `may` is set; giving up takes a moment."""

    def __init__(self) -> None:
        self.may = asyncio.Event()
        self.begun = 0

    async def everything(self, log: TagLog) -> None:
        self.begun += 1
        try:
            await self.may.wait()
        finally:
            await asyncio.sleep(0.01)


def test_a_worker_that_asks_while_a_reading_for_others_is_given_up_gets_its_own() -> None:
    tasks: list[asyncio.Task[None]] = []

    def peer(link: int) -> Peer:
        def spawn(work: Coroutine[None, None, None]) -> None:
            tasks.append(asyncio.create_task(work))

        return cast(Peer, SimpleNamespace(name=f"w{link}", tag=f"Worker w{link}", link=link, spawn=spawn))

    async def story() -> None:
        reader, record = SlowReader(), WorkerRecord()
        context = SimpleNamespace(
            tag_log=lambda tag, subtag: TagLog(Lines(), tag, subtag),  # type: ignore[arg-type]
            clock=Clock(),
        )
        sender = AllGroupsSender(cast(Context, context), cast(GroupsReader, reader), lambda peer: record)
        first, second = peer(1), peer(2)
        sender.joined(first)
        sender.joined(second)
        sender.ask(first)
        await asyncio.sleep(0.001)
        tasks[0].cancel()
        await asyncio.sleep(0.001)
        sender.ask(second)
        reader.may.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (reader.begun, record.all_groups_ended_at is None) == (2, False)

    asyncio.run(story())
