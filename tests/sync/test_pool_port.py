"""Jobs whose caller has given up."""

import asyncio
import time
from pathlib import Path

import pytest

from clusterd.clock import Clock
from clusterd.messages.api import FunctionDone, RunFunction
from clusterd.messages.base import Text
from clusterd.messages.bodies import Digested, DigestSegments
from clusterd.messages.manifest import Packed
from clusterd.messages.packages import (
    OpenPackage,
    PackageOpened,
    PackMetadata,
    PackPart,
    PartPacked,
    RangeUnpacked,
    UnpackRange,
)
from clusterd.messages.pool import JobDone, PoolHello, StartJob
from clusterd.sync.ports.pool_port import (
    API_S,
    DIED,
    LATE,
    LOST_AFTER_CLAIMS,
    LOST_AFTER_S,
    OVERDUE_S,
    JobError,
    PoolPort,
    all_of,
)
from ipc.job_queue import JobQueue
from tests.fakes.clock import FakeClock


@pytest.mark.parametrize("end", ["done", "died"])
@pytest.mark.parametrize("kind", ["part", "open", "unpack"])
def test_files_of_an_abandoned_job_are_removed(tmp_path: Path, end: str, kind: str) -> None:
    """Those that it makes, not those that it reads."""
    mine, other, read = (tmp_path / name for name in ("mine", "other", "read"))
    read.write_bytes(b"made by an earlier job")
    job, done, makes = {
        "part": (
            PackPart(str(tmp_path), str(read), 0, 1, 9, str(mine), str(other)),
            PartPacked(13, [], True, []),
            [mine, other],
        ),
        "open": (OpenPackage(str(read), str(tmp_path), str(mine), 9, 9), PackageOpened(0, 0, 0, 0, "", []), [mine]),
        "unpack": (UnpackRange(str(read), str(tmp_path), str(read), 1, 9, 9), RangeUnpacked([], []), []),
    }[kind]
    sent: list[StartJob] = []

    async def send(slot: bytes, order: StartJob) -> None:
        sent.append(order)

    async def story() -> None:
        port = PoolPort(send, JobQueue(4), 1, Clock())
        await port.hello(PoolHello(1, 1))
        waiter = port.start(job)
        while not sent:
            await asyncio.sleep(0)
        waiter.cancel()
        await asyncio.gather(waiter, return_exceptions=True)
        for made in makes:
            made.write_bytes(b"made too late")
        if end == "done":
            await port.done(1, JobDone(sent[0].id, done))
        else:
            port.lost(1)

    asyncio.run(story())
    assert list(tmp_path.iterdir()) == [read]


@pytest.mark.parametrize("changes", [True, False])
def test_function_that_changes_something_is_not_run_again_when_its_process_dies(changes: bool) -> None:
    """An agent that the dead process had added would be refused as a duplicate, and nobody would get its key."""
    sent: list[StartJob] = []

    async def send(slot: bytes, order: StartJob) -> None:
        sent.append(order)

    async def story() -> None:
        port = PoolPort(send, JobQueue(4), 1, Clock())
        await port.hello(PoolHello(1, 1))
        waiter = port.start(RunFunction("/r", Text(b"{}"), "/r/out", False, changes=changes))
        while not sent:
            await asyncio.sleep(0)
        await port.hello(PoolHello(1, 2))
        assert len(sent) == (1 if changes else 2)
        if not changes:
            await port.hello(PoolHello(1, 3))
        with pytest.raises(JobError, match="may not run again" if changes else "died, twice") as failure:
            await waiter
        assert failure.value.kind == DIED

    asyncio.run(story())
    assert len(sent) == (1 if changes else 2), "in the end, too"


def test_failure_of_one_of_several_jobs_is_raised_when_the_last_has_ended() -> None:
    ended: list[str] = []

    async def fail() -> int:
        raise JobError("disk", "full")

    async def go_on() -> int:
        for _ in range(5):
            await asyncio.sleep(0)
        ended.append("the other")
        return 1

    async def story() -> None:
        assert await all_of([go_on(), go_on()]) == [1, 1]
        ended.clear()
        with pytest.raises(JobError, match="full"):
            await all_of([fail(), go_on()])
        assert ended == ["the other"]

    asyncio.run(story())


def test_result_of_a_process_that_is_known_to_be_dead_gives_its_slot_no_job() -> None:
    """The board shows the death before the result is read. A job sent now would reach the next process of the slot,
    whose hello says that it has none: it would run twice."""
    sent: list[int] = []

    async def send(slot: bytes, order: StartJob) -> None:
        sent.append(order.id)

    async def story() -> None:
        port = PoolPort(send, JobQueue(4), 1, Clock())
        await port.hello(PoolHello(1, 1))
        job = DigestSegments([])
        running = port.start(job)
        await asyncio.sleep(0)
        port.lost(1)
        await port.done(1, JobDone(sent[0], Digested(b"")))
        assert len(sent) == 1
        await port.hello(PoolHello(1, 2))
        assert sent == [sent[0]] * 2
        await port.done(1, JobDone(sent[0], Digested(b"")))
        assert await running == Digested(b"")

    asyncio.run(story())


