"""A message to a pool process and its answer, over our channels and typed, compared with its limit: bare ZeroMQ over
ipc://. Both with the other end in a forked process."""

import asyncio
import os
from pathlib import Path

import pytest
import uvloop
import zmq
from pytest_benchmark.fixture import BenchmarkFixture

from clusterd.messages.manifest import SweepTemporary
from clusterd.messages.pool import PoolHello, PoolToSync, StartJob, SyncToPool
from ipc.channel import RouterChannel, WorkerSocket
from ipc.codec import Decoder
from tests.ipc.processes import Child

ROUNDS = 500
GROUP = "500 round trips"
NAME = b"pool-1"


def _answer(path: str) -> None:
    socket: WorkerSocket[SyncToPool] = WorkerSocket(path, NAME, Decoder(SyncToPool))
    socket.send(PoolHello(0, os.getpid()))
    while True:
        message = socket.recv(1.0)
        if isinstance(message, StartJob):
            socket.send(PoolHello(message.id, os.getpid()))


@pytest.mark.benchmark(group=GROUP)
def test_channel(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, Child(lambda: _answer(path)) as child:

        async def connect() -> RouterChannel[PoolToSync]:
            made: RouterChannel[PoolToSync] = RouterChannel(path, Decoder(PoolToSync), 10)
            assert (await made.recv())[1] == PoolHello(0, child.pid)
            return made

        router = runner.run(connect())

        async def ping() -> int:
            last = 0
            for number in range(ROUNDS):
                await router.send(NAME, StartJob(number, SweepTemporary("/r")))
                _, answer = await router.recv()
                assert isinstance(answer, PoolHello)
                last = answer.slot
            return last

        assert benchmark(lambda: runner.run(ping())) == ROUNDS - 1

        async def close() -> None:
            router.close()

        child.kill()
        runner.run(close())


def _bounce(path: str) -> None:
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.connect(f"ipc://{path}")
        while True:
            socket.send(socket.recv())


@pytest.mark.benchmark(group=GROUP)
def test_limit_bare_zmq(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with Child(lambda: _bounce(path)) as child:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        socket = context.socket(zmq.DEALER)
        socket.set(zmq.LINGER, 0)
        socket.bind(f"ipc://{path}")

        def ping() -> bytes:
            answer = b""
            for _ in range(ROUNDS):
                socket.send(b"x" * 32)
                answer = socket.recv()
            return answer

        assert benchmark(ping) == b"x" * 32
        child.kill()
        socket.close(0)
        context.term()
