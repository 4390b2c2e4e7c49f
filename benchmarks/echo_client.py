"""A program that asks a master for `echo-c` over a connection of its own, until its input ends; prints the times as JSON.

It is a process of its own, so that nothing but the master and the machine delay it. Arguments: host, port, pause in ms; the key
comes in CLUSTERD_KEY.
"""

import json
import os
import select
import socket
import sys
import time

from tools.rig.peer_frames import build_frames

_HEADER_BYTES = 20


def ask(sock: socket.socket, frame: bytes) -> None:
    """One echo and its answer; raises ConnectionError when the master closes or answers with another command."""
    sock.sendall(frame)
    have = bytearray()
    while len(have) < _HEADER_BYTES or len(have) < _HEADER_BYTES + int.from_bytes(have[4:8], "big"):
        piece = sock.recv(65536)
        if not piece:
            raise ConnectionError("the master closed the connection")
        have += piece
    if not have[8:].startswith(b"ok-m"):
        raise ConnectionError(f"the master answered {bytes(have[8:19])!r}")


def dial(host: str, port: int) -> tuple[socket.socket, bytes]:
    """A connection without a name, and the frame of one echo: the body is sealed once, as the master does not mind."""
    sock = socket.create_connection((host, port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    (frame,) = build_frames(b"echo-c", 1, b"keepalive", os.environ["CLUSTERD_KEY"])
    return sock, frame


def main(host: str, port: str, pause_ms: str) -> int:
    sock, frame = dial(host, int(port))
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
