"""Frames through a connection without I/O: small echoes both ways, and a full chunk sealed and opened."""

import os

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from clusterd.wire.connection import Connection
from clusterd.wire.events import RequestReceived, ResponseReceived
from clusterd.wire.seal import Sealer

KEY = b"0123456789abcdef0123456789abcdef"
ROUNDS = 1000


def _echo(asker: Connection, answerer: Connection, payload: bytes) -> bytes:
    answer = b""
    for _ in range(ROUNDS):
        _, frames = asker.request("echo", payload, 0.0, 20.0)
        for frame in frames:
            for event in answerer.receive(frame):
                assert isinstance(event, RequestReceived)
                for back in answerer.respond(event.counter, "ok", event.payload):
                    for reply in asker.receive(back):
                        assert isinstance(reply, ResponseReceived)
                        answer = reply.payload
    return answer


@pytest.mark.benchmark(group="1000 echoes of 64 bytes")
def test_sealed(benchmark: BenchmarkFixture) -> None:
    payload = os.urandom(64)
    sealer = Sealer(KEY)
    ends = Connection("worker", sealer, counter_start=1), Connection("master", sealer, counter_start=1 << 31)
    assert benchmark(_echo, *ends, payload) == payload


@pytest.mark.benchmark(group="1000 echoes of 64 bytes")
def test_without_seal(benchmark: BenchmarkFixture) -> None:
    payload = os.urandom(64)
    ends = (
        Connection("local-client", None, counter_start=1),
        Connection("local-server", None, counter_start=1 << 31),
    )
    assert benchmark(_echo, *ends, payload) == payload


@pytest.mark.benchmark(group="a chunk of 5 MiB")
def test_seal(benchmark: BenchmarkFixture) -> None:
    sealer, plain = Sealer(KEY), os.urandom(5242880)
    assert len(benchmark(sealer.seal, plain)) == 6990604


@pytest.mark.benchmark(group="a chunk of 5 MiB")
def test_open(benchmark: BenchmarkFixture) -> None:
    sealer, plain = Sealer(KEY), os.urandom(5242880)
    assert benchmark(sealer.open, sealer.seal(plain)) == plain
