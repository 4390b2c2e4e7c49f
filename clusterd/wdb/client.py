"""The cluster's client of the node's agent database (wire.md appendix B): a wazuh-db, or our store, behind the same
sockets."""

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from clusterd.errors import ClusterError
from clusterd.http_client import httpx
from clusterd.rundir import HTTP_SOCKET, WDB_SOCKET
from clusterd.wdb.http_transport import UnixTransport
from clusterd.wdb.stream import Stream, is_served

HTTP_TIMEOUT_S = 10.0
ASK_TIMEOUT_S = 40.0
POLL_S = 0.05
"""How often a server that is just starting is tried again."""
PIECE = 262144
SMALL = 65536
"""An answer without agents is much shorter than this."""


class Taken(msgspec.Struct, frozen=True):
    """Agents to report: JSON of `size` bytes in the requested file. `batch`: must be confirmed; 0 from a database that
    has already cleared its marks. `more`: others wait. `agents`: how many, 0 if the database does not say."""

    size: int
    is_empty: bool
    agents: int = 0
    batch: int = 0
    more: bool = False


class MergeResult(msgspec.Struct, frozen=True):
    """Our store's result of a report. `stale`: agents of which something newer is known."""

    merged: int = 0
    stale: int = 0
    errors: list[str] = []


class DatabaseError(ClusterError):
    """The database refused (2003, 2012), would have refused (2004), or could not be asked (2005, 2007, 2010, 2011,
    2013, 2014)."""

    @property
    def is_away(self) -> bool:
        """Whether no server answered, as opposed to a refusal."""
        return self.code not in (2003, 2004, 2012)


class DatabaseConversation:
    """A connection to the stream socket. Use it as an async context manager; one question at a time."""

    def __init__(self, path: str, timeout_s: float, served_by: float = 0.0) -> None:
        """`served_by`: until this moment of the loop's clock a missing server is waited for."""
        self._stream = Stream(path, timeout_s)
        self._served_by = served_by

    async def __aenter__(self) -> "DatabaseConversation":
        loop = asyncio.get_running_loop()
        while True:
            try:
                await self._stream.__aenter__()
                return self
            except (FileNotFoundError, ConnectionRefusedError) as failure:
                if loop.time() >= self._served_by:
                    raise DatabaseError(2005, str(failure)) from None
            except TimeoutError:
                raise DatabaseError(2005, "it takes no connection in time") from None
            except OSError as failure:
                raise DatabaseError(2005, str(failure)) from None
            await asyncio.sleep(POLL_S)

    async def __aexit__(self, *_: object) -> None:
        self._stream.close()

    async def ask(self, request: bytes | str) -> tuple[str, bytes]:
        """Status `ok` or `due`, and the payload. Raises DatabaseError: 2003 with the text of an `err`."""
        try:
            answer = await self._stream.ask(request.encode() if isinstance(request, str) else request)
        except TimeoutError:
            raise DatabaseError(2007, "the database did not answer in time") from None
        except EOFError:
            raise DatabaseError(2010) from None
        except (OSError, ValueError) as failure:
            raise DatabaseError(2007, str(failure)) from None
        status, _, payload = answer.partition(b" ")
        if status in (b"ok", b"due"):
            return status.decode(), payload
        raise DatabaseError(2003, payload.decode(errors="replace"))


