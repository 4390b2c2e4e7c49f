"""A program that asks a master for `echo-c` over a connection of its own, until its input ends; prints the times as
JSON.

It stands for a node on another machine: a process of its own, with real-time priority where that is permitted, so that
the times are those of the master and not its own waits for one of the cores that all nodes of a rig share. Arguments:
host, port, cluster name, pause in ms; the key comes in CLUSTERD_KEY.
"""

import contextlib
import json
import os
import select
import socket
import sys
import time

from tools.rig.peer_frames import build_frames

_HEADER_BYTES = 20


def _answered(sock: socket.socket, frame: bytes, command: bytes) -> None:
    """Send a frame and read the answer; raises ConnectionError on a closed connection or another command."""
    sock.sendall(frame)
    have = bytearray()
    while len(have) < _HEADER_BYTES or len(have) < _HEADER_BYTES + int.from_bytes(have[4:8], "big"):
        piece = sock.recv(65536)
        if not piece:
            raise ConnectionError("the master closed the connection")
        have += piece
    if not have[8:].startswith(command + b" "):
        raise ConnectionError(f"the master answered {bytes(have[8:19])!r}")


def ask(sock: socket.socket, frame: bytes) -> None:
    """One echo and its answer; raises ConnectionError."""
    _answered(sock, frame, b"ok-m")


def dial(host: str, port: int, cluster: str) -> tuple[socket.socket, bytes]:
    """A connection that has said hello as worker `echoes`, and the frame of one echo, sealed once and sent again and
    again."""
    key = os.environ["CLUSTERD_KEY"]
    sock = socket.create_connection((host, port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    (hello,) = build_frames(b"hello", 1, f"echoes {cluster} worker 4.14.1".encode(), key)
    _answered(sock, hello, b"ok")
    (frame,) = build_frames(b"echo-c", 2, b"keepalive", key)
    return sock, frame


def main(host: str, port: str, cluster: str, pause_ms: str) -> int:
    with contextlib.suppress(PermissionError):  # needs root; without it the times hold some waits of our own
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    sock, frame = dial(host, int(port), cluster)
    times: list[float] = []
    print("ready", flush=True)
    while not select.select([sys.stdin], [], [], float(pause_ms) / 1000)[0]:
        began = time.perf_counter()
        ask(sock, frame)
        times.append(time.perf_counter() - began)
    print(json.dumps(times))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
