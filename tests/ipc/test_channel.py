"""Channels: nothing is dropped silently, and both sides survive the other's death."""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import uvloop

from ipc.channel import DealerChannel, RouterChannel, WorkerSocket
from ipc.codec import Decoder, encode
from ipc.errors import BadMessage, NoCredit
from ipc.messages import JobDone, PoolHello, PoolToSync, StartJob, Swept, SweepTemporary, SyncToPool


def in_loop(work: Callable[[], Awaitable[None]]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work())


def test_a_message_arrives_as_it_was_sent_and_both_directions_work(tmp_path: Path) -> None:
    path = str(tmp_path / "s")

    async def work() -> None:
        router = RouterChannel(path, Decoder(PoolToSync), 10)
        dealer = DealerChannel(path, b"pool-1", Decoder(SyncToPool), 10)
        await dealer.send(PoolHello(1, 7))
        assert await router.recv() == (b"pool-1", PoolHello(1, 7))
        await router.send(b"pool-1", StartJob(3, SweepTemporary("/r")))
        assert await dealer.recv() == StartJob(3, SweepTemporary("/r"))
        dealer.close()
        router.close()

    in_loop(work)
    assert not Path(path).exists()


def test_bytes_that_are_no_message_are_reported_and_the_channel_goes_on(tmp_path: Path) -> None:
    async def work() -> None:
        router = RouterChannel(str(tmp_path / "s"), Decoder(PoolToSync), 10)
        dealer = DealerChannel(str(tmp_path / "s"), b"x", Decoder(SyncToPool), 10)
        await dealer.send(StartJob(1, SweepTemporary("/r")))
        await dealer.send(PoolHello(1, 1))
        with pytest.raises(BadMessage):
            await router.recv()
        assert (await router.recv())[1] == PoolHello(1, 1)
        dealer.close()
        router.close()

    in_loop(work)


def test_a_message_to_nobody_is_refused(tmp_path: Path) -> None:
    async def work() -> None:
        router = RouterChannel(str(tmp_path / "s"), Decoder(PoolToSync), 10)
        with pytest.raises(NoCredit):
            await router.send(b"pool-9", StartJob(1, SweepTemporary("/r")))
        router.close()

    in_loop(work)


def test_a_slow_receiver_slows_its_sender_and_loses_nothing(tmp_path: Path) -> None:
    async def work() -> None:
        router = RouterChannel(str(tmp_path / "s"), Decoder(PoolToSync), 5)
        dealer = DealerChannel(str(tmp_path / "s"), b"pool-1", Decoder(SyncToPool), 5)
        await dealer.send(PoolHello(1, 1))
        await router.recv()
        sent = 0

        async def flood() -> None:
            nonlocal sent
            for number in range(3000):
                await router.send(b"pool-1", StartJob(number, SweepTemporary("/" + "x" * 2000)))
                sent += 1

        flooding = asyncio.create_task(flood())
        before = -1
        while sent != before:
            before = sent
            await asyncio.sleep(0.05)
        assert sent < 3000
        received = [await dealer.recv() for _ in range(3000)]
        await flooding
        assert [message.id for message in received] == list(range(3000))
        dealer.close()
        router.close()

    in_loop(work)


def _fork(work: Callable[[], Awaitable[None]]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            in_loop(work)
        finally:
            os._exit(0)
    return pid


def test_a_worker_is_heard_again_by_the_successor_of_a_killed_router(tmp_path: Path) -> None:
    path = str(tmp_path / "s")

    async def serve() -> None:
        router = RouterChannel(path, Decoder(PoolToSync), 10)
        while True:
            identity, message = await router.recv()
            if isinstance(message, PoolHello):
                await router.send(identity, StartJob(os.getpid(), SweepTemporary("/r")))

    def ask(worker: "WorkerSocket[StartJob]", life: int) -> int:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            worker.send(PoolHello(1, life))
            message = worker.recv(0.2)
            if message is not None:
                return message.id
        raise AssertionError("no answer")

    first = _fork(serve)
    worker: WorkerSocket[StartJob] = WorkerSocket(path, b"pool-1", Decoder(SyncToPool))
    second = 0
    try:
        assert ask(worker, 1) == first
        os.kill(first, signal.SIGKILL)
        os.waitpid(first, 0)
        second = _fork(serve)
        deadline = time.monotonic() + 20
        while ask(worker, 1) != second:
            assert time.monotonic() < deadline
    finally:
        worker.close()
        for pid in (first, second):
            if pid:
                try:
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                except (ProcessLookupError, ChildProcessError):
                    continue


def test_a_successor_takes_over_the_identity_of_its_predecessor(tmp_path: Path) -> None:
    async def work() -> None:
        router = RouterChannel(str(tmp_path / "s"), Decoder(PoolToSync), 10)
        old = DealerChannel(str(tmp_path / "s"), b"pool-1", Decoder(SyncToPool), 10)
        await old.send(PoolHello(1, 1))
        await router.recv()
        new = DealerChannel(str(tmp_path / "s"), b"pool-1", Decoder(SyncToPool), 10)
        await new.send(PoolHello(1, 2))
        assert (await router.recv())[1] == PoolHello(1, 2)
        await router.send(b"pool-1", StartJob(5, SweepTemporary("/r")))
        assert (await new.recv()).id == 5
        for channel in (old, new):
            channel.close()
        router.close()

    in_loop(work)


def test_a_stale_socket_file_does_not_hinder_a_start(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("stale")

    async def work() -> None:
        RouterChannel(str(path), Decoder(PoolToSync), 10).close()

    in_loop(work)


def test_results_survive_the_codec() -> None:
    assert Decoder(PoolToSync).decode(encode(JobDone(1, Swept(4)))) == JobDone(1, Swept(4))
