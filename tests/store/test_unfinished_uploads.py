"""Reports that the database's HTTP server does not take whole: it hangs, or has refused them before it hung up."""

import asyncio
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from clusterd.rundir import HTTP_SOCKET
from clusterd.wdb.client import Database, DatabaseError

SIZE = 4 * 1024 * 1024
"""More than the socket holds."""


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[socket.socket]:
    path = tmp_path / HTTP_SOCKET
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen(8)
        server.settimeout(60)
        yield server


def sockets() -> set[str]:
    """Those that this process has open."""
    found = set()
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink(f"/proc/self/fd/{descriptor}"))
        except FileNotFoundError:  # of the directory itself
            continue
    return {one for one in found if one.startswith("socket:")}


def upload(root: Path, timeout_s: float) -> tuple[DatabaseError, set[str]]:
    """Returns how the upload of a large report fails, and the sockets that are left of it."""
    report = root / "report"
    report.write_bytes(b" " * SIZE)

    async def story() -> tuple[DatabaseError, set[str]]:
        database = Database(str(root))
        before = sockets()
        with pytest.raises(DatabaseError) as failure:
            await database.merge(str(report), SIZE, timeout_s)
        left = sockets() - before
        await database.close()
        return failure.value, left

    return asyncio.run(story())


def test_upload_to_a_database_that_hangs_leaves_no_connection(tmp_path: Path, listening: socket.socket) -> None:
    """Each that was given up stayed open, with a quarter of a MiB, until the database took it: a night of them."""
    failure, left = upload(tmp_path, 0.3)
    assert failure.code == 2014
    assert not left


def test_refusal_is_heard_though_the_server_hangs_up_before_it_has_the_whole_report(
    tmp_path: Path, listening: socket.socket
) -> None:
    """It was taken for a database that is away."""

    def refuse() -> None:
        client, _ = listening.accept()
        with client:
            client.recv(1024)
            client.sendall(b"HTTP/1.1 413 Payload Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    server = threading.Thread(target=refuse)
    server.start()
    failure, _ = upload(tmp_path, 60)
    server.join(60)
    assert failure.code == 2012
    assert "status 413" in str(failure)
