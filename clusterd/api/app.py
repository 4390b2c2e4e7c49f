"""The REST API as an ASGI application: identifies the user, validates the request, returns the node's answer. No
process, socket or file in here."""

import asyncio
import datetime
import re
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from html import escape

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from clusterd import __version__, stacks
from clusterd.api.body import read_body
from clusterd.api.calls import Asked, Caller, WaitsS, read_values
from clusterd.api.endpoint import JSON, Endpoint
from clusterd.api.jsontext import dump
from clusterd.api.logins import Logins
from clusterd.api.node import Asker, as_wire
from clusterd.api.openapi import LOGIN_PATH, document
from clusterd.api.page import ADDRESS, page
from clusterd.api.parameters import PRETTY, RAW, Parameter
from clusterd.api.problem import Refused, failure_response
from clusterd.api.table import ENDPOINTS
from clusterd.api.tokens import Tokens
from clusterd.dapi.protocol.items import CLASS, Items
from clusterd.errors import ClusterError
from clusterd.listening.addresses import network_of
from clusterd.listening.attempts import AttemptLimiter
from clusterd.listening.strangers import StrangerLines
from clusterd.messages.journal import AnyEvent
from clusterd.settings import ApiSettings, Limits, Secret
from clusterd.users import User, UserProblem
from clusterd.wire.results import WireException, WireResult, shorten

MOST_PATH_SHOWN = 200
READERS = "has the role reader: only an admin may change something or see keys (clusterd api user role)"
_ADDRESS = re.compile(r"[A-Za-z0-9._-]{1,253}(?::[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](?::[0-9]{1,5})?")
"""Host and port by which the caller reached us; the examples on the page show them."""
HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
POLICY = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
"""For every answer: a browser that takes it for a page loads nothing, sends nothing, and does not show it in a
frame."""
PAGE_POLICY = f"{POLICY}; style-src 'unsafe-inline'"
Handler = Callable[[Request], Awaitable[Response]]
Say = Callable[[str, str], None]


class Counters(msgspec.Struct):
    """Counts of all requests since the process began. `refused`: answered with a status from 400 to 499; `failed`: from
    500."""

    requests: int = 0
    refused: int = 0
    failed: int = 0


