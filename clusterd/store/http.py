"""The HTTP socket (wdb.md 7), and our own endpoints below `/v1/clusterd` for two nodes with this store.

GET  /v1/clusterd                             {"store": 1, "node_type": ...}
POST /v1/clusterd/agents/take?limit=N         what waits to be reported, still marked; headers X-Clusterd-Batch,
-Agents, -More POST /v1/clusterd/agents/confirm?batch=N      the master has that batch; 410 when the store has forgotten
it POST /v1/clusterd/agents/sync?node=W[&offset=U] reported agents of worker W; what became of them
"""

import re
import sqlite3
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, TypeVar

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from clusterd.listening.admission import Bounds, Gatekeeper
from clusterd.listening.http_server import CountedProtocol, CountedServer
from clusterd.store import report
from clusterd.store.engine import Engine
from clusterd.store.groups import groups_of
from clusterd.store.jsontext import encode
from clusterd.store.new_term import report_again
from clusterd.store.stream import process_of

T = TypeVar("T")
PIECE = 500
"""Agents merged in one transaction; a keepalive can run between two of them."""
MOST_AGENTS = 100_000
TOP = 5
_NUMBERS = re.compile(rb"-?\d+")
_INT64 = range(-(1 << 63), 1 << 63)
Endpoint = Callable[[Request], Awaitable[Response]]


class RestartQuery(msgspec.Struct, frozen=True):
    ids: list[int] = []
    negate: bool = False


