"""Sync's end of the channel to the supervisor, which starts and kills processes of the framework at sync's request."""

import asyncio
import os
import socket
from collections.abc import Callable

from clusterd.messages.framework import (
    LARGEST,
    HelperEnded,
    HelperNotStarted,
    HelperStarted,
    KillHelper,
    StartHelper,
    ToSupervisor,
    ToSync,
)
from ipc.codec import Decoder, encode
from ipc.errors import BadMessage

Take = Callable[[HelperStarted, socket.socket, int], None]
"""Called with a new process, our end of its connection, and the descriptor of its output. Both must be closed by the
callee."""


class Supply:
    """Calls `take` and `tell` with the messages meant for this sync process."""

    def __init__(self, fd: int, sync: int, take: Take, tell: Callable[[HelperNotStarted | HelperEnded], None]) -> None:
        """`fd` stays open for the next sync process. `sync`: the incarnation of this one."""
        self._socket = socket.socket(fileno=fd)
        self._socket.setblocking(False)
        self._sync = sync
        self._take = take
        self._tell = tell
        self._decoder: Decoder[ToSync] = Decoder(ToSync)

    def open(self) -> None:
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._read)

    def close(self) -> None:
        """Stops listening."""
        if self._socket.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.detach()

    def start(self) -> bool:
        """Asks for one more process. Returns False if the supervisor has not read earlier messages."""
        return self._send(StartHelper(self._sync))

    def kill(self, number: int) -> bool:
        return self._send(KillHelper(self._sync, number))

    def _send(self, message: ToSupervisor) -> bool:
        try:
            self._socket.send(encode(message))
        except OSError:
            return False
        return True

    def _read(self) -> None:
        while True:
            try:
                data, fds, _, _ = socket.recv_fds(self._socket, LARGEST, 2, socket.MSG_CMSG_CLOEXEC)
            except OSError:
                return
            if not data:
                self.close()  # the supervisor is gone, and so are we
                return
            try:
                message = self._decoder.decode(data)
            except BadMessage:
                message = None
            if message is not None and message.sync == self._sync:
                if not isinstance(message, HelperStarted):
                    self._tell(message)
                elif len(fds) == 2:
                    self._take(message, socket.socket(fileno=fds[0]), fds[1])
                    continue
            for fd in fds:
                os.close(fd)
