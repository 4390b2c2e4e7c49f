"""Both ends of the channel between net and sync survive the death of the other, and hear nothing of the dead after its
successor."""

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from clusterd.messages.manifest import SweepTemporary, Swept
from clusterd.messages.pool import JobDone, PoolHello, PoolToSync, StartJob, SyncToPool
from ipc.channel import DealerChannel, RouterChannel
from ipc.codec import Decoder
from ipc.errors import NoCredit
from tests.ipc.processes import Child, in_loop

NAME = b"pool-1"


def job(number: int, root: str = "/r") -> StartJob:
    return StartJob(number, SweepTemporary(root))


def make_router(path: Path, hwm: int = 10) -> RouterChannel[PoolToSync]:
    return RouterChannel(str(path), Decoder(PoolToSync), hwm)


def make_dealer(path: Path, hwm: int = 10) -> DealerChannel[SyncToPool]:
    return DealerChannel(str(path), NAME, Decoder(SyncToPool), hwm)


def answering_router(path: Path) -> Callable[[], None]:
    """A process that answers each hello with a job that has its pid for a number."""

    async def serve() -> None:
        router = make_router(path)
        while True:
            identity, message = await router.recv()
            if isinstance(message, PoolHello):
                await router.send(identity, job(os.getpid()))

    return lambda: in_loop(serve)


def test_a_dealer_works_again_when_its_router_was_killed_and_bound_again(tmp_path: Path) -> None:
    path = tmp_path / "s"

    async def work() -> None:
        dealer = make_dealer(path)
        for _ in range(3):
            with Child(answering_router(path)) as router:
                await dealer.send(PoolHello(1, 1))
                assert (await dealer.recv()).id == router.pid
        dealer.close()

    in_loop(work)


def test_a_successor_is_not_given_what_was_meant_for_the_dead_router(tmp_path: Path) -> None:
    """A dealer once kept up to its high-water mark for a dead sync, and the next one took it for news."""
    path = tmp_path / "s"

    async def never_reads() -> None:
        make_router(path, 5)
        await asyncio.sleep(60)

    async def work() -> None:
        with contextlib.closing(make_dealer(path, 5)) as dealer:
            with Child(lambda: in_loop(never_reads)):
                for _ in range(3):
                    await dealer.send(PoolHello(1, 1))
            with contextlib.closing(make_router(path)) as router:
                first = asyncio.create_task(router.recv())
                while not first.done():  # what is sent before the dealer has heard of the death is lost with the dead
                    await dealer.send(PoolHello(2, 2))
                    await asyncio.wait([first], timeout=0.2)
                received = [first.result()]
                with contextlib.suppress(TimeoutError):
                    while True:
                        received.append(await asyncio.wait_for(router.recv(), 0.2))
                assert all(one == (NAME, PoolHello(2, 2)) for one in received)

    in_loop(work)


@pytest.mark.parametrize("router_reads_meanwhile", [True, False])
def test_a_successor_takes_over_the_identity_of_a_killed_process(tmp_path: Path, router_reads_meanwhile: bool) -> None:
    """ZeroMQ hands out what the dead one had sent under an identity of its own making, after the successor's hello:
    sync once could take a result for one of the new process, or fall over the name."""
    path = tmp_path / "s"
    told, tells = os.pipe()

    def life(number: int) -> Callable[[], None]:
        async def run() -> None:
            dealer = make_dealer(path)
            await dealer.send(PoolHello(1, number))
            for done in range(5):
                await dealer.send(JobDone(done, Swept(number)))
            await asyncio.sleep(0.1)
            os.write(tells, b"x")
            answer = await dealer.recv()
            await dealer.send(JobDone(answer.id, Swept(100 + number)))
            await asyncio.sleep(60)

        return lambda: in_loop(run)

    async def work() -> None:
        router = make_router(path)
        seen = []
        with Child(life(1)):
            await asyncio.to_thread(os.read, told, 1)
            seen.append(await router.recv())
            if router_reads_meanwhile:
                seen += [await router.recv() for _ in range(5)]
        with Child(life(2)):
            await asyncio.to_thread(os.read, told, 1)
            with pytest.raises(NoCredit):
                # Whatever is sent makes ZeroMQ look at its connections, before the rest of the dead one's is read.
                await router.send(b"pool-2", job(1))
            while (NAME, PoolHello(1, 2)) not in seen:
                seen.append(await router.recv())
            hello = seen.index((NAME, PoolHello(1, 2)))
            await router.send(NAME, job(77))
            while (NAME, JobDone(77, Swept(102))) not in seen:
                seen.append(await router.recv())
        assert seen[hello:] == [
            (NAME, PoolHello(1, 2)),
            *((NAME, JobDone(done, Swept(2))) for done in range(5)),
            (NAME, JobDone(77, Swept(102))),
        ]
        router.close()

    in_loop(work)
    os.close(told)
    os.close(tells)


def test_a_sender_that_waits_for_room_learns_of_the_receivers_death(tmp_path: Path) -> None:
    path = tmp_path / "s"

    async def never_reads() -> None:
        await make_dealer(path).send(PoolHello(1, 1))
        await asyncio.sleep(60)

    async def work() -> None:
        sent = 0
        with contextlib.closing(make_router(path, 5)) as router, Child(lambda: in_loop(never_reads)) as child:
            await router.recv()

            async def flood() -> None:
                nonlocal sent
                while True:
                    await router.send(NAME, job(sent, "/" + "x" * 2000))
                    sent += 1

            flooding = asyncio.create_task(flood())
            before = -1
            while sent != before:
                before = sent
                await asyncio.sleep(0.1)
            child.kill()
            with pytest.raises(NoCredit, match="not connected"):  # or it would "take no messages", after ten seconds
                await flooding

    in_loop(work)