class StoreApi:
    """The HTTP endpoints over one engine."""

    def __init__(
        self, engine: Engine, *, node_type: str, body_limit: Callable[[], int], say: Callable[[str, str], None]
    ) -> None:
        """`body_limit`: most bytes of a request. `say`: logs a text at a level."""
        self._engine = engine
        self._node_type = node_type
        self._body_limit = body_limit
        self._say = say
        self._batches = report.Batches()
        self.app = Starlette(
            routes=[
                self._route("GET", "/v1/agents/ids", self.ids),
                self._route("GET", "/v1/agents/ids/groups", self.groups),
                self._route("GET", "/v1/agents/ids/groups/{group}", self.group_members),
                self._route("POST", "/v1/agents/summary", self.summary),
                self._route("POST", "/v1/agents/restartinfo", self.restart_info),
                self._route("GET", "/v1/agents/sync", self.take_all),
                self._route("POST", "/v1/agents/sync", self.merge),
                self._route("GET", "/v1/agents/{id}/groups", self.groups_of_agent),
                self._route("GET", "/v1/clusterd", self.about),
                self._route("POST", "/v1/clusterd/agents/take", self.take),
                self._route("POST", "/v1/clusterd/agents/confirm", self.confirm),
                self._route("POST", "/v1/clusterd/agents/sync", self.merge_ours),
                self._route("POST", "/v1/clusterd/agents/again", self.report_again),
            ],
            exception_handlers={HTTPException: _refused},
        )
        # `/v1/agents/ids/` is a different path: do not redirect to it.
        self.app.router.redirect_slashes = False

    def server(self, most: int) -> CountedServer:
        """Runs on the store's loop with a socket that already listens. `most`: connections at a time; one process may
        have half."""
        config = uvicorn.Config(
            self.app,
            http=CountedProtocol,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            date_header=False,
            timeout_graceful_shutdown=2,
        )
        config.load()
        gate = Gatekeeper(Bounds(most, (most + 1) // 2, (most + 1) // 2, most))
        return CountedServer(config, gate, caller=process_of, refused=lambda caller, text: None)

    def _route(self, method: str, path: str, endpoint: Endpoint) -> Route:
        """Any failure is answered with 500 and an empty body; our log has the reason."""

        async def guarded(request: Request) -> Response:
            try:
                return await endpoint(request)
            except HTTPException:
                raise
            except ClientDisconnect:
                return Response(status_code=500)  # nobody reads it
            except Exception as failure:
                self._say("WARNING", f"{method} {request.url.path} failed: {type(failure).__name__}: {failure}")
                return Response(status_code=500)

        route = Route(path, guarded, methods=[method])
        # starlette would add HEAD to GET, and a HEAD of `/v1/agents/sync` would clear all reports with an empty answer.
        route.methods = {method}
        return route

    async def _body(self, request: Request) -> bytes:
        most = self._body_limit()
        if int(request.headers.get("content-length") or 0) > most:
            raise HTTPException(413)
        body = bytearray()
        async for piece in request.stream():
            body += piece
            if len(body) > most:
                raise HTTPException(413)
        return bytes(body)

    # ---- wdb.md 7.1 to 7.6 -------------------------------------------------------------------------------------------

    async def ids(self, request: Request) -> Response:
        return _json(encode(await self._engine.read(_ids)))

    async def groups(self, request: Request) -> Response:
        return _json(encode(await self._engine.read(_groups_by_agent)))

    async def group_members(self, request: Request) -> Response:
        name = request.path_params["group"]
        return _json(encode(await self._engine.read(lambda db: _members(db, name))))

    async def groups_of_agent(self, request: Request) -> Response:
        agent_id = int(request.path_params["id"])
        if agent_id not in _INT64 or "_" in request.path_params["id"]:
            return Response(status_code=500)
        return _json(encode(await self._engine.read(lambda db: groups_of(db, agent_id))))

    async def summary(self, request: Request) -> Response:
        body = await self._body(request)
        if not body:
            return _json(encode(await self._engine.read(lambda db: _summary(db, None))))
        wanted = [int(number) for number in _NUMBERS.findall(body)]
        return _json(encode(await self._engine.read(lambda db: _summary(db, wanted))))

    async def restart_info(self, request: Request) -> Response:
        body = await self._body(request)
        query = msgspec.json.decode(body, type=RestartQuery) if body else RestartQuery()
        return _json(encode({"items": await self._engine.read(lambda db: _active(db, query))}))

    # ---- agent-info --------------------------------------------------------------------------------------------------

    async def take_all(self, request: Request) -> Response:
        return _json(await self._engine.write(report.take_all))

    async def merge(self, request: Request) -> Response:
        reported = msgspec.json.decode(await self._body(request), type=report.Reported)
        for piece in _pieces(reported):
            for warning in await self._engine.write_piece(_with(report.merge, piece)):
                self._say("WARNING", f"Not written: {warning}")
        await self._engine.write(_nothing, durable=True)
        return Response()

    async def about(self, request: Request) -> Response:
        return _json(encode({"store": 1, "node_type": self._node_type}))

    async def take(self, request: Request) -> Response:
        limit = max(1, min(MOST_AGENTS, int(request.query_params.get("limit", "10000"))))
        moments = request.query_params.get("moments") == "1"
        body, rows, more = await self._engine.read(lambda db: report.take_some(db, limit, moments=moments))
        headers = {"X-Clusterd-Agents": str(len(rows)), "X-Clusterd-More": str(int(more)), "X-Clusterd-Batch": "0"}
        if rows:
            headers["X-Clusterd-Batch"] = str(self._batches.keep(rows))
        return Response(body, media_type="application/json", headers=headers)

    async def confirm(self, request: Request) -> Response:
        rows = self._batches.pop(int(request.query_params["batch"]))
        if rows is None:
            return Response(status_code=410)
        count = 0
        for start in range(0, len(rows), PIECE):
            count += await self._engine.write_piece(_with(report.confirm, rows[start : start + PIECE]))
        return _json(encode({"confirmed": count}))

    async def report_again(self, request: Request) -> Response:
        key = request.query_params["term"]
        return _json(encode({"marked": await report_again(self._engine, key)}))

    async def merge_ours(self, request: Request) -> Response:
        node, offset = request.query_params["node"], request.query_params.get("offset")
        offset_us = None if offset is None else int(offset)
        reported = msgspec.json.decode(await self._body(request), type=report.Reported)
        merged, stale, errors = 0, 0, list[str]()
        for piece in _pieces(reported):
            # A clusterd worker reports what is not confirmed again. With the rest of what its master has given up, the
            # store would never have done the new ones in time, and hold more and more of them.
            if offset is not None and await request.is_disconnected():
                raise ClientDisconnect
            done = await self._engine.write_piece(_with(report.merge_ours, piece, node, offset_us))
            merged += done.merged
            stale += done.stale
            errors += done.errors
        await self._engine.write(_nothing, durable=True)
        return _json(encode({"merged": merged, "stale": stale, "errors": errors[: report.MOST_ERRORS]}))


async def _refused(request: Request, refusal: Exception) -> Response:
    """A known path with another method is answered like an unknown path (wdb.md 7)."""
    status = refusal.status_code if isinstance(refusal, HTTPException) else 500
    return Response(status_code=404 if status == 405 else status)


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")


def _with(work: Callable[..., T], *arguments: Any) -> Callable[[Any], T]:
    return lambda session: work(session, *arguments)


def _nothing(session: object) -> None:
    return


def _pieces(reported: report.Reported) -> Iterator[Sequence[report.Element]]:
    """Batches in the order of 7.8, each from one list."""
    lists: tuple[Sequence[report.Element], ...] = (
        reported.syncreq,
        reported.syncreq_keepalive,
        reported.syncreq_status,
    )
    for elements in lists:
        for start in range(0, len(elements), PIECE):
            yield elements[start : start + PIECE]


# ---- readers ---------------------------------------------------------------------------------------------------------


def _ids(db: sqlite3.Connection) -> list[int]:
    return [row[0] for row in db.execute("select id from agent where id > 0 order by id")]


def _groups_by_agent(db: sqlite3.Connection) -> dict[str, Any]:
    found: dict[int, list[str]] = {}
    for agent_id, name in db.execute(
        'select b.id_agent, g.name from belongs b join "group" g on g.id = b.id_group where b.id_agent > 0'
        " order by b.id_agent, b.priority"
    ):
        found.setdefault(agent_id, []).append(name)
    if not found:
        return {}
    return {"data": {key: found[int(key)] for key in sorted(str(agent_id) for agent_id in found)}}


def _members(db: sqlite3.Connection, name: str) -> list[int]:
    return [
        row[0]
        for row in db.execute(
            'select b.id_agent from belongs b join "group" g on g.id = b.id_group where g.name = ? and b.id_agent > 0'
            " order by b.id_agent",
            (name,),
        )
    ]


def _summary(db: sqlite3.Connection, wanted: list[int] | None) -> dict[str, dict[str, int]]:
    """`wanted`: ids to count, None for all. Returns the TOP most frequent values of each kind."""
    chosen, limit, listed = "id > 0", TOP, "[]"
    if wanted is not None:
        listed = encode([one for one in wanted if one > 0 and one in _INT64]).decode()
        chosen, limit = "id in (select value from json_each(:ids))", -1
    kinds = {
        "agents_by_status": f"select connection_status, count(*) from agent where {chosen}",
        "agents_by_groups": 'select g.name, count(*) from belongs b join "group" g on g.id = b.id_group'
        f" where {chosen.replace('id ', 'b.id_agent ', 1)}",
        "agents_by_os": f"select os_platform, count(*) from agent where {chosen} and os_platform != ''",
    }
    counts = {
        kind: dict(db.execute(f"{query} group by 1 order by 2 desc, 1 limit {limit}", {"ids": listed}).fetchall())
        for kind, query in kinds.items()
    }
    return {kind: found for kind, found in counts.items() if found}


def _active(db: sqlite3.Connection, query: RestartQuery) -> list[dict[str, Any]]:
    condition = ""
    if query.ids:
        condition = f"and id {'not ' if query.negate else ''}in (select value from json_each(:ids))"
    found = db.execute(
        f"select id, version from agent where connection_status = 'active' {condition} order by id",
        {"ids": encode([one for one in query.ids if one in _INT64]).decode()},
    )
    return [{"id": agent_id, "version": version or ""} for agent_id, version in found]
