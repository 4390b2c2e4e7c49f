"""The store as a process: its sockets, what it refuses, what a kill leaves."""

import asyncio
import contextlib
import json
import os
import re
import socket
import sqlite3
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import clusterd.store.process
from clusterd.agent_keys import registered_ids
from clusterd.logs import Log
from clusterd.rounds import Rounds
from clusterd.rundir import AUTH_SOCKET, HTTP_SOCKET, STORE_SOCKETS, WDB_SOCKET, board_path
from clusterd.settings import Clusterd, Settings
from clusterd.store import schema
from clusterd.store.choice import choose
from clusterd.store.stream import StreamServer
from ipc.board import Board
from tests.store.lone_store import LoneStore, lone_settings, lone_store
from tools.rig.patience import Patience


class Client:
    """A connection to the wdb socket."""

    def __init__(self, root: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(root / WDB_SOCKET))  # with a timeout it would fail where the listen queue is full
        self.socket.settimeout(60)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def ask(self, request: str) -> str:
        self.socket.sendall(struct.pack("<I", len(request.encode())) + request.encode())
        head = self.socket.recv(4, socket.MSG_WAITALL)
        return self.socket.recv(struct.unpack("<I", head)[0], socket.MSG_WAITALL).decode()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LoneStore]:
    with lone_store(tmp_path) as running:
        yield running


def add_agent(client: Client, agent_id: int) -> None:
    assert client.ask(f'global insert-agent {{"id":{agent_id},"name":"a{agent_id}","date_add":1}}') == "ok"


def test_sockets_are_for_owner_and_group(store: LoneStore) -> None:
    assert [oct((store.root / name).stat().st_mode & 0o777) for name in STORE_SOCKETS] == ["0o660"] * 3


@pytest.mark.slow
def test_every_answered_write_survives_a_kill(store: LoneStore) -> None:
    answered: list[int] = []

    def write(first: int) -> None:
        try:
            with Client(store.root) as client:
                for agent_id in range(first, first + 100_000):
                    add_agent(client, agent_id)
                    answered.append(agent_id)
        except (OSError, struct.error, AssertionError):
            return

    writers = [threading.Thread(target=write, args=(1 + n * 1_000_000,)) for n in range(4)]
    for writer in writers:
        writer.start()
    patience = Patience(60)
    while len(answered) < 500 and not patience.is_over():
        time.sleep(0.01)
    store.kill()
    for writer in writers:
        writer.join(60)
    assert len(answered) >= 500
    store.restart()
    with Client(store.root) as client:
        for agent_id in answered:
            assert client.ask(f"global select-agent-name {agent_id}") == f'ok [{{"name":"a{agent_id}"}}]'
        assert client.ask("global sql pragma user_version").startswith("ok")


def test_other_connections_see_a_write_at_once(store: LoneStore) -> None:
    with Client(store.root) as one, Client(store.root) as other:
        for agent_id in range(1, 100):
            add_agent(one, agent_id)
            assert other.ask("global sql select count(*) as n from agent where id > 0") == f'ok [{{"n":{agent_id}}}]'


@pytest.mark.slow
def test_long_report_does_not_stop_keepalives(store: LoneStore) -> None:
    with Client(store.root) as client:
        client.ask(
            "global sql with recursive n(i) as (select 1 union all select i + 1 from n where i < 20000)"
            " insert into agent (id, name, date_add) select i, 'a' || i, 1 from n"
        )
    element = {"version": "v", "connection_status": "active", "group_config_status": "synced", "name": "n"}
    body = json.dumps({"syncreq": [{"id": n, **element} for n in range(1, 20001)]}).encode()
    done = threading.Event()

    def report() -> None:
        with socket.socket(socket.AF_UNIX) as http:
            http.connect(str(store.root / HTTP_SOCKET))
            head = f"POST /v1/agents/sync HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
            http.sendall(head.encode() + body)
            assert http.recv(65536).startswith(b"HTTP/1.1 200")
            done.set()

    thread = threading.Thread(target=report)
    thread.start()
    merged = set()
    with Client(store.root) as client:
        while not done.is_set():
            client.ask('global update-keepalive {"id":5,"connection_status":"active","sync_status":"synced"}')
            merged.add(client.ask("global sql select count(*) as n from agent where version = 'v'"))
    thread.join()
    # The keepalives saw none of the rows, all of them, and at least three numbers in between.
    assert len(merged) >= 5


