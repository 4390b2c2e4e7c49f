"""One process of the framework, seen from sync: its connection, the requests it runs, its output. The frames are
described in clusterd/framework/program.py."""

import asyncio
import contextlib
import os
import socket
from collections import deque
from collections.abc import Callable
from typing import Literal

import msgspec

from clusterd.errors import ClusterError
from clusterd.framework import program
from clusterd.messages.base import Text
from clusterd.sync.ports.framework_output import LINE_BYTES, shown_line
from clusterd.sync.ports.tag_log import TagLog
from clusterd.wire.results import BAD_REQUEST, WireException, shorten

LAST_LINES = 4
READ_BYTES = 16384
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class HelperHello(msgspec.Struct, frozen=True):
    """The process's report after importing everything. `missing`: module, name, reason."""

    python: str
    version: str
    has_marker: bool
    names: list[tuple[str, str]]
    missing: list[tuple[str, str, str]]


class Where(msgspec.Struct, frozen=True):
    """The first line of a request."""

    out: str
    path: str
    offset: int
    size: int


class HelperGone(Exception):
    """The process ended before it answered. The text names it and says how it ended."""


class HelperCall:
    """A request that a process runs. `overdue_at`: its asker has gone, and from this moment on the process may not run
    it."""

    __slots__ = ("answer", "out", "overdue_at")

    def __init__(self, out: str) -> None:
        self.out = out
        self.answer: asyncio.Future[Text] = asyncio.get_running_loop().create_future()
        self.overdue_at: float | None = None


