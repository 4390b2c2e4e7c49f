"""What the node tells systemd."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from clusterd.settings import ClusterBlock, Settings
from clusterd.supervisor.notify import Notifier
from clusterd.supervisor.status_line import StatusLine
from ipc.board import Board


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(path)
        listener.settimeout(60)
        yield path, listener


def test_ready_names_the_main_process(systemd: tuple[str, socket.socket]) -> None:
    path, listener = systemd
    notifier = Notifier({"NOTIFY_SOCKET": path}, os.getpid())
    notifier.ready("master m1")
    notifier.close()

    assert listener.recv(1000).decode().split("\n") == ["READY=1", "STATUS=master m1", f"MAINPID={os.getpid()}"]


def test_reload_and_stop_are_announced(systemd: tuple[str, socket.socket]) -> None:
    path, listener = systemd
    notifier = Notifier({"NOTIFY_SOCKET": path}, os.getpid())
    notifier.reloading()
    notifier.stopping("stopping")
    notifier.close()

    assert listener.recv(1000).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
    assert listener.recv(1000) == b"STOPPING=1\nSTATUS=stopping"


def test_status_line_has_the_verdict_as_soon_as_it_is_known(systemd: tuple[str, socket.socket], tmp_path: Path) -> None:
    path, listener = systemd
    board = Board.create(str(tmp_path / "board"))
    settings = Settings(str(tmp_path), cluster=ClusterBlock(name="wazuh", node_name="m1", node_type="master"))
    notifier = Notifier({"NOTIFY_SOCKET": path}, os.getpid())
    line = StatusLine(notifier, board)
    line.ready(settings)
    row = board.add_row("monitor")
    for number in (1, 0, 1, 1, 2, 3, 1):
        row.set("verdict", number)
        line.look(settings)  # the first one is of a process that is gone
        row.set_ready()
    row.set_down()
    line.look(settings)

    what = "STATUS=master m1 of cluster wazuh"
    assert listener.recv(1000).decode().split("\n")[1] == what
    told = [listener.recv(1000).decode() for _ in range(5)]
    notifier.close()
    suffix = ", see clusterd status"
    assert told == [f"{what}{word}" for word in (": OK", f": DEGRADED{suffix}", f": DOWN{suffix}", ": OK", "")]
    board.close()


def test_abstract_address_works() -> None:
    name = f"@clusterd-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0" + name[1:])
        listener.settimeout(60)
        notifier = Notifier({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "3000000"}, 7)
        notifier.alive()
        notifier.close()
        assert listener.recv(1000) == b"WATCHDOG=1"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"WATCHDOG_USEC": "60000000"}, 30.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "7"}, 30.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_watchdog_is_fed_twice_per_interval_and_only_if_it_watches_us(
    environment: dict[str, str], expected: float | None, systemd: tuple[str, socket.socket]
) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": systemd[0], **environment}, 7)
    assert notifier.watchdog_s == expected
    notifier.close()


def test_a_missing_listener_stops_nothing(tmp_path: Path) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone"), "WATCHDOG_USEC": "1000"}, os.getpid())
    notifier.ready("x")
    notifier.alive()
    notifier.close()


def test_without_systemd_there_is_no_socket() -> None:
    notifier = Notifier({}, os.getpid())
    assert notifier.fileno() is None
    notifier.alive()
    notifier.close()