def test_live_socket_of_another_program_is_not_taken(tmp_path: Path) -> None:
    for name in STORE_SOCKETS:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / HTTP_SOCKET))
        other.listen()
        inode = os.stat(tmp_path / HTTP_SOCKET).st_ino
        with lone_store(tmp_path) as store:
            assert re.search(r"wdb-http\.sock is served by another program.*clusterd\.store to off", store.log)
        assert os.stat(tmp_path / HTTP_SOCKET).st_ino == inode
        assert not (tmp_path / WDB_SOCKET).exists()


def ask_authd(root: Path, function: str, **arguments: str) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(root / AUTH_SOCKET))
        request = json.dumps({"function": function, "arguments": arguments}).encode()
        client.sendall(struct.pack("<I", len(request)) + request)
        size = struct.unpack("<I", client.recv(4, socket.MSG_WAITALL))[0]
        answer: dict[str, Any] = json.loads(client.recv(size, socket.MSG_WAITALL))
        return answer


@pytest.mark.slow
def test_row_of_a_removed_agent_goes_as_soon_as_the_database_takes_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key is gone, and who asked was told to ask again; nobody does, and the store is not restarted."""
    monkeypatch.setattr(schema, "BUSY_MS", 100)
    lone_settings(tmp_path)
    (tmp_path / "etc/client.keys").write_text(f"001 web any {'k' * 64}\n")
    with lone_store(tmp_path) as store, Client(tmp_path) as client:
        assert client.ask("global select-agent-name 1") == 'ok [{"name":"web"}]'
        with contextlib.closing(sqlite3.connect(tmp_path / schema.DATABASE, isolation_level=None)) as other:
            other.execute("begin immediate")
            answer = ask_authd(tmp_path, "remove", id="001")
            assert (answer["error"], "ask again" in answer["message"]) == (9009, True)
            assert registered_ids((tmp_path / "etc/client.keys").read_text()) == []
            assert "stay in the database for now" in store.log
            other.execute("rollback")
        patience = Patience(60)
        while client.ask("global select-agent-name 1") != "ok []":
            assert not patience.is_over(), store.log
            patience.rest(0.05)


def test_store_that_tries_again_leaves_nothing_of_what_it_tried_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every 5 s for as long as another program has the socket of authd: a task that stays keeps its whole database."""
    monkeypatch.setattr(clusterd.store.process, "RETRY_S", 0.01)
    settings = lone_settings(tmp_path)
    board = Board.create(board_path(settings.root))
    board.add_row("store")
    log = Log(f"{settings.root}/logs/cluster.log", 0, "text")

    async def story() -> int:
        path = Path(settings.root, AUTH_SOCKET)
        tried = asyncio.Semaphore(0)

        def connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            tried.release()
            writer.close()

        other = await asyncio.start_unix_server(connected, path)
        process = clusterd.store.process._StoreProcess(settings, board, log)
        running = asyncio.create_task(process.run())
        async with asyncio.timeout(120):
            for _ in range(4):
                await tried.acquire()
        left = [task for task in asyncio.all_tasks() if getattr(task.get_coro(), "__qualname__", "") == "Authd.run"]
        other.close()
        process._stop.set()
        assert await running == 0
        return len(left)

    assert asyncio.run(story()) <= 1


def test_store_that_is_told_to_end_while_it_opens_a_large_database_begins_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a change of role the supervisor has made a new socket for the next process by then: this one called that
    another program's, and an operator looked for it."""
    settings = lone_settings(tmp_path)
    board = Board.create(board_path(settings.root))
    board.add_row("store")
    log = Log(f"{settings.root}/logs/cluster.log", 0, "text")

    async def story() -> int:
        other = await asyncio.start_unix_server(lambda reader, writer: writer.close(), Path(settings.root, WDB_SOCKET))
        process = clusterd.store.process._StoreProcess(settings, board, log)
        prepare = schema.prepare

        def prepare_slowly(*given: Any, **options: Any) -> None:
            prepare(*given, **options)
            process._stop.set()

        monkeypatch.setattr(schema, "prepare", prepare_slowly)
        async with asyncio.timeout(120):
            ended = await process.run()
        other.close()
        return ended

    assert asyncio.run(story()) == 0
    path = Path(settings.root, "logs/cluster.log")
    assert not path.exists() or "another program" not in path.read_text()


