"""Asks authd of this node to add and remove agents (wdb.md 8.1 to 8.4)."""

import contextlib
import json
import select
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from clusterd.rundir import AUTH_SOCKET
from clusterd.unix_connect import connect
from clusterd.wdb.stream import PREFIX_BYTES, frame
from clusterd.wire.results import BAD_REQUEST, WireException, shorten

WHO = "clusterd_who"
"""Member of a request to a store of ours (clusterd/store/auth_request.py)."""
AT_ONCE = 32
"""Requests in flight. Each has a connection, and authd writes its files once for requests that arrive together."""
AT_ONCE_OF_OURS = 256
"""With our own store, which has a longer queue: writing the keys of 100,000 agents takes it a fifth of a second."""
TIMEOUT_S = 10.0
"""How long authd may say nothing while any number of requests wait."""
TIMEOUT_OF_OURS_S = 60.0
"""The same of our own store, which waits for its database and for a candidate before it answers."""
_STEP_S = 5.0
LARGEST_ANSWER = 65_536
CODES = {9007: 1706, 9008: 1705, 9011: 1701, 9012: 1708}
"""Error numbers of authd that have a code of the API."""


def ask_authd(
    root: str,
    function: str,
    arguments: Sequence[dict[str, Any]],
    on_step: Callable[[], None] = lambda: None,
    *,
    who: str = "",
    at_once: int | None = None,
) -> Iterator[dict[str, Any] | str | WireException]:
    """Returns authd's answer to each request, in their order: its `data`, or its error, or 1013 or 1014 when it does
    not answer. `on_step` is called repeatedly during long work. `who`: whom a store of ours notes as the asker; empty
    for another authd. `at_once`: requests in flight, None for AT_ONCE. When authd answers none of those in flight, the
    others are not sent: they would keep the process, and who else needs it, for hours."""
    most = AT_ONCE if at_once is None else at_once
    asker = {WHO: who} if who else {}
    is_silent = False
    for start in range(0, len(arguments), most):
        on_step()
        if is_silent:
            yield from (_failed("not asked, it did not answer others") for _ in arguments[start:])
            return
        with contextlib.ExitStack() as stack:
            asked: list[socket.socket | WireException] = []
            connected_by = time.monotonic() + TIMEOUT_S
            for one in arguments[start : start + most]:
                try:
                    request = {"function": function, "arguments": one} | asker
                    asked.append(stack.enter_context(_sent(root, request, connected_by - time.monotonic(), on_step)))
                except OSError as failure:
                    asked.append(WireException(1013, f"auth: {failure.strerror or failure}"))
            heard_at, is_silent = time.monotonic(), True
            for connection in asked:
                if isinstance(connection, WireException):
                    yield connection
                    continue
                end = heard_at + (TIMEOUT_OF_OURS_S if who else TIMEOUT_S)
                answer = _answer(connection) if _is_heard(connection, end, on_step) else None
                if answer is not None:
                    heard_at, is_silent = time.monotonic(), False
                yield _failed("timed out") if answer is None else answer
                on_step()


def _sent(root: str, request: dict[str, Any], room_s: float, on_step: Callable[[], None]) -> socket.socket:
    """Opens a connection and sends the request on it. `room_s`: how long authd may have no room. Raises OSError."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.settimeout(TIMEOUT_S)
    try:
        connect(made, f"{root}/{AUTH_SOCKET}", room_s, on_step)
        made.sendall(frame(json.dumps(request, separators=(",", ":")).encode()))
    except BaseException:
        made.close()
        raise
    return made


def _is_heard(connection: socket.socket, end: float, on_step: Callable[[], None]) -> bool:
    """Whether an answer comes before the monotonic clock shows `end`."""
    answers = select.poll()
    answers.register(connection, select.POLLIN)
    while not answers.poll(max(0.0, min(end - time.monotonic(), _STEP_S)) * 1000):
        if time.monotonic() >= end:
            return False
        on_step()
    return True


def _answer(connection: socket.socket) -> dict[str, Any] | str | WireException | None:
    """Returns None where the rest of it does not come."""
    try:
        size = int.from_bytes(_exactly(connection, PREFIX_BYTES), "little")
        if size > LARGEST_ANSWER:
            raise ValueError(f"an answer of {size} bytes")
        answer = json.loads(_exactly(connection, size))
        number, data = int(answer["error"]), answer.get("data")
        if number == 0 and not isinstance(data, dict | str):
            raise ValueError("success without data")
    except TimeoutError:
        return None
    except (OSError, EOFError, ValueError, TypeError, KeyError, RecursionError) as failure:
        return _failed(str(failure) or type(failure).__name__)
    return data if number == 0 else _refused(number, str(answer.get("message", "")))


def _failed(why: str) -> WireException:
    return WireException(1014, f"auth: {shorten(why, 200)}")


def _refused(number: int, message: str) -> WireException:
    code = CODES.get(number)
    if code is None:
        return WireException(number, shorten(message, 200), wire_class=BAD_REQUEST)
    return WireException(code)


def _exactly(connection: socket.socket, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        part = connection.recv(size - len(parts))
        if not part:
            raise EOFError("the connection ended before the answer")
        parts += part
    return bytes(parts)
