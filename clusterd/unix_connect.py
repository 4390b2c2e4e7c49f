"""Connects to unix sockets whose server is busy. While its backlog is full Linux says EAGAIN at once, whatever time-out
the socket has; asyncio takes that for a connection under way, which then is none."""

import socket
import time
from collections.abc import Callable

FULL_S = 0.02
"""How often a server with a full backlog is tried again."""


def connect(sock: socket.socket, path: str, timeout_s: float, on_step: Callable[[], None] = lambda: None) -> None:
    """Raises OSError; BlockingIOError if the backlog was full for `timeout_s`. `on_step` is called while it is."""
    end = time.monotonic() + timeout_s
    while True:
        try:
            sock.connect(path)
            return
        except BlockingIOError:
            if time.monotonic() >= end:
                raise
        on_step()
        time.sleep(FULL_S)


async def connected(path: str) -> socket.socket:
    """A connection for asyncio, which is waited for without end. Raises OSError."""
    import asyncio  # not for commands, which only block

    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.setblocking(False)
        while True:
            try:
                made.connect(path)
                return made
            except BlockingIOError:
                await asyncio.sleep(FULL_S)
    except BaseException:
        made.close()
        raise
