"""Sockets that outlive the processes which serve them: who connects while these change waits."""

import os
import socket
from pathlib import Path

import pytest

from clusterd.listening.doors import Doors


def listening(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    made = socket.socket(socket.AF_UNIX)
    made.bind(str(path))
    made.listen()
    return made


def ask(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(60)
    try:
        client.connect(str(path))
        client.sendall(b"question")
    except OSError:
        client.close()
        raise
    return client


def test_who_connects_while_nobody_serves_is_answered_by_whoever_does_next(tmp_path: Path) -> None:
    path, doors = tmp_path / "door", Doors()
    before = listening(path)
    early = ask(path)
    doors.keep([str(path), str(tmp_path / "served by nobody")])
    with before, early, before.accept()[0] as served:
        served.sendall(b"old")
        assert early.recv(9) == b"old", "what was connected before is not touched"
    with ask(path) as client:
        found = doors.inherited(str(path))
        assert found is not None
        with found.accept()[0] as served:
            served.sendall(b"new")
            assert client.recv(9) == b"new"
    assert path.stat().st_mode & 0o777 == 0o660
    # The processes that have this one serve who was there before, until they end.
    with os.fdopen(os.dup(found.fileno()), "rb", closefd=True):
        inode = path.stat().st_ino
        doors.keep([str(path)])
        assert path.stat().st_ino != inode
    again = doors.inherited(str(path))
    assert again is not None
    assert again is not found
    assert doors.inherited(str(tmp_path / "served by nobody")) is None
    assert doors.descriptors(str(path)) == ()
    assert len(doors.descriptors()) == 1
    doors.close()
    assert os.listdir(tmp_path) == []
    with pytest.raises(FileNotFoundError):
        ask(path)


def test_a_socket_of_another_program_is_left_alone(tmp_path: Path) -> None:
    path, doors = tmp_path / "door", Doors()
    listening(path).close()
    doors.keep([str(path)])
    with listening(path):
        assert doors.inherited(str(path)) is None
        doors.close()
        ask(path).close()
