"""The loops of net, store, pool and supervisor survive rounds that fail."""

import asyncio
import errno
import os
import socket
from pathlib import Path
from typing import Any, cast

import pytest

from clusterd.net.bridge import Bridge
from clusterd.pidfile import claim
from clusterd.rounds import Rounds
from clusterd.store import stream
from clusterd.store.private import PrivateDatabases, database_name
from clusterd.store.stream import StreamServer, remove_own
from clusterd.supervisor.family import Family


def test_a_failing_round_is_reported_once_until_it_works_again() -> None:
    said: list[tuple[str, str]] = []
    rounds = Rounds(lambda level, text: said.append((level, text)))
    for failure in (OSError(errno.EIO, "Input/output error"), OSError(errno.EIO, "other"), None, None, KeyError("x")):
        with rounds.survive("looking"):
            if failure is not None:
                raise failure
    assert [level for level, _ in said] == ["ERROR", "INFO", "ERROR"]
    assert said[0][1] == "looking: [Errno 5] Input/output error"
    assert said[2][1].startswith("looking: Unexpected failure: Traceback")


def test_cancelling_passes() -> None:
    with pytest.raises(asyncio.CancelledError), Rounds(lambda *_: None).survive("looking"):
        raise asyncio.CancelledError


def test_a_socket_goes_on_accepting_whatever_happens_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer(payload: bytes) -> list[bytes]:
        return [payload]

    async def story() -> None:
        said: list[str] = []
        path = str(tmp_path / "wdb")
        rounds = Rounds(lambda level, text: said.append(text))
        server = StreamServer(path, answer, most=1, rounds=rounds)
        accept, failures = stream._accepted, [OSError(errno.EPERM, "not now"), RuntimeError("nobody foresaw this")]

        async def failing(listening: socket.socket) -> Any:
            if failures:
                raise failures.pop(0)
            return await accept(listening)

        monkeypatch.setattr(stream, "_accepted", failing)
        server.start()
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write((2).to_bytes(4, "little") + b"hi")
        async with asyncio.timeout(30):
            assert await reader.readexactly(6) == (2).to_bytes(4, "little") + b"hi"
        writer.close()
        await server.stop()
        assert said == ["connections to wdb: [Errno 1] not now", "connections to wdb: works again"]

    asyncio.run(story())


def test_a_child_is_replaced_although_the_reason_of_its_end_is_unknown(tmp_path: Path) -> None:
    """A failure while the supervisor looks at one child does not keep it from looking at the others."""
    looked: list[str] = []
    said: list[str] = []
    family = object.__new__(Family)
    family._rounds = Rounds(lambda level, text: said.append(text))

    class Slot:
        def __init__(self, name: str) -> None:
            self.spec = type("Spec", (), {"name": name})

    def look_at(slot: Any, now: float) -> None:
        looked.append(slot.spec.name)
        if slot.spec.name == "net":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    family._slots = cast(Any, [Slot("net"), Slot("sync")])
    family._look_at = look_at  # type: ignore[method-assign]
    family.look(1.0)
    family.look(2.0)
    assert looked == ["net", "sync"] * 2
    assert said == ["looking after net: [Errno 30] Read-only file system"]


def test_net_goes_on_reading_after_a_message_that_raises() -> None:
    async def story() -> None:
        said: list[str] = []
        handled: list[int] = []
        incoming: asyncio.Queue[int] = asyncio.Queue()
        bridge = cast(Any, object.__new__(Bridge))
        bridge._channel = type("Channel", (), {"recv": staticmethod(incoming.get)})
        meter = type("Meter", (), {"worked": staticmethod(lambda began: None)})
        bridge._context = type("Context", (), {"rounds": Rounds(lambda _, text: said.append(text)), "meter": meter})

        def handle(message: int) -> None:
            handled.append(message)
            if message == 1:
                raise OSError(errno.EIO, "broken")

        bridge.handle = handle
        running = asyncio.create_task(bridge.receive_all())
        for number in (1, 2):
            incoming.put_nowait(number)
        async with asyncio.timeout(30):
            while len(handled) < 2:
                await asyncio.sleep(0.001)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert said == ["messages of sync: [Errno 5] broken", "messages of sync: works again"]

    asyncio.run(story())


def test_an_end_is_an_end_although_a_file_could_not_be_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cleaning up a socket, a pid file and an agent's own database."""

    def refuse(path: Any, **_: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)

    (tmp_path / "var/run").mkdir(parents=True)
    private = PrivateDatabases(str(tmp_path), "4.14.1")
    database = tmp_path / "queue/db" / database_name(1)
    database.parent.mkdir(parents=True)
    database.touch()
    pid_file, _ = claim(str(tmp_path))
    monkeypatch.setattr(os, "unlink", refuse)
    monkeypatch.setattr(Path, "unlink", lambda path, **_: refuse(path))
    private.unlink(1)
    remove_own(str(database), database.stat().st_ino)
    pid_file.remove()
    assert database.exists()