class Api:
    """The endpoints over one node."""

    def __init__(
        self,
        asker: Asker,
        settings: ApiSettings,
        *,
        users: Callable[[], dict[str, User]],
        secret: Callable[[], Secret],
        waits_s: WaitsS,
        say: Say,
        limits: Limits | None = None,
        today: Callable[[], datetime.date] = datetime.date.today,
        clock: Callable[[], float] = time.monotonic,
        tell: Callable[[AnyEvent], None] = lambda event: None,
    ) -> None:
        """`users` may raise UserProblem, `secret` StartFailure. `say`: level and text of a log line; `limits`: how many
        log lines strangers may cause. `waits_s`: as in Caller. `tell` takes logins, for the journal."""
        self.counters = Counters()
        self._settings = settings
        self._users = users
        self._tokens = Tokens(secret, settings.token_s)
        limiter = AttemptLimiter(settings.login_attempts, settings.login_window_s)
        self._logins = Logins(limiter, users, clock=clock, tell=tell)
        self._clock = clock
        self._caller = Caller(asker, settings, waits_s=waits_s)
        self._say = say
        limits = limits or Limits()
        self.strangers = StrangerLines(limits.log_lines_per_address_s, limits.log_lines, say)
        self._today = today
        self._document = dump(document(ENDPOINTS))
        self._page = page(ENDPOINTS)
        self.app = Starlette(routes=self._routes(), exception_handlers={HTTPException: self._not_routed})
        self.app.router.redirect_slashes = False

    def _routes(self) -> list[Route]:
        by_path: dict[str, dict[str, Handler]] = {
            "/": {"GET": self._about},
            LOGIN_PATH: {"POST": self._login},
            "/openapi.json": {"GET": self._show_document},
            "/docs": {"GET": self._show_page},
        }
        for endpoint in ENDPOINTS:
            by_path.setdefault(endpoint.path, {})[endpoint.method] = self._handler(endpoint)
        return [Route(path, self._dispatch(handlers), methods=list(handlers)) for path, handlers in by_path.items()]

    def _dispatch(self, handlers: Mapping[str, Handler]) -> Handler:
        """Returns one handler for all methods of a path, so that a 405 lists them all."""

        async def handle(request: Request) -> Response:
            handler = handlers["GET" if request.method == "HEAD" else request.method]
            return self._finished(await self._guarded(request, handler))

        return handle

    async def _guarded(self, request: Request, handler: Handler) -> Response:
        """Turns every exception into an answer."""
        try:
            return await handler(request)
        except Refused as refusal:
            return refusal.response()
        except ClusterError as failure:
            return failure_response(as_wire(failure))
        except UserProblem as problem:
            if self.strangers.admit("users", self._clock()) is not None:
                self._say("ERROR", str(problem))
            return Refused(500, "the users cannot be read; the log of this node says why", error=1000).response()
        except ClientDisconnect:
            return Refused(400, "the request ended before it was whole").response()
        except Exception:
            self._say("ERROR", f"{request.method} {_shown_path(request)} met a bug:\n{stacks.told()}")
            return failure_response(WireException(1000, None))

    def _finished(self, response: Response) -> Response:
        self.counters.requests += 1
        self.counters.refused += 400 <= response.status_code < 500
        self.counters.failed += response.status_code >= 500
        response.headers.update(HEADERS)
        response.headers.setdefault("Content-Security-Policy", POLICY)
        return response

    async def _not_routed(self, request: Request, refusal: Exception) -> Response:
        """Answers a request for an unknown path, or with a method that the path does not have."""
        status = refusal.status_code if isinstance(refusal, HTTPException) else 500
        headers = refusal.headers if isinstance(refusal, HTTPException) else None
        texts = {404: "there is no such path", 405: "the path does not have this method"}
        return self._finished(
            Refused(status, texts.get(status, "the request is malformed"), headers=headers).response()
        )

    # ---- the front door's own ----------------------------------------------------------------------------------------

    async def _about(self, request: Request) -> Response:
        self._tokens.user_of(request.headers.get("authorization"), self._users())
        given = _values(request, (PRETTY,))
        data = {
            "title": "clusterd REST API",
            "api_version": __version__,
            "revision": 1,
            "license_name": "Apache-2.0",
            "license_url": "https://www.apache.org/licenses/LICENSE-2.0",
            "hostname": socket.gethostname(),
            "timestamp": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        pretty = PRETTY.keywords(given.get("pretty"), self._today).get("pretty", False)
        return _json({"data": data, "error": 0}, pretty=pretty)

    async def _login(self, request: Request) -> Response:
        address = request.client.host if request.client else ""
        given = _values(request, (RAW, PRETTY))
        raw, pretty = (one.keywords(given.get(one.name), self._today).get(one.name, False) for one in (RAW, PRETTY))
        began = time.time()  # before the password is looked at, which may change meanwhile
        try:
            user = await self._logins.user_of(request.headers.get("authorization"), address)
        except Refused as refusal:
            more = self.strangers.admit(("login", network_of(address)), self._clock())
            if more is not None:
                before = f" ({more} more since the last line)" if more else ""
                self._say("WARNING", f"Login from {address} refused: {refusal.detail}{before}")
            raise
        self._say("INFO", f"User {user.name} logged in from {address}")
        token = self._tokens.issue(user, began)
        if raw:
            return Response(token, media_type="text/plain")
        return _json({"data": {"token": token}, "error": 0}, pretty=pretty)

    async def _show_document(self, request: Request) -> Response:
        return Response(self._document, media_type=JSON)

    async def _show_page(self, request: Request) -> Response:
        found = _ADDRESS.fullmatch(request.headers.get("host", ""))
        address = found[0] if found else f"{socket.gethostname()}:{self._settings.port}"
        return HTMLResponse(
            self._page.replace(ADDRESS, escape(address)), headers={"Content-Security-Policy": PAGE_POLICY}
        )

    # ---- the endpoints of the table ----------------------------------------------------------------------------------

    def _handler(self, endpoint: Endpoint) -> Handler:
        is_for_admins = endpoint.is_for_admins

        async def handle(request: Request) -> Response:
            began = time.monotonic()
            user = self._tokens.user_of(request.headers.get("authorization"), self._users())
            if is_for_admins and not user.is_admin:
                self._tell(request, user.name, endpoint, 403, began)
                raise Refused(403, f"{user.name} {READERS}", error=4000)
            given = _values(request, endpoint.all_parameters)
            arguments, common = read_values(endpoint, given, self._today)
            if endpoint.body is not None:
                arguments |= await read_body(request, endpoint.body, self._settings)
            asked = Asked(
                endpoint=endpoint, arguments=arguments, user=user.name, wait_for_complete=common["wait_for_complete"]
            )
            pretty = common["pretty"]
            try:
                response = await _rendered(await self._caller.call(asked), endpoint, arguments, pretty=pretty)
            except ClusterError as failure:
                response = failure_response(as_wire(failure), pretty=pretty)
            self._tell(request, user.name, endpoint, response.status_code, began)
            return response

        return handle

    def _tell(self, request: Request, user: str, endpoint: Endpoint, status: int, began: float) -> None:
        took_ms = (time.monotonic() - began) * 1000
        level = "INFO" if endpoint.changes else "DEBUG"
        address = request.client.host if request.client else ""
        self._say(level, f"{user} {address} {endpoint.method} {_shown_path(request)}: {status} in {took_ms:.0f} ms")


def _values(request: Request, parameters: tuple[Parameter, ...]) -> dict[str, str]:
    """Returns the values of path and query by name. Raises Refused for unknown names and for names given twice."""
    values: dict[str, str] = dict(request.path_params)
    known = {parameter.name for parameter in parameters if parameter.place == "query"}
    for name, value in request.query_params.multi_items():
        if name not in known:
            raise Refused(400, f"unknown query parameter {shorten(name)}; there are: {', '.join(sorted(known))}")
        if name in values:
            raise Refused(400, f"the parameter {name} is there twice")
        values[name] = value
    return values


async def _rendered(
    result: WireResult, endpoint: Endpoint, arguments: Mapping[str, object], *, pretty: bool
) -> Response:
    """Renders a result as the answer of the REST API (dapi.md 4.3). Raises WireException for a malformed result."""
    if result.wire_class == CLASS:
        body = Items.of_wire(result).rendered()
    else:
        content = result.fields.get("result")
        if not isinstance(content, dict):
            raise WireException(1000, "a result without an object", cmd_error=True)
        # As in stock, the text of a rule, decoder or list is under `message`, that of a group's file under `data`.
        text = content.get("message", content.get("data"))
        if endpoint.raw_type and arguments.get("raw") and isinstance(text, str):
            return Response(text, media_type=f"{endpoint.raw_type}; charset=utf-8")
        body = content | {"error": 0}
    # Writing a long list takes a while: a thread does it, so that other requests are served meanwhile.
    dumped = await asyncio.to_thread(dump, body, pretty=pretty)
    return Response(dumped, media_type=JSON)


def _json(body: object, *, pretty: bool) -> Response:
    return Response(dump(body, pretty=pretty), media_type=JSON)


def _shown_path(request: Request) -> str:
    """Returns the path for a log line. The query may contain anything and is left out."""
    path = request.url.path[:MOST_PATH_SHOWN]
    return path.encode("unicode_escape").decode("ascii")
