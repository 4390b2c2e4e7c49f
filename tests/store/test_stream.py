"""Unix stream sockets of the store: what becomes of connections when they stop."""

import asyncio
import contextlib
import gc
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from clusterd.rounds import Rounds
from clusterd.store.stream import StreamServer


@pytest.mark.parametrize("turns", range(5))
@pytest.mark.parametrize("make_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_connection_that_comes_while_the_server_stops_is_closed(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    make_loop: Callable[[], asyncio.AbstractEventLoop],
    turns: int,
) -> None:
    """A socket that nobody closes is told of when it is collected, as one that has the path of the server."""
    path: Path = tmp_path_factory.mktemp("s") / "s"
    found: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda told: found.append(str(told.exc_value)))

    async def echo(payload: bytes) -> list[bytes]:
        return [payload]

    async def story() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, told: found.append(str(told)))
        server = StreamServer(str(path), echo, most=8, rounds=Rounds(lambda *_: None))
        server.start()
        await asyncio.sleep(0)
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as client:
            client.connect(str(path))
            for _ in range(turns):
                await asyncio.sleep(0)
            await server.stop()
            client.settimeout(60)
            with contextlib.suppress(ConnectionError):
                assert client.recv(1) == b"", "the other end hears of it"

    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(story())
    gc.collect()
    assert found == []
    assert not path.exists()


def test_socket_that_another_program_removes_at_once_is_not_kept(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path_factory.mktemp("s") / "s"
    made: list[socket.socket] = []

    def bound(name: str) -> socket.socket:
        made.append(socket.socket(socket.AF_UNIX))
        return made[0]

    monkeypatch.setattr("clusterd.store.stream.bind", bound)

    async def echo(payload: bytes) -> list[Any]:
        return [payload]

    async def story() -> None:
        server = StreamServer(str(path), echo, most=8, rounds=Rounds(lambda *_: None))
        with pytest.raises(FileNotFoundError):
            server.start()
        await server.stop()

    asyncio.run(story())
    assert made[0].fileno() == -1
