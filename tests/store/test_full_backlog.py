"""Clients of unix sockets whose server is busy and takes no connection for a while: they wait, as their time-outs
say."""

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clusterd.dapi.files import registration
from clusterd.dapi.files.registration import ask_authd
from clusterd.rundir import AUTH_SOCKET, HTTP_SOCKET, WDB_SOCKET
from clusterd.unix_connect import connect, connected
from clusterd.wdb.blocking import BlockingDatabase
from clusterd.wdb.client import Database, DatabaseError
from clusterd.wdb.stream import PREFIX_BYTES, frame


class BusyServer:
    """Takes no connection before `begin`, and its backlog is full. Then it answers one request on each."""

    def __init__(self, path: Path, answer: bytes, *, is_http: bool = False) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = str(path)
        self._answer = answer
        self._is_http = is_http
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(self.path)
        self._listening.listen(0)
        self._first = socket.socket(socket.AF_UNIX)
        self._first.connect(self.path)
        self._thread = threading.Thread(target=self._serve)

    def begin(self) -> None:
        if not self._thread.ident:
            self._thread.start()

    def close(self) -> None:
        self._first.close()
        if self._thread.ident:
            self._thread.join(60)
        self._listening.close()

    def _serve(self) -> None:
        self._listening.settimeout(60)
        self._first.close()
        for _ in range(2):  # the one that has filled it, and the one that waits
            client, _ = self._listening.accept()
            with client:
                client.settimeout(60)
                if self._is_http:
                    if client.recv(65536):
                        client.sendall(self._answer)
                elif prefix := client.recv(PREFIX_BYTES, socket.MSG_WAITALL):
                    client.recv(int.from_bytes(prefix, "little"), socket.MSG_WAITALL)
                    client.sendall(frame(self._answer))


@pytest.fixture
def database(tmp_path: Path) -> Iterator[BusyServer]:
    server = BusyServer(tmp_path / WDB_SOCKET, b'ok [{"n":1}]')
    yield server
    server.close()


def run(ask: Callable[[], Awaitable[object]], server: BusyServer) -> object:
    async def story() -> object:
        async with asyncio.timeout(60):
            asking = asyncio.ensure_future(ask())
            await asyncio.sleep(0)  # it has tried once
            server.begin()
            return await asking

    return asyncio.run(story())


def test_loop_waits_for_a_database_that_is_busy(tmp_path: Path, database: BusyServer) -> None:
    assert run(lambda: Database(str(tmp_path)).rows("select 1 as n", 60), database) == [{"n": 1}]


def test_database_that_takes_no_connection_in_time_is_away(tmp_path: Path, database: BusyServer) -> None:
    async def story() -> None:
        with pytest.raises(DatabaseError, match=r"2005.*takes no connection in time"):
            await Database(str(tmp_path)).rows("select 1 as n", 0.1)

    asyncio.run(story())


def test_reports_wait_for_a_database_that_is_busy_and_do_not_ask_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop asked without a pause: thousands of times in the time of this test."""
    server = BusyServer(tmp_path / HTTP_SOCKET, b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", is_http=True)
    tries = 0

    class Counted(socket.socket):
        def connect(self, address: Any) -> None:
            nonlocal tries
            tries += 1
            super().connect(address)

    async def story() -> None:
        asking = asyncio.ensure_future(Database(str(tmp_path)).report_again("x"))
        await asyncio.wait([asking], timeout=0.3)
        server.begin()
        async with asyncio.timeout(60):
            assert await asking == 0

    monkeypatch.setattr(socket, "socket", Counted)
    asyncio.run(story())
    assert 1 < tries < 100
    server.close()


def test_pool_process_waits_for_a_database_that_is_busy(tmp_path: Path, database: BusyServer) -> None:
    steps: list[None] = []

    def step() -> None:
        steps.append(None)
        if len(steps) > 1:  # the first is taken before it connects
            database.begin()

    with BlockingDatabase(str(tmp_path), step) as client:
        assert client.ask("global sql select 1 as n") == ("ok", b'[{"n":1}]')


def test_registration_waits_for_an_authd_that_is_busy(tmp_path: Path) -> None:
    server, steps = BusyServer(tmp_path / AUTH_SOCKET, b'{"error":0,"data":{"id":"001"}}'), list[None]()

    def step() -> None:
        steps.append(None)
        if len(steps) > 1:
            server.begin()

    assert list(ask_authd(str(tmp_path), "add", [{"name": "a"}], step)) == [{"id": "001"}]
    server.close()


def test_registrations_wait_for_an_authd_that_hangs_only_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registration, "TIMEOUT_S", 0.2)
    server, steps = BusyServer(tmp_path / AUTH_SOCKET, b""), list[None]()
    answers = list(ask_authd(str(tmp_path), "remove", [{"id": "001"}] * 100, lambda: steps.append(None)))
    assert [getattr(answer, "code", None) for answer in answers[:32]] == [1013] * 32
    assert len(answers) == 100
    assert len(steps) < 100, "a step is 20 ms of waiting for room, or an answer"
    server.close()


def test_connection_of_a_loop_is_waited_for_and_leaves_nothing_when_it_is_given_up(
    tmp_path: Path, database: BusyServer
) -> None:
    async def story() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await connected(database.path)

    asyncio.run(story())  # ResourceWarnings are errors


def test_wait_for_a_busy_server_ends(database: BusyServer) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(60)
        with pytest.raises(BlockingIOError):
            connect(client, database.path, 0.05)