def test_hellos_that_waited_with_a_job_are_no_sign_that_it_was_lost() -> None:
    """On a busy machine sync reads several hellos at once, and the pool reads its job late."""
    sent: list[StartJob] = []

    async def send(slot: bytes, order: StartJob) -> None:
        sent.append(order)

    async def story() -> None:
        port = PoolPort(send, JobQueue(4), 1, Clock())
        waiter = port.start(PackMetadata("", "", ""))
        now = time.monotonic()
        for late_s in (20, 15, 10, 5, 0):
            await port.hello(PoolHello(1, 1, now - late_s))
            await asyncio.sleep(0)
        assert len(sent) == 1
        for claim in range(LOST_AFTER_CLAIMS):
            assert len(sent) == 1
            await port.hello(PoolHello(1, 1, now + LOST_AFTER_S + 5 * claim + 1))
        assert [order.id for order in sent] == 2 * [sent[0].id], "it says for long that it has none"
        await port.done(1, JobDone(sent[0].id, Packed(13, 1)))
        assert (await waiter).size == 13

    asyncio.run(story())


def test_while_programs_ask_one_process_stays_free_of_long_jobs() -> None:
    """Long ones are those of syncs. A request that comes meanwhile begins at once."""
    sent: list[tuple[bytes, StartJob]] = []

    async def send(slot: bytes, order: StartJob) -> None:
        sent.append((slot, order))

    async def settle() -> list[str]:
        for _ in range(10):
            await asyncio.sleep(0)
        return [slot.decode() for slot, _ in sent]

    async def story() -> None:
        clock = FakeClock()
        port = PoolPort(send, JobQueue(40), 2, clock)
        for slot in (1, 2):
            await port.hello(PoolHello(slot, 1))
        request = asyncio.create_task(port.run(PackMetadata("", "", ""), lane="api"))
        assert await settle() == ["pool-1"]
        await port.done(1, JobDone(sent[0][1].id, Packed(1, 1)))
        await request
        clock.move(API_S - 1)
        syncs = [port.start(PackMetadata("", "", "")) for _ in range(4)]
        assert await settle() == ["pool-1", "pool-2"]
        clock.move(2)
        await port.hello(PoolHello(1, 1))
        assert await settle() == ["pool-1", "pool-2", "pool-1"], "nobody has asked for long enough"
        for one in syncs:
            one.cancel()
        await asyncio.gather(*syncs, return_exceptions=True)

    asyncio.run(story())


def test_while_programs_ask_a_job_that_does_not_end_holds_up_other_syncs_for_seconds_only() -> None:
    """The process that is free says so again and again."""
    sent: list[tuple[str, StartJob]] = []

    async def send(slot: bytes, order: StartJob) -> None:
        sent.append((slot.decode(), order))

    async def story() -> None:
        clock = FakeClock()
        port = PoolPort(send, JobQueue(40), 2, clock)
        for slot in (1, 2):
            await port.hello(PoolHello(slot, 1))
        request = asyncio.create_task(port.run(PackMetadata("", "", ""), lane="api"))
        await asyncio.sleep(0)
        await port.done(1, JobDone(sent[0][1].id, Packed(1, 1)))
        await request
        syncs = [port.start(PackMetadata("", "", "")) for _ in range(2)]
        await asyncio.sleep(0)
        for passed_s, at_work in ((0, ["pool-2"]), (OVERDUE_S, ["pool-2"]), (1, ["pool-2", "pool-1"])):
            clock.move(passed_s)
            await port.hello(PoolHello(1, 1))
            assert [slot for slot, _ in sent[1:]] == at_work
        for one in syncs:
            one.cancel()
        await asyncio.gather(*syncs, return_exceptions=True)

    asyncio.run(story())


@pytest.mark.parametrize("how", ["its time passes", "the process is free when its time has passed"])
def test_job_that_has_not_begun_in_time_never_does(how: str) -> None:
    """A change that an API asks for: nobody would know that it was made. One that has begun goes on."""
    sent: list[StartJob] = []

    async def send(slot: bytes, order: StartJob) -> None:
        sent.append(order)

    async def story() -> None:
        clock = Clock() if how == "its time passes" else FakeClock()
        port = PoolPort(send, JobQueue(4), 1, clock)
        await port.hello(PoolHello(1, 1))
        job = RunFunction("/r", Text(b"{}"), "/r/out", False, changes=True)
        begin_by = clock.monotonic() + 0.02
        begun, waits = (asyncio.create_task(port.run(job, lane="api", begin_by=begin_by)) for _ in range(2))
        await asyncio.sleep(0)
        if isinstance(clock, FakeClock):
            clock.move(1)
        else:
            with pytest.raises(JobError):
                await asyncio.wait_for(waits, 60)
        await port.done(1, JobDone(sent[0].id, FunctionDone(Text(b"done"))))
        await port.hello(PoolHello(1, 1))
        assert (await begun).answer == Text(b"done")
        with pytest.raises(JobError) as failure:
            await asyncio.wait_for(waits, 60)
        assert failure.value.kind == LATE
        assert len(sent) == 1

    asyncio.run(story())