class Helper:
    """`state`: `retiring` takes no more requests, `ending` was told to end or killed. `requests`: taken so far. `worn`:
    why it should be replaced; empty if it should not. `was_told`: it has ended because it was told to or killed."""

    def __init__(
        self,
        number: int,
        pid: int,
        connection: socket.socket,
        output: int,
        started_at: float,
        *,
        remove: Callable[[str], None],
        log: TagLog,
        print_lines: Callable[[str, list[bytes]], None],
        changed: Callable[["Helper"], None],
    ) -> None:
        """`remove`: gets the files of answers that are no longer needed. `print_lines`: gets the helper's name and
        printed lines. `changed`: called when the helper is ready, has answered, or has ended."""
        self.number = number
        self.pid = pid
        self.state: Literal["starting", "ready", "retiring", "ending", "gone"] = "starting"
        self.started_at = started_at
        self.state_at = started_at
        self.used_at = started_at
        self.requests = 0
        self.worn = ""
        self.hello: HelperHello | None = None
        self.was_told = False
        self.cannot = ""
        self.last_lines: deque[str] = deque(maxlen=LAST_LINES)
        self._connection = connection
        self._output = output
        self._remove = remove
        self._log = log
        self._print_lines = print_lines
        self._changed = changed
        self._calls: dict[int, HelperCall] = {}
        self._line = b""
        self._writer: asyncio.StreamWriter | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        return f"framework-{self.number}"

    @property
    def load(self) -> int:
        """Returns how many requests it runs."""
        return len(self._calls)

    def overdue(self, now: float) -> int:
        """Returns how many of these should have ended by now."""
        return sum(call.overdue_at is not None and now >= call.overdue_at for call in self._calls.values())

    @property
    def rss_bytes(self) -> int:
        """Memory in use; 0 for a process that has ended."""
        try:
            with open(f"/proc/{self.pid}/statm", "rb") as file:
                return int(file.read().split()[1]) * PAGE_BYTES
        except (OSError, IndexError, ValueError):
            return 0

    # ---- its life ----------------------------------------------------------------------------------------------------

    def open(self, setup: bytes) -> None:
        """Begins to listen, and tells the process which functions it may run."""
        os.set_blocking(self._output, False)
        asyncio.get_running_loop().add_reader(self._output, self._read_output)
        self._task = asyncio.create_task(self._serve(setup))

    def set_state(self, state: Literal["ready", "retiring", "ending"], now: float) -> None:
        if self.state != state:
            self.state, self.state_at = state, now

    def end(self, now: float) -> None:
        """Tells the process that no more requests follow; it ends once it has answered those that it runs."""
        self.set_state("ending", now)
        if self._writer is not None:
            with contextlib.suppress(OSError):
                self._writer.write_eof()

    async def close(self) -> None:
        """Ends the connection, in whatever state the process is."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _serve(self, setup: bytes) -> None:
        how = "ended"
        try:
            reader, self._writer = await asyncio.open_unix_connection(sock=self._connection)
            self._send(program.SETUP, 0, setup)
            while True:
                size, kind, number = program.FRAME.unpack(await reader.readexactly(program.FRAME.size))
                if size > program.MOST_PAYLOAD:
                    how = f"sent a frame of {size} bytes"
                    break
                self._take(kind, number, await reader.readexactly(size))
        except (asyncio.IncompleteReadError, OSError):
            pass
        except (msgspec.DecodeError, ValueError) as failure:
            how = f"sent what is not understood ({failure})"
        finally:
            self._let_go(how)

    def _let_go(self, how: str) -> None:
        if self._writer is not None:
            self._writer.close()
        else:
            self._connection.close()
        self._read_output()
        self._close_output()
        self._tell([self._line])
        self.was_told = self.state == "ending"
        self.state = "gone"
        calls, self._calls = list(self._calls.values()), {}
        for call in calls:
            self._remove(call.out)
            if not call.answer.done():
                call.answer.set_exception(
                    HelperGone(f"the framework process (pid {self.pid}) {how} before it answered")
                )
                call.answer.exception()  # seen: asyncio would complain where nobody waits any more
        self._changed(self)

    def _send(self, kind: int, number: int, payload: bytes) -> None:
        assert self._writer is not None
        self._writer.write(program.FRAME.pack(len(payload), kind, number) + payload)

    # ---- requests ----------------------------------------------------------------------------------------------------

    def ask(self, request: Text, out: str, now: float) -> HelperCall:
        """Sends it a request; a large answer is written to the file `out`. Awaiting the call's answer raises
        HelperGone, ClusterError."""
        self.requests += 1
        self.used_at = now
        call = HelperCall(out)
        self._calls[self.requests] = call
        head = msgspec.json.encode(Where(out, request.path, request.offset, request.size))
        self._send(program.REQUEST, self.requests, head + b"\n" + request.payload)
        return call

    def _take(self, kind: int, number: int, payload: bytes) -> None:
        if kind == program.HELLO:
            self.hello = msgspec.json.decode(payload, type=HelperHello)
        elif kind == program.CANNOT:
            self.cannot = payload.decode("utf-8", "replace")
            return
        else:
            call = self._calls.pop(number, None)
            if call is None:
                return
            if call.answer.done():
                self._remove(call.out)  # nobody waits for it
            else:
                self._answer(call, kind, payload)
        self._changed(self)

    def _answer(self, call: HelperCall, kind: int, payload: bytes) -> None:
        if kind == program.ANSWER:
            call.answer.set_result(Text(payload))
            return
        if kind == program.FILE:
            call.answer.set_result(Text(b"", call.out, int(payload)))
            return
        text = shorten(payload.decode("utf-8", "replace"))
        if kind == program.REFUSED:
            call.answer.set_exception(WireException(3009, text, wire_class=BAD_REQUEST))
        elif kind == program.LARGE:
            call.answer.set_exception(WireException(1000, text))
        else:
            self._log.error(f"Error executing API request in the framework: {text}")
            call.answer.set_exception(ClusterError(1000))

    # ---- what it prints ----------------------------------------------------------------------------------------------

    def _read_output(self) -> None:
        """Reads a few pages at a time, so that endless output cannot block the loop."""
        if self._output < 0:
            return
        try:
            data = os.read(self._output, READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close_output()
            return
        *lines, self._line = (self._line + data).split(b"\n")
        if len(self._line) > LINE_BYTES:
            lines.append(self._line)
            self._line = b""
        self._tell(lines)

    def _tell(self, lines: list[bytes]) -> None:
        self.last_lines.extend(shown_line(line) for line in lines[-LAST_LINES:] if line.strip())
        self._print_lines(self.name, lines)

    def _close_output(self) -> None:
        if self._output >= 0:
            with contextlib.suppress(RuntimeError):  # the loop is closed: a test that ended early
                asyncio.get_running_loop().remove_reader(self._output)
            os.close(self._output)
            self._output = -1
