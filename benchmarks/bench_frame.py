"""Frames through a connection without I/O: small echoes both ways, and a full chunk sealed and opened."""

import base64
import os
import struct

import pytest
from cryptography.fernet import Fernet
from pytest_benchmark.fixture import BenchmarkFixture

from clusterd.wire.connection import Connection
from clusterd.wire.events import RequestReceived, ResponseReceived
from clusterd.wire.seal import Sealer

KEY = b"0123456789abcdef0123456789abcdef"
ROUNDS = 1000
CHUNK = 5242880
SEALED = 6990604
PIECE = 262144


def _fernet() -> Fernet:
    return Fernet(base64.b64encode(KEY))


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


@pytest.mark.benchmark(group="1000 echoes of 64 bytes")
def test_limit_fernet_alone(benchmark: BenchmarkFixture) -> None:
    """Two messages for each echo, each sealed and opened, and nothing else."""
    payload, fernet = os.urandom(64), _fernet()

    def seal_and_open() -> bytes:
        opened = b""
        for _ in range(2 * ROUNDS):
            opened = fernet.decrypt(fernet.encrypt(payload))
        return opened

    assert benchmark(seal_and_open) == payload


@pytest.mark.benchmark(group="seal 5 MiB")
def test_seal(benchmark: BenchmarkFixture) -> None:
    sealer, plain = Sealer(KEY), os.urandom(CHUNK)
    assert len(benchmark(sealer.seal, plain)) == SEALED


@pytest.mark.benchmark(group="seal 5 MiB")
def test_limit_fernet_seals(benchmark: BenchmarkFixture) -> None:
    assert len(benchmark(_fernet().encrypt, os.urandom(CHUNK))) == SEALED


@pytest.mark.benchmark(group="open 5 MiB")
def test_open(benchmark: BenchmarkFixture) -> None:
    sealer, plain = Sealer(KEY), os.urandom(CHUNK)
    assert benchmark(sealer.open, sealer.seal(plain)) == plain


@pytest.mark.benchmark(group="open 5 MiB")
def test_limit_fernet_opens(benchmark: BenchmarkFixture) -> None:
    fernet, plain = _fernet(), os.urandom(CHUNK)
    assert benchmark(fernet.decrypt, fernet.encrypt(plain)) == plain


@pytest.mark.benchmark(group="parse 1000 frames of 1 KiB")
def test_parse(benchmark: BenchmarkFixture) -> None:
    """The side of the local socket, without a seal: only framing is left."""
    asker = Connection("local-client", None, counter_start=1)
    payload = os.urandom(1024)
    data = b"".join(frame for _ in range(ROUNDS) for frame in asker.request("echo", payload, 0.0, 20.0)[1])

    def parse() -> int:
        answerer = Connection("local-server", None, counter_start=1 << 31)
        found = 0
        for start in range(0, len(data), PIECE):
            for event in answerer.receive(data[start : start + PIECE]):
                assert isinstance(event, RequestReceived)
                found += len(event.payload)
        return found

    assert benchmark(parse) == ROUNDS * len(payload)


@pytest.mark.benchmark(group="parse 1000 frames of 1 KiB")
def test_limit_headers_and_slices(benchmark: BenchmarkFixture) -> None:
    header = struct.Struct("!2I12s")
    data = (header.pack(1, 1024, b"echo -------") + os.urandom(1024)) * ROUNDS

    def parse() -> int:
        at = found = 0
        while at < len(data):
            _, length, _ = header.unpack_from(data, at)
            found += len(data[at + header.size : at + header.size + length])
            at += header.size + length
        return found

    assert benchmark(parse) == ROUNDS * 1024
