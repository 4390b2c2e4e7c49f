"""Both ends of a channel survive the death of the other, and receive nothing of the dead process after its successor's
hello."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from clusterd.messages.manifest import SweepTemporary, Swept
from clusterd.messages.pool import JobDone, PoolHello, PoolToSync, StartJob, SyncToPool
from ipc.channel import DealerChannel, RouterChannel, WorkerSocket
from ipc.codec import Decoder
from ipc.errors import NoCredit
from tests.ipc.processes import Child, in_loop, until

NAME = b"pool-1"


def job(number: int, root: str = "/r") -> StartJob:
    return StartJob(number, SweepTemporary(root))


def make_router(path: Path, hwm: int = 10, *, announces: bool = False) -> RouterChannel[PoolToSync]:
    return RouterChannel(str(path), Decoder(PoolToSync), hwm, announces=announces)


def make_dealer(path: Path, hwm: int = 10) -> DealerChannel[SyncToPool]:
    return DealerChannel(str(path), NAME, Decoder(SyncToPool), hwm)


def make_worker(path: Path) -> WorkerSocket[SyncToPool]:
    return WorkerSocket(str(path), NAME, Decoder(SyncToPool))


def answering_router(path: Path, *, announces: bool = False) -> Callable[[], None]:
    """A process that answers each hello with a job whose number is its pid."""

    async def serve() -> None:
        router = make_router(path, announces=announces)
        while True:
            identity, message = await router.recv()
            if isinstance(message, PoolHello):
                await router.send(identity, job(os.getpid()))

    return lambda: in_loop(serve)


def test_a_worker_notices_that_its_router_was_killed_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"

    def ask() -> int:
        worker.send(PoolHello(1, 1))
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            message = worker.recv(10)
            if message is not None:
                return message.id
        raise AssertionError("no answer")

    with Child(answering_router(path, announces=True)) as first:
        worker = make_worker(path)
        assert worker.recv(10) is None
        assert worker.connections == 1
        assert ask() == first.pid
        first.kill()
    assert path.exists(), "the dead left its socket file, which must not hinder the next"
    for life in (2, 3):
        with Child(answering_router(path, announces=True)) as successor:
            # The wait ends at once, although it may last sixty seconds and no message has arrived.
            began = time.monotonic()
            assert worker.recv(60) is None
            assert time.monotonic() - began < 50
            assert worker.connections == life
            assert ask() == successor.pid
    worker.close()


def test_a_dealer_works_again_when_its_router_was_killed_and_bound_again(tmp_path: Path) -> None:
    path = tmp_path / "s"

    async def work() -> None:
        dealer = make_dealer(path)
        for _ in range(3):
            with Child(answering_router(path)) as router:
                answered = 0
                while answered != router.pid:  # what is sent before the end of the earlier one is noticed is lost
                    await dealer.send(PoolHello(1, 1))
                    with contextlib.suppress(TimeoutError):
                        answered = (await asyncio.wait_for(dealer.recv(), 1)).id
        dealer.close()

    in_loop(work)


def test_a_successor_is_not_given_what_was_meant_for_the_dead_router(tmp_path: Path) -> None:
    """A dealer once kept messages for a dead sync, up to its high-water mark, and the next sync took them for new
    ones."""
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


def test_a_dealer_is_not_given_the_orders_of_a_dead_router(tmp_path: Path) -> None:
    path = tmp_path / "s"
    told, tells = os.pipe()

    async def orders() -> None:
        router = make_router(path, announces=True)
        await router.recv()
        for number in range(3):
            await router.send(NAME, job(number))
        await asyncio.sleep(0.1)
        os.write(tells, b"x")
        await asyncio.sleep(60)

    worker = make_worker(path)
    with Child(lambda: in_loop(orders)):
        until(lambda: worker.recv(0.1) is None and worker.connections == 1)
        worker.send(PoolHello(1, 1))
        os.read(told, 1)
    with Child(answering_router(path, announces=True)) as successor:
        until(lambda: worker.recv(0.1) is None and worker.connections == 2)
        worker.send(PoolHello(1, 1))
        answer = None
        while answer is None:
            answer = worker.recv(10)
        assert answer.id == successor.pid
    worker.close()
    os.close(told)
    os.close(tells)


@pytest.mark.parametrize("router_reads_meanwhile", [True, False])
def test_a_successor_takes_over_the_identity_of_a_killed_process(tmp_path: Path, router_reads_meanwhile: bool) -> None:
    """ZeroMQ delivers what the dead process had sent, under an identity that it invents, after the successor's hello.
    Sync could once take a result for one of the new process, or fail on the name."""
    path = tmp_path / "s"
    told, tells = os.pipe()

    def life(number: int) -> Callable[[], None]:
        def run() -> None:
            worker = make_worker(path)
            worker.send(PoolHello(1, number))
            for done in range(5):
                worker.send(JobDone(done, Swept(number)))
            answer = None
            time.sleep(0.1)
            os.write(tells, b"x")
            while answer is None:
                answer = worker.recv(10)
            worker.send(JobDone(answer.id, Swept(100 + number)))
            signal.pause()

        return run

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
                # Any send makes ZeroMQ look at its connections, before the rest of the dead process's messages is read.
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

    def never_reads() -> None:
        worker = make_worker(path)
        worker.send(PoolHello(1, 1))
        signal.pause()

    async def work() -> None:
        sent = 0
        with contextlib.closing(make_router(path, 5)) as router, Child(never_reads) as child:
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


def test_a_signal_ends_a_workers_wait_only_by_raising(tmp_path: Path) -> None:
    """A pool process treats SIGTERM as an exception, SIGHUP as a note to itself."""

    class Stop(Exception):
        pass

    def stop(number: int, frame: object) -> None:
        raise Stop

    hups: list[int] = []
    worker = make_worker(tmp_path / "s")
    parent = os.getpid()

    def knock() -> None:
        time.sleep(0.1)
        os.kill(parent, signal.SIGUSR1)
        time.sleep(0.1)
        os.kill(parent, signal.SIGUSR2)

    old = signal.signal(signal.SIGUSR1, lambda number, frame: hups.append(number)), signal.signal(signal.SIGUSR2, stop)
    try:
        with Child(knock), pytest.raises(Stop):
            worker.recv(30)
        assert hups == [signal.SIGUSR1]
    finally:
        signal.signal(signal.SIGUSR1, old[0])
        signal.signal(signal.SIGUSR2, old[1])
        worker.close()


@pytest.mark.stress
def test_takeover_works_every_time(tmp_path: Path) -> None:
    path = tmp_path / "s"

    def hello() -> None:
        worker = make_worker(path)
        worker.send(PoolHello(1, os.getpid()))
        worker.recv(30)
        worker.send(JobDone(1, Swept(1)))
        signal.pause()

    async def work() -> None:
        router = make_router(path)
        for number in range(60):
            with Child(hello) as child:
                message = None
                while message != PoolHello(1, child.pid):
                    _, message = await router.recv()
                if number % 2:
                    await router.send(NAME, job(1))
        router.close()

    in_loop(work)
