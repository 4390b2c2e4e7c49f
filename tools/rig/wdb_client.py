"""A client of the agent database's sockets and of authd's: an independent implementation of the protocol that imports
nothing of clusterd.

Written from wdb.md alone: sections 2 (stream socket), 7 (HTTP socket), 8 (authd). Synchronous; every wait is bounded.
"""

import contextlib
import http.client
import json
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

WDB = "queue/db/wdb"
WDB_HTTP = "queue/sockets/wdb-http.sock"
AUTH = "queue/sockets/auth"
TIMEOUT_S = 60.0
LARGEST = 65_536
"""Most bytes of a payload, in both directions (wdb.md 2.3)."""


class WdbError(Exception):
    """The socket did not follow the protocol: missing, silent, closed, or a malformed answer."""


class WdbTooLong(WdbError):
    """The answer was cut, because the result does not fit into one."""


class WdbRefused(WdbError):
    """An answer with status `err`; the text is its payload."""


class _Frames:
    """One connection with a 4-byte little-endian length before each payload (wdb.md 1)."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        self.path = path
        self.timeout_s = timeout_s
        self.socket = _connected(path, timeout_s)

    def send(self, payload: bytes) -> None:
        try:
            self.socket.sendall(struct.pack("<I", len(payload)) + payload)
        except OSError as failure:
            raise WdbError(f"{self.path}: cannot send {len(payload)} bytes: {failure}") from failure

    def receive(self) -> bytes:
        return self._exactly(struct.unpack("<I", self._exactly(4))[0])

    def _exactly(self, size: int) -> bytes:
        parts = bytearray()
        while len(parts) < size:
            try:
                piece = self.socket.recv(min(size - len(parts), 1 << 20))
            except TimeoutError as failure:
                raise WdbError(f"{self.path}: no answer within {self.timeout_s:g} s") from failure
            except OSError as failure:
                raise WdbError(f"{self.path}: {failure}") from failure
            if not piece:
                raise WdbError(f"{self.path}: closed by the server after {len(parts)} of {size} bytes")
            parts += piece
        return bytes(parts)


class WdbClient:
    """One connection to the stream socket, for many requests. Use it as a context manager, or close it.

    Texts are sent as UTF-8. Answers are decoded with `surrogateescape`, so that a payload cut inside a character keeps
    its exact bytes. Raises WdbError whenever the socket fails."""

    def __init__(self, root: str | Path, timeout_s: float = TIMEOUT_S) -> None:
        self._frames = _Frames(Path(root) / WDB, timeout_s)

    def __enter__(self) -> "WdbClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, stack: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._frames.socket.close()

    def send(self, request: str | bytes) -> None:
        """Sends a request without reading its answer."""
        self._frames.send(_bytes(request))

    def send_bytes(self, data: bytes) -> None:
        """Sends bytes unchanged, without a length before them."""
        self._frames.socket.sendall(data)

    def receive(self) -> bytes:
        """Returns the payload of the next answer."""
        return self._frames.receive()

    def at_end(self) -> bool:
        """Waits for the server: returns True when it closes the connection, False when it sends something."""
        try:
            return self._frames.socket.recv(1) == b""
        except ConnectionResetError:
            return True
        except TimeoutError as failure:
            raise WdbError(f"{self._frames.path}: neither closed nor answered") from failure

    def raw(self, request: str | bytes) -> bytes:
        """Sends a request and returns the payload of its answer, byte for byte."""
        self.send(request)
        return self.receive()

    def ask(self, request: str | bytes) -> tuple[str, str]:
        """Sends a request; returns the status word, and everything behind its space ('' if there is nothing)."""
        return parted(self.raw(request))

    def command(self, request: str | bytes) -> str:
        """Returns the payload of an `ok`. Raises WdbRefused for `err`, WdbError for any other status."""
        status, payload = self.ask(request)
        if status == "err":
            raise WdbRefused(payload)
        if status != "ok":
            raise WdbError(f"status {status!r} for {_short(request)}")
        return payload

    def rows(self, statement: str) -> list[dict[str, Any]]:
        """Returns the rows of `global sql`. Raises WdbTooLong for an answer that was cut (wdb.md 2.3)."""
        answer = self.raw(f"global sql {statement}")
        if len(answer) >= LARGEST:
            raise WdbTooLong(f"more than fits an answer: {_short(statement)}")
        status, payload = parted(answer)
        if status != "ok":
            raise WdbRefused(payload)
        rows: list[dict[str, Any]] = json.loads(payload)
        return rows

    def page(self, statement: str, limit: int) -> list[dict[str, Any]]:
        """Returns at most `limit` rows of a statement without a limit: as many as fit into an answer, at least one if
        there are any."""
        while True:
            try:
                return self.rows(f"{statement} limit {limit}")
            except WdbTooLong:
                if limit == 1:
                    raise
                limit //= 2

    def chunks(self, request_after: Callable[[list[Any]], str | bytes]) -> Iterator[tuple[str, list[Any]]]:
        """Follows `due` and yields (status, items) of each answer. `request_after(items)` returns the request that
        continues behind these items; its first call gets an empty list."""
        items: list[Any] = []
        while True:
            status, payload = self.ask(request_after(items))
            if status == "err":
                raise WdbRefused(payload)
            if status not in ("ok", "due"):
                raise WdbError(f"status {status!r}")
            got = json.loads(payload)
            yield status, got
            if status == "ok":
                return
            if not got:
                raise WdbError(f"due without an item: {payload[:80]}")
            items = got

    def ids(self, command: str, first: int = 0) -> list[int]:
        """Returns every id of a paged command whose argument ends with the last id, such as `get-all-agents last_id` or
        `get-group-agents web last_id`."""
        return [
            item["id"] if isinstance(item, dict) else item
            for _, items in self.chunks(lambda last: f"global {command} {_last(last, first)}")
            for item in items
        ]

    def context(self) -> list[dict[str, Any]]:
        """Returns all agents of `get-all-agents context`, the request with many response frames (wdb.md 3.14)."""
        agents: list[dict[str, Any]] = []
        status, payload = self.ask("global get-all-agents context")
        while status == "due":
            agents.append(json.loads(payload))
            status, payload = parted(self.receive())
        if status == "err":
            raise WdbRefused(payload)
        return agents

    def agent_groups(self, **members: Any) -> tuple[list[dict[str, Any]], str | None]:
        """Returns every agent of `sync-agent-groups-get`, continuing after `due` as in 3.1, and the global group hash
        (None when it was not requested or there is none)."""
        agents: list[dict[str, Any]] = []
        while True:
            status, payload = self.ask(f"global sync-agent-groups-get {json.dumps(members)}")
            if status == "err":
                raise WdbRefused(payload)
            (answer,) = json.loads(payload)
            agents += answer["data"]
            if status == "ok":
                return agents, answer.get("hash")
            forgets = members.get("set_synced") and members.get("condition") == "sync_status"
            if answer["data"] and not forgets:
                members["last_id"] = answer["data"][-1]["id"]

    def set_groups(self, mode: str, data: list[dict[str, Any]], sync_status: str | None = None) -> None:
        """Sends `set-agent-groups`. Raises WdbRefused."""
        request: dict[str, Any] = {"mode": mode, "data": data}
        if sync_status is not None:
            request["sync_status"] = sync_status
        self.command("global set-agent-groups " + json.dumps(request, ensure_ascii=False, separators=(",", ":")))

    def group_hash(self) -> str | None:
        """Returns the node's own global group hash (wdb.md 3.1)."""
        return self.agent_groups(get_global_hash=True)[1]


