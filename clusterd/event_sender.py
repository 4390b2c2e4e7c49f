"""Tells the process `monitor` what has happened, for the journal, hooks and whoever watches (messages/journal.py).

Never waits, never raises, never grows: what the monitor does not take now is held, up to a bound, and what is beyond it
is lost and counted. A socket is open only while something is sent, so a process holds no descriptor for it.
"""

import contextlib
import errno
import os
import socket
import time
from collections import deque
from collections.abc import Callable

import msgspec

from clusterd.messages.journal import LARGEST, AnyEvent, Told
from clusterd.rundir import journal_socket

MOST_HELD = 256
MOST_HELD_BYTES = 4 << 20
FIRST_AGAIN_S = 0.02
LONGEST_AGAIN_S = 1.0
_HEAD = 64
"""Bytes of a message beside its event and the name of its process, at most."""

Later = Callable[[float, Callable[[], None]], object]
"""Calls a function after so many seconds."""


class EventSender:
    """The events of one process. Made after its fork."""

    def __init__(
        self,
        root: str,
        process: str,
        *,
        is_on: bool,
        wall: Callable[[], float] = time.time,
        later: Later | None = None,
    ) -> None:
        """`is_on`: whether the node has a monitor; without one events go nowhere. `wall`: the clock that dates them.
        `later`: without it the process must call `flush` with each heartbeat."""
        self._path = journal_socket(root)
        self._process = process
        self._is_on = is_on
        self._wall = wall
        self._later = later
        self._held: deque[tuple[float, bytes]] = deque()
        self._held_bytes = 0
        self._again_s = FIRST_AGAIN_S
        self._again_at = 0.0
        self._is_coming = False
        self._unsaid = 0
        self.lost = 0
        """Events that were lost, in all."""

    @property
    def is_on(self) -> bool:
        """Whether anybody listens: for callers whose events are expensive to build."""
        return self._is_on

    @property
    def held(self) -> int:
        """How many events wait."""
        return len(self._held)

    def tell(self, event: AnyEvent) -> None:
        """In the order of the calls."""
        if not self._is_on:
            return
        try:
            data = msgspec.msgpack.encode(event)
        except (UnicodeEncodeError, OverflowError):  # half a character, or a number beyond 64 bits
            self.lose(1)
            return
        is_full = len(self._held) >= MOST_HELD or self._held_bytes + len(data) > MOST_HELD_BYTES
        if is_full or len(data) + len(self._process) + _HEAD > LARGEST:
            self.lose(1)
            return
        self._held.append((self._wall(), data))
        self._held_bytes += len(data)
        self.flush()

    def lose(self, count: int) -> None:
        """So many events cannot be told."""
        self.lost += count
        self._unsaid += count

    def flush(self) -> None:
        """Sends what waits, as far as the monitor takes it now."""
        if not self._held or time.monotonic() < self._again_at:
            return
        passed = 0
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as out:
                out.connect(self._path)
                while self._held:
                    at, data = self._held[0]
                    told = Told(at, self._process, self._unsaid, msgspec.Raw(data))  # type: ignore[arg-type]
                    out.send(msgspec.msgpack.encode(told))
                    passed += 1
                    self._unsaid = 0
                    self._held.popleft()
                    self._held_bytes -= len(data)
        except OSError as failure:
            if failure.errno == errno.EMSGSIZE:
                # The machine allows no datagram that large (net.core.wmem_default): nothing behind it would ever go.
                _, data = self._held.popleft()
                self._held_bytes -= len(data)
                self.lose(1)
            # No monitor, or a busy one, or no descriptor: what waits is tried again.
            self._come_again(is_there=passed > 0)
        else:
            self._again_s = FIRST_AGAIN_S

    def _come_again(self, *, is_there: bool) -> None:
        if is_there:
            self._again_s = FIRST_AGAIN_S
        self._again_at = time.monotonic() + self._again_s
        if self._later is not None and not self._is_coming:
            self._is_coming = True
            self._later(self._again_s, self._again)
        self._again_s = min(2 * self._again_s, LONGEST_AGAIN_S)

    def _again(self) -> None:
        self._is_coming, self._again_at = False, 0.0
        self.flush()


def bind_receiver(root: str) -> socket.socket:
    """The monitor's end: takes the place of that of an earlier life. Raises OSError."""
    path = journal_socket(root)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        receiver.bind(path)
    except OSError:
        receiver.close()
        raise
    return receiver