class Database:
    """Asks the database. It remembers only which program serves the HTTP socket."""

    def __init__(self, root: str, start_s: float = 0.0) -> None:
        """`start_s`: how long, from the first question on, a missing server is waited for: this node's own store starts
        beside sync."""
        self._start_s = start_s
        self._served_by: float | None = None
        self._wdb = f"{root}/{WDB_SOCKET}"
        self._http = f"{root}/{HTTP_SOCKET}"
        self._client: httpx.AsyncClient | None = None
        self._asked: tuple[int, int] | None = None
        self._is_ours = False

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    def is_there(self) -> bool:
        """Whether a server listens on the HTTP socket now."""
        return is_served(self._http)

    async def is_ours(self) -> bool:
        """Whether our store serves it. Asked again after the socket was replaced. Raises DatabaseError."""
        try:
            found = os.stat(self._http)
        except OSError as failure:
            raise DatabaseError(2011, str(failure)) from None
        if self._asked != (found.st_ino, found.st_ctime_ns):
            response = await self._request("GET", "/v1/clusterd")
            self._is_ours = response.status_code == 200
            self._asked = (found.st_ino, found.st_ctime_ns)
        return self._is_ours

    # ---- stream socket -----------------------------------------------------------------------------------------------

    def conversation(self, timeout_s: float = ASK_TIMEOUT_S) -> DatabaseConversation:
        if self._served_by is None:
            self._served_by = asyncio.get_running_loop().time() + self._start_s
        return DatabaseConversation(self._wdb, timeout_s, self._served_by)

    async def ask(self, request: bytes | str, timeout_s: float = ASK_TIMEOUT_S) -> tuple[str, bytes]:
        """Asks one question over a separate connection. Raises DatabaseError."""
        async with self.conversation(timeout_s) as conversation:
            return await conversation.ask(request)

    async def rows(self, statement: str, timeout_s: float = HTTP_TIMEOUT_S) -> list[dict[str, Any]]:
        """The rows of a short `global sql`. Raises DatabaseError."""
        _, payload = await self.ask(f"global sql {statement}", timeout_s)
        try:
            return msgspec.json.decode(payload, type=list[dict[str, Any]])
        except (msgspec.DecodeError, RecursionError) as problem:
            raise DatabaseError(2007, str(problem)) from None

    # ---- agents to report --------------------------------------------------------------------------------------------

    async def take(self, out: str, limit: int, *, moments: bool) -> Taken:
        """Writes the waiting reports to the file `out`. Our store returns at most `limit` agents and keeps them marked
        until `confirm`; `moments`: with the time of each. Raises DatabaseError, OSError."""
        if not await self.is_ours():
            size, start, _ = await self._download("GET", "/v1/agents/sync", out)
            return Taken(size, _is_empty(size, start))
        path = f"/v1/clusterd/agents/take?limit={limit}&moments={int(moments)}"
        size, _, headers = await self._download("POST", path, out)
        try:
            batch, agents = int(headers["X-Clusterd-Batch"]), int(headers["X-Clusterd-Agents"])
            return Taken(size, agents == 0, agents, batch, headers["X-Clusterd-More"] == "1")
        except (KeyError, ValueError) as problem:
            raise DatabaseError(2013, f"the store's answer has no good headers: {problem}") from None

    async def confirm(self, batch: int) -> None:
        """Confirms that the master has this batch. A restarted store does not know it and returns the agents again."""
        response = await self._request("POST", f"/v1/clusterd/agents/confirm?batch={batch}")
        if response.status_code not in (200, 410):
            raise DatabaseError(2012, f"status {response.status_code} to a confirmation")

    async def report_again(self, key: str) -> int:
        """Our store marks all agents that this node has heard of, once for each `key`; how many. A wazuh-db marks none.
        Raises DatabaseError."""
        if not await self.is_ours():
            return 0
        response = await self._request("POST", str(httpx.URL("/v1/clusterd/agents/again", params={"term": key})))
        if response.status_code != 200:
            raise DatabaseError(2012, f"status {response.status_code} to the beginning of a term")
        return msgspec.json.decode(response.content, type=dict[str, int])["marked"]

    # ---- reported agents ---------------------------------------------------------------------------------------------

    async def merge(self, path: str, size: int, timeout_s: float) -> None:
        """Sends the object in the file `path` by POST, as stock does. Raises DatabaseError, OSError."""
        await self._upload("/v1/agents/sync", path, size, timeout_s)

    async def merge_ours(
        self, path: str, size: int, timeout_s: float, *, node: str, offset_us: int | None
    ) -> MergeResult:
        """The same for our store; `offset_us`: the report holds times of a clusterd worker. Raises DatabaseError,
        OSError."""
        parameters = {"node": node} if offset_us is None else {"node": node, "offset": str(offset_us)}
        where = str(httpx.URL("/v1/clusterd/agents/sync", params=parameters))
        response = await self._upload(where, path, size, timeout_s)
        try:
            return msgspec.json.decode(response.content, type=MergeResult)
        except (msgspec.DecodeError, RecursionError) as problem:
            raise DatabaseError(2013, f"the store's answer cannot be read: {problem}") from None

    # ---- HTTP --------------------------------------------------------------------------------------------------------

    def _http_client(self) -> httpx.AsyncClient:
        if self._client is None:
            self._client = httpx.AsyncClient(
                transport=UnixTransport(self._http),
                base_url="http://localhost",
                timeout=HTTP_TIMEOUT_S,
                headers={"Accept": "application/json", "Connection": "close"},
                trust_env=False,
            )
        return self._client

    async def _request(self, method: str, path: str) -> httpx.Response:
        try:
            return await self._http_client().request(method, path)
        except httpx.HTTPError as failure:
            raise _as_database_error(failure) from None

    async def _download(self, method: str, path: str, out: str) -> tuple[int, bytes, httpx.Headers]:
        """Size, beginning and headers of a body that is written to the file `out` piece by piece."""
        try:
            async with self._http_client().stream(method, path) as response:
                if response.status_code != 200:
                    raise DatabaseError(2012, f"status {response.status_code} to {method} {path.partition('?')[0]}")
                start, size = bytearray(), 0
                with open(out, "wb") as file:
                    async for piece in response.aiter_bytes(PIECE):
                        start += piece[: max(0, SMALL - len(start))]
                        size += file.write(piece)
                return size, bytes(start), response.headers
        except httpx.HTTPError as failure:
            raise _as_database_error(failure) from None

    async def _upload(self, where: str, path: str, size: int, timeout_s: float) -> httpx.Response:
        try:
            async with asyncio.timeout(timeout_s):
                response = await self._http_client().post(
                    where,
                    content=_pieces(path),
                    headers={"Content-Type": "application/json", "Content-Length": str(size)},
                    timeout=timeout_s,
                )
        except TimeoutError:
            raise DatabaseError(2014) from None
        except httpx.HTTPError as failure:
            raise _as_database_error(failure) from None
        if response.status_code != 200:
            raise DatabaseError(2012, f"status {response.status_code} to POST {where.partition('?')[0]}")
        return response


async def _pieces(path: str) -> AsyncIterator[bytes]:
    with open(path, "rb") as file:
        while piece := file.read(PIECE):
            yield piece


def _is_empty(size: int, start: bytes) -> bool:
    """Whether the three lists are absent or empty."""
    if size > SMALL:
        return False
    try:
        lists = msgspec.json.decode(start, type=dict[str, list[Any]])
    except (msgspec.DecodeError, RecursionError) as problem:
        raise DatabaseError(2007, f"the agents to report cannot be read: {problem}") from None
    return not any(lists.values())


def _as_database_error(failure: httpx.HTTPError) -> DatabaseError:
    if isinstance(failure, httpx.ConnectError):
        return DatabaseError(2011, str(failure))
    if isinstance(failure, httpx.TimeoutException):
        return DatabaseError(2014, str(failure) or None)
    return DatabaseError(2013, f"{type(failure).__name__}: {failure}")
