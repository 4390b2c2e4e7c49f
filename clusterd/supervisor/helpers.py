"""The supervisor's part of the framework process: starts and kills helpers on sync's request, and reaps them.

It makes no decisions: sync knows how many helpers are needed, which is ready and which is in trouble
(clusterd/sync/ports). The supervisor enforces limits: not more helpers than could be needed, none for a sync that is
gone, and nothing left of a helper that ended.
"""

import contextlib
import fcntl
import os
import signal
import socket
import time

from clusterd.framework.launch import launch
from clusterd.messages.framework import LARGEST, HelperEnded, HelperNotStarted, HelperStarted, StartHelper, ToSupervisor
from clusterd.supervisor.restart import how
from ipc.board import BoardRow
from ipc.codec import Decoder, encode
from ipc.errors import BadMessage

STAGE = 3
"""Stage of a stop: after sync, before the store."""
STOP_S = 6.0
"""How long a helper may take after SIGTERM: see END_S of clusterd/framework/program.py."""
SPARE = 2
"""Helpers beyond those that serve: one that replaces another, and one that is ending."""
MESSAGES_AT_ONCE = 64


class _Helper:
    __slots__ = ("kill_at", "number", "pid", "sync")

    def __init__(self, number: int, pid: int, sync: int) -> None:
        self.number = number
        self.pid = pid
        self.sync = sync
        self.kill_at: float | None = None

    def send(self, number: signal.Signals) -> None:
        """Signals the helper and its children. It was not reaped yet, so the number cannot belong to another
        process."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)


class Helpers:
    """All helpers of a node. `sync_end`: sync's descriptor, made before its fork, for all its lives; `own_end` is
    closed in children. A message on it makes the system send SIGIO to this process."""

    def __init__(self, python: str, root: str, most: int, sync_row: BoardRow) -> None:
        """`python` empty: no framework and never a helper. `most`: limit of serving helpers. `sync_row`: tells the
        current life of sync."""
        self._python = python
        self._root = root
        self._most = most + SPARE
        self._sync_row = sync_row
        self._living: dict[int, _Helper] = {}
        self._count = 0
        self._decoder: Decoder[ToSupervisor] = Decoder(ToSupervisor)
        self._socket: socket.socket | None = None
        self._sync_socket: socket.socket | None = None
        if python:
            self._socket, self._sync_socket = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._socket.setblocking(False)
            fcntl.fcntl(self._socket, fcntl.F_SETOWN, os.getpid())
            fcntl.fcntl(self._socket, fcntl.F_SETFL, os.O_NONBLOCK | os.O_ASYNC)

    @property
    def sync_end(self) -> int | None:
        return None if self._sync_socket is None else self._sync_socket.fileno()

    @property
    def own_end(self) -> int | None:
        return None if self._socket is None else self._socket.fileno()

    def next_moment(self) -> float | None:
        return min((helper.kill_at for helper in self._living.values() if helper.kill_at is not None), default=None)

    def pids(self) -> list[int]:
        """Those that nobody has waited for."""
        return [helper.pid for helper in self._living.values()]

    def look(self, now: float) -> None:
        """Reaps helpers that ended, kills those that are due, and carries out sync's requests. `now`: seconds on the
        monotonic clock."""
        if self._socket is None:
            return
        present = self._sync_row.snapshot().incarnation
        for helper in list(self._living.values()):
            if self._collect(helper):
                continue
            if helper.kill_at is not None and now >= helper.kill_at:
                helper.send(signal.SIGKILL)
                helper.kill_at = now + STOP_S
            elif helper.kill_at is None and helper.sync != present:
                self._ask_to_end(helper, now)
        for _ in range(MESSAGES_AT_ONCE):
            try:
                data = self._socket.recv(LARGEST)
            except OSError:
                return
            with contextlib.suppress(BadMessage):
                self._obey(self._decoder.decode(data), present)

    def _obey(self, message: ToSupervisor, present: int) -> None:
        if message.sync != present:
            return
        if isinstance(message, StartHelper):
            self._start(present)
        elif message.number in self._living:
            self._living[message.number].send(signal.SIGKILL)

    def _start(self, sync: int) -> None:
        if len(self._living) >= self._most:
            self._tell(HelperNotStarted(sync, f"{len(self._living)} processes of it are still there"))
            return
        self._count += 1
        try:
            launched = launch(self._python, self._root, f"clusterd-fw-{self._count}")
        except OSError as failure:
            self._tell(HelperNotStarted(sync, f"{self._python} cannot be started: {failure.strerror}"))
            return
        self._living[self._count] = _Helper(self._count, launched.pid, sync)
        try:
            message = encode(HelperStarted(sync, self._count, launched.pid))
            assert self._socket is not None
            socket.send_fds(self._socket, [message], [launched.connection.fileno(), launched.output])
        except OSError:
            pass  # sync does not read: the helper sees the end of its connection, and ends
        finally:
            launched.close()

    def _collect(self, helper: _Helper) -> bool:
        """Whether the helper has ended; then everything of it is removed."""
        ended = os.waitid(os.P_PID, helper.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is None:
            return False
        helper.send(signal.SIGKILL)  # what it has started; its own number is still taken
        os.waitid(os.P_PID, helper.pid, os.WEXITED)
        del self._living[helper.number]
        status = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
        self._tell(HelperEnded(helper.sync, helper.number, how(status)))
        return True

    def _tell(self, message: HelperNotStarted | HelperEnded) -> None:
        with contextlib.suppress(OSError):  # sync sees the end of a connection, too, and asks again
            assert self._socket is not None
            self._socket.send(encode(message))

    # ---- going down --------------------------------------------------------------------------------------------------

    def _ask_to_end(self, helper: _Helper, now: float) -> None:
        helper.kill_at = now + STOP_S
        with contextlib.suppress(ProcessLookupError):
            os.kill(helper.pid, signal.SIGTERM)
            os.kill(helper.pid, signal.SIGCONT)

    def ask_to_stop(self) -> float:
        """Sends SIGTERM to all; returns how many seconds they may take."""
        for helper in self._living.values():
            self._ask_to_end(helper, time.monotonic())
        return STOP_S if self._living else 0.0

    def living(self) -> list[str]:
        """Reaps helpers that ended; returns the names of those that live."""
        return [f"framework-{helper.number}" for helper in list(self._living.values()) if not self._collect(helper)]

    def kill(self) -> None:
        for helper in self._living.values():
            helper.send(signal.SIGKILL)

    def close(self) -> None:
        for end in (self._socket, self._sync_socket):
            if end is not None:
                end.close()
