"""The node's agent database for code that may block: pool processes. It uses the stream socket, one connection, one
question at a time."""

import socket
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any

import msgspec

from clusterd.rundir import WDB_SOCKET
from clusterd.unix_connect import connect
from clusterd.wdb.client import DatabaseError
from clusterd.wdb.stream import LARGEST_ANSWER, PREFIX_BYTES, frame

TIMEOUT_S = 10.0
LARGEST_REQUEST = 65_536
"""Largest request that the database accepts (wdb.md 2.3)."""
CUT_BYTES = 65_000
"""An answer of at least this size that is no JSON was cut by the database (wdb.md 2.3)."""
FIRST_PAGE, LARGEST_PAGE = 100, 4000
"""Rows per request. How many fit is found by doubling and halving between these limits."""
Value = str | int | float | None


def quoted(value: Value) -> str:
    """A value as an SQL literal. Raises DatabaseError for text that cannot be one."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, int | float):
        return repr(value)
    if "\0" in value:
        raise DatabaseError(2003, "a value with a NUL character")
    return "'" + value.replace("'", "''") + "'"


def statement(template: str, values: Sequence[Value] = ()) -> str:
    """`template` with each `?` replaced by a quoted value; it must not have a question mark of its own."""
    parts = template.split("?")
    if len(parts) != len(values) + 1:
        raise ValueError(f"{len(parts) - 1} places for {len(values)} values")
    return parts[0] + "".join(quoted(value) + part for value, part in zip(values, parts[1:], strict=True))


class BlockingDatabase:
    """Connects at the first question, and again after a failure. Use it as a context manager, or call `close`."""

    def __init__(self, root: str, on_step: Callable[[], None] = lambda: None) -> None:
        """`on_step` is called repeatedly during work."""
        self._on_step = on_step
        self._path = f"{root}/{WDB_SOCKET}"
        self._socket: socket.socket | None = None
        self._page = FIRST_PAGE

    def __enter__(self) -> "BlockingDatabase":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, stack: TracebackType | None
    ) -> None:
        self.close()

    def step(self) -> None:
        """Reports progress of work that asks no database."""
        self._on_step()

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def ask(self, request: str) -> tuple[str, bytes]:
        """Status `ok` or `due`, and the payload. Raises DatabaseError: 2003 with the text of an `err`, 2004 for a
        request that is too long, 2005, 2007, 2010."""
        data = request.encode(errors="replace")
        if len(data) > LARGEST_REQUEST:
            raise DatabaseError(2004, f"it has {len(data)} bytes, the database takes {LARGEST_REQUEST}")
        status, _, payload = self._exchange(data).partition(b" ")
        if status in (b"ok", b"due"):
            return status.decode(), payload
        raise DatabaseError(2003, payload.decode(errors="replace"))

    def rows(self, template: str, values: Sequence[Value] = (), *, agent: str = "") -> list[dict[str, Any]]:
        """The rows of a statement whose answer is short; with `agent` (an id, digits) of that agent's own database.
        Columns that are null are missing. Raises DatabaseError."""
        return self._rows(statement(template, values), agent)

    def pages(
        self,
        template: str,
        values: Sequence[Value] = (),
        *,
        offset: int = 0,
        limit: int | None = None,
        agent: str = "",
    ) -> Iterator[dict[str, Any]]:
        """The rows of an ordered select without `limit`, in as many requests as its size needs. Raises
        DatabaseError."""
        text = statement(template, values)
        left = limit
        while left is None or left > 0:
            wanted = self._page if left is None else min(self._page, left)
            try:
                found = self._rows(f"{text} limit {wanted} offset {offset}", agent)
            except AnswerCut:
                self._shrink(wanted)
                continue
            yield from found
            if len(found) < wanted:
                return
            offset += wanted
            if left is not None:
                left -= wanted

    def rows_of(self, select: str, column: str, keys: Sequence[int], *, agent: str = "") -> Iterator[dict[str, Any]]:
        """The rows of a select without `where` whose integer `column` is one of `keys`, unordered, in as many requests
        as its size needs. Raises DatabaseError."""
        start = 0
        while start < len(keys):
            part = keys[start : start + self._page]
            try:
                yield from self._rows(f"{select} where {column} in ({', '.join(map(str, part))})", agent)
            except AnswerCut:
                self._shrink(len(part))
                continue
            start += len(part)

    def _rows(self, text: str, agent: str) -> list[dict[str, Any]]:
        where = f"agent {agent}" if agent else "global"
        _, payload = self.ask(f"{where} sql {text}")
        try:
            found = msgspec.json.decode(payload, type=list[dict[str, Any]])
        except (msgspec.DecodeError, RecursionError) as problem:
            if len(payload) >= CUT_BYTES:
                raise AnswerCut(2007, "the answer of the database is too long") from None
            raise DatabaseError(2007, str(problem)) from None
        if len(found) >= self._page and len(payload) < CUT_BYTES // 2:
            self._page = min(LARGEST_PAGE, self._page * 2)
        return found

    def _shrink(self, rows: int) -> None:
        """That many rows were too many. Raises AnswerCut if it was a single row."""
        if rows == 1:
            raise AnswerCut(2007, "a row of the database is too long")
        self._page = max(1, rows // 2)

    def _exchange(self, request: bytes) -> bytes:
        self._on_step()
        try:
            if self._socket is None:
                self._socket = self._connected()
            self._socket.sendall(frame(request))
            size = int.from_bytes(self._exactly(PREFIX_BYTES), "little")
            if size > LARGEST_ANSWER:
                raise DatabaseError(2007, f"the database announces an answer of {size} bytes")
            return self._exactly(size)
        except TimeoutError:
            self.close()
            raise DatabaseError(2007, "the database did not answer in time") from None
        except OSError as failure:
            self.close()
            raise DatabaseError(2007, str(failure)) from None
        except BaseException:
            self.close()
            raise

    def _connected(self) -> socket.socket:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        made.settimeout(TIMEOUT_S)
        try:
            connect(made, self._path, TIMEOUT_S, self._on_step)
        except BaseException as failure:  # also what ends the work at a step
            made.close()
            if isinstance(failure, OSError):
                raise DatabaseError(2005, str(failure)) from None
            raise
        return made

    def _exactly(self, size: int) -> bytes:
        assert self._socket is not None
        parts = bytearray()
        while len(parts) < size:
            self._on_step()
            part = self._socket.recv(min(size - len(parts), 1 << 20))
            if not part:
                raise DatabaseError(2010)
            parts += part
        return bytes(parts)


class AnswerCut(DatabaseError):
    """The answer exceeded what the database sends at once."""