def test_dead_socket_is_replaced(tmp_path: Path) -> None:
    with lone_store(tmp_path) as store:
        store.kill()
        assert (tmp_path / WDB_SOCKET).exists()
        store.restart()
        with Client(tmp_path) as client:
            assert client.ask("global select-groups") == 'ok [{"name":"default"}]'


def test_silent_client_of_authd_is_disconnected(store: LoneStore) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(60)
        client.connect(str(store.root / "queue/sockets/auth"))
        assert client.recv(1) == b""


def test_many_idle_connections_leave_room_for_others(tmp_path: Path) -> None:
    idle = []
    with lone_store(tmp_path) as store:
        try:
            for _ in range(300):
                client = socket.socket(socket.AF_UNIX)
                client.connect(str(store.root / WDB_SOCKET))
                idle.append(client)
            with Client(store.root) as client:
                assert client.ask("global select-groups").startswith("ok")
        finally:
            for client in idle:
                client.close()


def test_a_client_that_never_reads_its_answer_does_not_keep_the_store_from_ending(tmp_path: Path) -> None:
    asyncio.run(_never_reads(tmp_path))


async def _never_reads(directory: Path) -> None:
    is_asked = asyncio.Event()

    async def long_answer(payload: bytes) -> list[bytes]:
        is_asked.set()
        return [b"x" * 65_000] * 100

    path = str(directory / "socket")
    server = StreamServer(path, long_answer, most=8, rounds=Rounds(lambda level, text: None))
    server.start()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        client.sendall(struct.pack("<I", 3) + b"any")
        async with asyncio.timeout(60):
            await is_asked.wait()
            await asyncio.sleep(0)
            await server.stop()


def test_one_process_leaves_half_of_the_connections_to_others(tmp_path: Path) -> None:
    asyncio.run(_one_process(tmp_path))


async def _one_process(directory: Path) -> None:
    async def echo(payload: bytes) -> list[bytes]:
        return [payload]

    path = str(directory / "socket")
    server = StreamServer(path, echo, most=8, rounds=Rounds(lambda level, text: None))
    server.start()
    try:
        clients = [await asyncio.open_unix_connection(path) for _ in range(5)]
        assert await clients[4][0].read() == b""
        clients[0][1].close()
        while server.connections > 3:
            await asyncio.sleep(0.005)
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"\x01\0\0\0x")
        assert await reader.readexactly(5) == b"\x01\0\0\0x"
        for _, one in [*clients[1:], (reader, writer)]:
            one.close()
    finally:
        await server.stop()


# ---- whether there is a store ----------------------------------------------------------------------------------------


def settings(root: Path, store: str) -> Settings:
    return Settings(root=str(root), clusterd=Clusterd(store=store))  # type: ignore[arg-type]


def test_choice_is_auto_unless_something_else_is_there(tmp_path: Path) -> None:
    assert choose(settings(tmp_path, "auto")).serves
    assert choose(settings(tmp_path, "on")).serves
    assert not choose(settings(tmp_path, "off")).serves
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/wazuh-db").write_text("")
    assert not choose(settings(tmp_path, "auto")).serves
    assert choose(settings(tmp_path, "on")).serves


def test_choice_leaves_a_live_socket_alone(tmp_path: Path) -> None:
    path = tmp_path / WDB_SOCKET
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        assert choose(settings(tmp_path, "auto")).serves
        other.listen()
        assert not choose(settings(tmp_path, "auto")).serves
        problem = choose(settings(tmp_path, "on")).problem
        assert WDB_SOCKET in problem
        assert "clusterd.store" in problem
    assert choose(settings(tmp_path, "on")).problem == ""
