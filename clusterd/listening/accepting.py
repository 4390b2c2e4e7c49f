"""Accepts connections on a listening socket: a few at a time, with a pause when the system has no more descriptors."""

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import Any

from clusterd.listening.addresses import plain

ACCEPTS_PER_TURN = 32
PAUSE_S = 1.0
_OUT_OF_FILES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class Acceptor:
    """Owner of the listening socket from `start` to `stop`."""

    def __init__(
        self, listening: socket.socket, accepted: Callable[[socket.socket, Any], None], no_room: Callable[[str], None]
    ) -> None:
        """`accepted`: gets each new socket, its own from then on, and the peer's address. `no_room`: why none can be
        accepted."""
        self._socket: socket.socket | None = listening
        self._accepted = accepted
        self._no_room = no_room
        self._resume: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._resume = None
        if self._socket is not None:
            asyncio.get_running_loop().add_reader(self._socket, self._acceptable)

    def stop(self) -> None:
        """Accept nothing more. What was accepted stays."""
        if self._resume is not None:
            self._resume.cancel()
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    def _acceptable(self) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            if self._socket is None:
                return
            try:
                accepted, address = self._socket.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as problem:
                if problem.errno not in _OUT_OF_FILES:
                    continue  # the peer was gone again before it was accepted
                loop = asyncio.get_running_loop()
                loop.remove_reader(self._socket)
                self._resume = loop.call_later(PAUSE_S, self.start)
                self._no_room(f"No connection can be accepted now: {problem.strerror}.")
                return
            accepted.setblocking(False)
            if self._socket.family == socket.AF_INET6:
                address = plain(address[0]), *address[1:]
            self._accepted(accepted, address)