def wdb_http(
    root: str | Path,
    method: str,
    path: str,
    body: str | bytes | None = None,
    timeout_s: float = TIMEOUT_S,
) -> tuple[int, dict[str, str], bytes]:
    """Sends one HTTP request on a connection of its own; returns status, headers (names in lower case), body. Raises
    WdbError."""
    where = Path(root) / WDB_HTTP
    connection = _HttpOverUnix(where, timeout_s)
    headers = {"Accept": "application/json", "Connection": "close"}
    if method == "POST":
        headers["Content-Type"] = "application/json"
    try:
        # A server may answer and close before it has read the body; its answer is read all the same.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.request(method, path, _bytes(body) if body is not None else None, headers)
        response = connection.getresponse()
        content = response.read()
    except (OSError, http.client.HTTPException) as failure:
        raise WdbError(f"{where}: {method} {path}: {type(failure).__name__}: {failure}") from failure
    finally:
        connection.close()
    return response.status, {name.lower(): value for name, value in response.getheaders()}, content


def authd(root: str | Path, request: Any, timeout_s: float = TIMEOUT_S) -> Any:
    """Sends one request to the enrolment socket, on one connection (wdb.md 8.1). A text or bytes is sent unchanged,
    anything else as JSON. Returns the parsed answer, or the text if it is not JSON. Raises WdbError."""
    payload = _bytes(request) if isinstance(request, (str, bytes)) else json.dumps(request).encode()
    frames = _Frames(Path(root) / AUTH, timeout_s)
    try:
        frames.send(payload)
        answer = frames.receive().decode()
    finally:
        frames.socket.close()
    try:
        return json.loads(answer)
    except json.JSONDecodeError:
        return answer


def parted(answer: bytes) -> tuple[str, str]:
    """Splits an answer into status word and payload, at the first space (wdb.md 2.2)."""
    status, _, payload = answer.decode(errors="surrogateescape").partition(" ")
    return status, payload


class _HttpOverUnix(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path
        self._timeout_s = timeout_s

    def connect(self) -> None:
        self.sock = _connected(self._path, self._timeout_s)


def _connected(path: Path, timeout_s: float) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(timeout_s)
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            connection.connect(str(path))
        except (
            BlockingIOError
        ) as failure:  # the listen queue is full, and a unix socket with a timeout does not wait for it
            if time.monotonic() >= deadline:
                connection.close()
                raise WdbError(f"{path}: nobody accepted within {timeout_s:g} s") from failure
            time.sleep(0.002)
        except OSError as failure:
            connection.close()
            raise WdbError(f"{path}: {failure}") from failure
        else:
            return connection


def _last(items: list[Any], first: int) -> int:
    if not items:
        return first
    last = items[-1]
    return int(last["id"] if isinstance(last, dict) else last)


def _bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text


def _short(request: str | bytes) -> str:
    return repr(request[:80])
