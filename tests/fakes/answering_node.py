"""A node as commands see it: pid file, board, local socket. It answers what it was told, and nothing runs behind it."""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clusterd.pidfile import claim
from clusterd.rundir import board_path, local_socket, run_dir
from clusterd.wire.connection import Connection
from clusterd.wire.events import RequestReceived
from ipc.board import Board
from tests.dashboard.states import MIB, master, syncing

PROCESSES = ("supervisor", "net", "sync", "pool-1", "pool-0", "store", "monitor")


def busy_master(workers: int = 10) -> dict[str, Any]:
    """What sync answers on a master with one worker lost, one expected, one behind and one refused node."""
    now = time.time()
    status = master(workers)
    status["workers"][3] |= {"name": "東京-4", "state": "lost", "lost_s": 55.0, "why": "no answer for 12 s"}
    status["workers"][4] |= {"state": "expected"}
    keys = ("name", "address", "version", "program", "connected_at")
    status["peers"] = [
        {key: row[key] for key in keys} | {"kind": "worker", "keepalive_at": now - 3}
        for row in status["workers"]
        if row["state"] == "connected"
    ]
    why = 'its cluster is "wazu", ours is "wazuh": give both the same <name> in ossec.conf'
    status["refused"] = [
        {"name": "w99", "address": "10.0.0.99", "reason": why, "since": now - 60, "at": now - 1, "attempts": 7}
    ]
    status["syncs"] = syncing()["syncs"]
    status["results"]["w6"] |= {"result": "partly", "detail": "left out", "problems": {"etc/x\x1b[31m": "a\nb"}}
    status["results"]["w7"] |= {"lag_s": 95.0, "lag_files": 12}
    why = "it is mounted, so it cannot be replaced: unmount it, or mount its directory"
    status["left_out"] = {"w2": {"count": 3, "files": {"etc/rules/a name with spaces, mounted/local_rules.xml": why}}}
    status["clocks"] = {"w1": {"offset_s": 95.0, "off_by_s": 0.0}}
    status["manifest"]["root_digest"] = "ab" * 32
    status["agents"] |= {"groups_hash": "cd" * 20}
    status["spool"] = {"used": 1000, "limit": 1 << 30, "disk_free": 5 << 30, "disk_reserve": 1 << 30, "peers": {}}
    return status | {"ha": None, "jobs": None, "left_behind": []}


@contextlib.contextmanager
def answering_node(root: Path, answers: dict[str, Any]) -> Iterator[None]:
    """`answers`: by the command of the local socket, what is answered as JSON; or bytes, as they are."""
    for directory in (run_dir(str(root)), f"{root}/queue/cluster", f"{root}/etc"):
        Path(directory).mkdir(parents=True, exist_ok=True)
    pid_file, _ = claim(str(root))
    board = Board.create(board_path(str(root)))
    for name in PROCESSES:
        row = board.add_row(name)
        row.begin(os.getpid(), 1)
        row.set_ready()
        row.set_own_bytes(11 * MIB)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(local_socket(str(root)))
    listening.listen()
    serving = threading.Thread(target=_serve, args=(listening, answers))
    serving.start()
    try:
        yield
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        serving.join()
        listening.close()
        board.close()
        pid_file.remove()


def _serve(listening: socket.socket, answers: dict[str, Any]) -> None:
    while True:
        try:
            sock, _ = listening.accept()
        except OSError:
            return
        with sock, contextlib.suppress(OSError):
            connection = Connection("local-server", None, counter_start=7)
            while data := sock.recv(65536):
                for event in connection.receive(data):
                    if isinstance(event, RequestReceived):
                        known = event.command in answers
                        answer = answers[event.command] if known else b"unknown command"
                        answer = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                        for frame in connection.respond(event.counter, "ok" if known else "err", answer):
                            sock.sendall(frame)
