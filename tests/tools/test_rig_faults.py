"""A rig's link forwards like a cable, and like a cable it can be cut, go silent and be repaired."""

import asyncio
import contextlib
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest

from tools.rig.cluster_json import merged, scaled_intervals
from tools.rig.faults import LinkProcess, tell_link
from tools.rig.nodes import Rig, RigError
from tools.rig.peer import PeerError, StockMaster, StockWorker, wait_until
from tools.rig.ports import HOST, free_port

KEY = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def linked(tmp_path: Path) -> Iterator[tuple[StockMaster, StockWorker, Path]]:
    """A stock worker joined to a stock master through a link process of a rig."""
    for name in ("m", "w", "rig"):
        (tmp_path / name).mkdir()
    with StockMaster(tmp_path / "m", KEY) as master:
        rig = Rig(tmp_path / "rig")
        try:
            node = rig._link("w1", tmp_path / "w", master.port)
            assert node.link_control is not None
            with StockWorker((HOST, node.port), KEY, "w1", tmp_path / "w") as worker:
                worker.join()
                yield master, worker, node.link_control
        finally:
            rig.down()
            assert not rig.running()
            assert not rig.directory.exists()


@pytest.mark.slow
def test_link_carries_both_ways(linked: tuple[StockMaster, StockWorker, Path]) -> None:
    master, worker, control = linked
    assert worker.ask("echo", b"x" * 3_000_000).payload == b"x" * 3_000_000
    assert master.session("w1").link.ask("echo-m", b"y").payload == b"y"
    assert tell_link(control, "count") == 1


def test_cut_link_resets_and_refuses_until_mended(linked: tuple[StockMaster, StockWorker, Path]) -> None:
    master, worker, control = linked
    tell_link(control, "cut")
    assert worker.connection.link.closed.wait(60)
    wait_until(lambda: not master.sessions, 60, "the master sees it")
    with pytest.raises((PeerError, OSError)):
        worker.join()
    tell_link(control, "mend")
    worker.join()
    assert worker.keepalive() == b"keepalive"


def test_cut_meets_a_connection_that_is_being_made_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        dialled, go_on = asyncio.Event(), asyncio.Event()
        dial = asyncio.open_connection

        async def slowly(*where: Any) -> Any:
            dialled.set()
            await go_on.wait()
            return await dial(*where)

        async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError):
                await reader.read()
            writer.close()

        async with await asyncio.start_server(take, HOST, 0) as far:
            port = far.sockets[0].getsockname()[1]
            listener = socket.create_server((HOST, 0))
            link = asyncio.create_task(LinkProcess(listener, HOST, port).run(tmp_path / "control"))
            reader, writer = await dial(*listener.getsockname())
            monkeypatch.setattr(asyncio, "open_connection", slowly)
            async with asyncio.timeout(60):
                await dialled.wait()
                await asyncio.to_thread(tell_link, tmp_path / "control", "cut")
                go_on.set()
                with contextlib.suppress(ConnectionError):
                    assert await reader.read() == b""
            writer.close()
            link.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await link

    asyncio.run(story())


def test_silent_link_keeps_connections_and_loses_nothing(linked: tuple[StockMaster, StockWorker, Path]) -> None:
    _, worker, control = linked
    tell_link(control, "silence")
    with pytest.raises(PeerError, match="no answer"):
        worker.ask("echo", "lost?", timeout_s=0.2)
    assert not worker.connection.link.closed.is_set()
    tell_link(control, "mend")
    assert worker.keepalive() == b"keepalive"


def test_slow_link_takes_its_time_until_it_is_mended(linked: tuple[StockMaster, StockWorker, Path]) -> None:
    _, worker, control = linked
    tell_link(control, "slow", 2_000_000)
    before, began = tell_link(control, "carried"), time.monotonic()
    assert worker.ask("echo", b"x" * 1_500_000).payload == b"x" * 1_500_000
    slow_s = time.monotonic() - began
    assert slow_s > 1.0  # twice 2 MB sealed, one way behind the other
    assert 2_000_000 <= tell_link(control, "carried") - before < 2_100_000
    tell_link(control, "mend")

    def is_quicker() -> bool:
        began = time.monotonic()
        worker.ask("echo", b"x" * 1_500_000)
        return time.monotonic() - began < slow_s

    wait_until(is_quicker, 60, "an echo is quicker")


def test_reset_ends_the_other_end_too(tmp_path: Path) -> None:
    (tmp_path / "rig").mkdir()
    rig = Rig(tmp_path / "rig")
    try:
        with socket.create_server((HOST, 0)) as master:
            node = rig._link("w1", tmp_path / "w", master.getsockname()[1])
            with socket.create_connection((HOST, node.port), timeout=60) as worker:
                accepted, _ = master.accept()
                accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                accepted.close()  # as a killed process's socket with unread bytes
                with contextlib.suppress(ConnectionResetError):
                    assert not worker.recv(1)
    finally:
        rig.down()


def test_unknown_word_is_refused(linked: tuple[StockMaster, StockWorker, Path]) -> None:
    with pytest.raises(OSError, match="unknown command"):
        tell_link(linked[2], "explode")  # type: ignore[arg-type]
    with pytest.raises(OSError, match="unknown command"):
        tell_link(linked[2], "slow")


def test_free_port_is_free() -> None:
    with socket.create_server((HOST, free_port())) as listener:
        assert 20000 <= listener.getsockname()[1] < 32000


def test_two_processes_never_draw_the_same_port() -> None:
    """Neither a port that is drawn and not used yet, nor that of a node which is stopped for a while."""
    draw = "from tools.rig.ports import free_port; print(*(free_port() for _ in range(50)), flush=True); input()"
    others = [subprocess.Popen([sys.executable, "-c", draw], stdin=PIPE, stdout=PIPE, text=True) for _ in range(3)]
    drawn = [[free_port() for _ in range(50)]]
    for other in others:
        assert other.stdout is not None
        drawn.append([int(word) for word in other.stdout.readline().split()])
    for other in others:
        other.communicate("\n", timeout=60)
    assert len({port for ports in drawn for port in ports}) == sum(map(len, drawn)) == 200


def test_scaled_intervals_are_shorter_but_never_nothing() -> None:
    fast = scaled_intervals(0.1)["intervals"]
    assert fast["worker"]["sync_integrity"] == 0.9
    assert scaled_intervals(0.001)["intervals"]["master"]["recalculate_integrity"] == 0.2
    assert merged({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}, "d": 4}) == {"a": {"b": 3, "c": 2}, "d": 4}


def test_foreign_directory_is_never_taken_for_a_rig(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("ten years")
    with pytest.raises(RigError, match="not empty"):
        Rig.create(tmp_path, 1)
    with pytest.raises(RigError, match="no rig in"):
        Rig.load(tmp_path)
    assert (tmp_path / "thesis.txt").exists()
