"""The monitoring port's answers (docs/monitoring.md): an ASGI application without a framework, GET and HEAD only."""

import asyncio
import contextlib
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar
from urllib.parse import parse_qs

import msgspec
from starlette.types import Receive, Scope, Send

from clusterd.messages.journal import KINDS, OUTCOMES
from clusterd.monitor.journal_reader import Filter, JournalUnreadable, Page
from clusterd.monitor.lag import LagHistory
from clusterd.monitor.live import check_processes, check_readiness, told
from clusterd.monitor.pages import PageFile, is_known
from clusterd.monitor.source import NodeSeen, StatusSource
from clusterd.monitor.viewers import Viewers
from clusterd.rounds import Rounds
from ipc.board import RowSnapshot

Headers = Mapping[bytes, bytes]
Found = TypeVar("Found")

TEXT = "text/plain; charset=utf-8"
JSON = "application/json"
METRICS = "text/plain; version=0.0.4; charset=utf-8"
LARGEST_QUERY = 2048
MOST_EVENTS = 1000
MOST_BYTES = 2 << 20
"""Most bytes of events in one answer: an event that lists many files is large, and each slow caller holds an answer."""
LONGEST_SEARCH_S = 1.0
"""The longest reading for one answer: a large journal may contain nothing of what is sought."""
USUAL_EVENTS = 100
MOST_READING = 8
SAFE_HEADERS = (
    (b"content-security-policy", b"default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
LATEST_S = 1e11
_SPAN = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)([smhd])")
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class HttpAnswer(msgspec.Struct, frozen=True):
    """A whole answer. `headers`: beside those that every answer has."""

    status: int
    body: bytes
    content_type: str = TEXT
    headers: tuple[tuple[bytes, bytes], ...] = ((b"cache-control", b"no-store"),)


class BadQuery(Exception):
    """A parameter is invalid; the text says what would be valid."""


class Past(Protocol):
    """Reads a part of the journal. May wait for the disk, so it runs in a thread."""

    def latest_page(self, wanted: Filter, limit: int) -> Page: ...

    def following(self, wanted: Filter, limit: int) -> list[dict[str, Any]]: ...


class Shown(msgspec.Struct, frozen=True):
    """The data that the application shows. `rows`: of the board; `journal`: the member `monitor` of status.json, except
    the moment at which the node was asked; `metrics`: the text for Prometheus. `primary`: why this node does not lead,
    empty if it does."""

    source: StatusSource
    rows: Callable[[], Sequence[RowSnapshot]]
    lag: LagHistory
    past: Past
    journal: Callable[[], dict[str, Any]]
    metrics: Callable[[NodeSeen | None], bytes]
    pages: Mapping[str, PageFile]
    is_our_host: Callable[[str], bool]
    primary: Callable[[], str]


class MonitorApp:
    """The owner of the loop must run `viewers` (`Viewers.run`). `counts`: answers by path and status."""

    def __init__(self, shown: Shown, rounds: Rounds) -> None:
        self._shown = shown
        self._rounds = rounds
        self.viewers = Viewers(self._status_data)
        self.counts: dict[tuple[str, int], int] = {}
        self._thread = ThreadPoolExecutor(1, "history")
        self._reading = 0
        self._paths: dict[str, Callable[[dict[str, str]], Awaitable[HttpAnswer]]] = {
            "/livez": self._livez,
            "/readyz": self._readyz,
            "/primary": self._primary,
            "/metrics": self._metrics,
            "/status.json": self._status,
            "/history.json": self._history,
            "/lag.json": self._lag,
        }

    def close(self) -> None:
        """Ends what viewers are sent, and abandons a reading that hangs."""
        self.viewers.close()
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        path, headers = scope["path"], dict(scope["headers"])
        refusal = self._refusal(scope, headers)
        if refusal is None and path == "/events":
            await self._events(scope, headers, receive, send)
            return
        answer = refusal
        if answer is None:
            with self._rounds.survive(f"answering {path}"):
                answer = await self._answer(path, scope, headers)
        answer = answer or HttpAnswer(500, b"This answer failed: see logs/cluster.log\n")
        known = path if path in self._paths else "page" if path in self._shown.pages else "other"
        self._count(known, answer.status)
        await _send(send, answer, with_body=scope["method"] != "HEAD")

    def _count(self, path: str, status: int) -> None:
        self.counts[path, status] = self.counts.get((path, status), 0) + 1

    def _refusal(self, scope: Scope, headers: Headers) -> HttpAnswer | None:
        """Returns the refusal of a request that is refused whatever its path is."""
        if not self._shown.is_our_host(headers.get(b"host", b"").decode("latin-1")):
            text = "This name does not lead here. If it is to: clusterd.monitor.names in etc/cluster.json\n"
            return HttpAnswer(421, text.encode())
        if headers.get(b"sec-fetch-site") == b"cross-site" and scope["path"] not in self._shown.pages:
            return HttpAnswer(403, b"Not for pages of other sites\n")
        if len(scope["query_string"]) > LARGEST_QUERY:
            return HttpAnswer(414, b"The query is too long\n")
        path = scope["path"]
        if path != "/events" and path not in self._paths and path not in self._shown.pages:
            return HttpAnswer(404, f"Not found. There are: {', '.join(sorted([*self._paths, '/events']))}\n".encode())
        if scope["method"] not in ("GET", "HEAD"):
            return HttpAnswer(405, b"Only GET and HEAD\n", headers=((b"allow", b"GET, HEAD"),))
        return None

    async def _answer(self, path: str, scope: Scope, headers: Headers) -> HttpAnswer:
        page = self._shown.pages.get(path)
        if page is not None:
            return _page(page, headers)
        try:
            query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True, max_num_fields=32)
            return await self._paths[path]({name: ",".join(values) for name, values in query.items()})
        except (BadQuery, ValueError) as mistake:
            return HttpAnswer(400, f"{mistake}\n".encode())
        except JournalUnreadable as failure:
            return HttpAnswer(503, f"{failure}\n".encode())

    # ---- health ------------------------------------------------------------------------------------------------------

    async def _livez(self, query: dict[str, str]) -> HttpAnswer:
        checks = check_processes(self._shown.rows(), time.monotonic())
        is_well, text = told("livez", checks, verbose="verbose" in query)
        return HttpAnswer(200 if is_well else 503, text.encode())

    async def _readyz(self, query: dict[str, str]) -> HttpAnswer:
        checks = check_processes(self._shown.rows(), time.monotonic())
        seen = await self._shown.source.current()
        if seen is None:
            checks += check_readiness({}, is_fresh=False, silent_s=None)
        else:
            checks += check_readiness(seen.status, is_fresh=seen.is_fresh, silent_s=seen.age_s)
        is_well, text = told("readyz", checks, verbose="verbose" in query)
        return HttpAnswer(200 if is_well else 503, text.encode())

    async def _primary(self, query: dict[str, str]) -> HttpAnswer:
        problem = self._shown.primary()
        return HttpAnswer(503, f"{problem}\n".encode()) if problem else HttpAnswer(200, b"this node leads\n")

    # ---- facts -------------------------------------------------------------------------------------------------------

    async def _metrics(self, query: dict[str, str]) -> HttpAnswer:
        return HttpAnswer(200, self._shown.metrics(await self._shown.source.current()), METRICS)

    async def _status(self, query: dict[str, str]) -> HttpAnswer:
        data = await self._status_data()
        if data is None:
            return HttpAnswer(503, b"The state of the node could not be read yet\n")
        return HttpAnswer(200, data, JSON)

    async def _status_data(self) -> bytes | None:
        seen = await self._shown.source.current()
        if seen is None:
            return None
        own = {"asked_at": seen.asked_at, "fresh": seen.is_fresh, "answer_age_s": seen.age_s, **self._shown.journal()}
        return msgspec.json.encode({**seen.status, "monitor": own})

    async def _lag(self, query: dict[str, str]) -> HttpAnswer:
        minutes = _number(query, "minutes", 60, 60)
        return HttpAnswer(200, msgspec.json.encode(self._shown.lag.shown(minutes)), JSON)

    async def _history(self, query: dict[str, str]) -> HttpAnswer:
        wanted = Filter(
            after=int(_number(query, "after", 0, 1 << 62, lowest=0)),
            before=int(_number(query, "before", 0, 1 << 62, lowest=0)),
            since=_since(query.get("since", ""), time.time()),
            kinds=_kinds(query.get("kind", "")),
            node=query.get("node", ""),
            path=query.get("path", ""),
        )
        limit = int(_number(query, "limit", USUAL_EVENTS, MOST_EVENTS))
        page = await self._read(self._shown.past.latest_page, wanted, limit)
        answer = {"events": page.events, "more": page.stopped_at is not None, "before": page.stopped_at}
        return HttpAnswer(200, msgspec.json.encode(answer), JSON)

    async def _read(self, read: Callable[[Filter, int], Found], wanted: Filter, limit: int) -> Found:
        """Reads events in one thread, for few requests at a time. Raises JournalUnreadable."""
        if self._reading >= MOST_READING:
            raise JournalUnreadable("too many read the journal at this moment")
        self._reading += 1
        try:
            return await self._in_turn(read, wanted, limit)
        finally:
            self._reading -= 1

    async def _in_turn(self, read: Callable[[Filter, int], Found], wanted: Filter, limit: int) -> Found:
        return await asyncio.get_running_loop().run_in_executor(self._thread, read, wanted, limit)

    # ---- server-sent events ------------------------------------------------------------------------------------------

    async def _events(self, scope: Scope, headers: Headers, receive: Receive, send: Send) -> None:
        if self.viewers.is_full:
            self._count("/events", 503)
            await _send(
                send, HttpAnswer(503, b"Too many viewers\n", headers=((b"retry-after", b"10"),)), with_body=True
            )
            return
        self._count("/events", 200)
        kind = ((b"content-type", b"text/event-stream"), (b"cache-control", b"no-store"), (b"x-accel-buffering", b"no"))
        await send({"type": "http.response.start", "status": 200, "headers": [*kind, *SAFE_HEADERS]})
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body", "body": b""})
            return
        last = headers.get(b"last-event-id", b"").decode("latin-1")
        after = int(last) if last.isascii() and last.isdigit() and len(last) < 19 else None

        async def earlier(number: int) -> list[tuple[int, str]]:
            with contextlib.suppress(JournalUnreadable):
                # Viewers wait for their turn, however many come back at once: they are few, and one that was refused
                # would miss what it asks for.
                found = await self._in_turn(self._shown.past.following, Filter(after=number), MOST_EVENTS)
                return [(event["seq"], msgspec.json.encode(event).decode()) for event in found]
            return []

        async def write() -> None:
            async with contextlib.aclosing(self.viewers.watch(earlier, after)) as pieces:
                async for piece in pieces:
                    await send({"type": "http.response.body", "body": piece, "more_body": True})

        writing, gone = asyncio.create_task(write()), asyncio.create_task(_gone(receive))
        try:
            await asyncio.wait({writing, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (writing, gone):
                task.cancel()
            await asyncio.gather(writing, gone, return_exceptions=True)
        with contextlib.suppress(Exception):  # nobody is there any more, as a rule
            await send({"type": "http.response.body", "body": b""})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send(send: Send, answer: HttpAnswer, *, with_body: bool) -> None:
    length = str(len(answer.body)).encode()
    headers = [(b"content-type", answer.content_type.encode()), (b"content-length", length)]
    if answer.status == 304:
        headers = []
    headers += [*answer.headers, *SAFE_HEADERS]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body if with_body else b""})


def _page(page: PageFile, headers: Headers) -> HttpAnswer:
    own = ((b"cache-control", b"no-cache"), (b"etag", page.etag.encode()))
    if is_known(headers.get(b"if-none-match", b"").decode("latin-1"), page.etag):
        return HttpAnswer(304, b"", page.content_type, own)
    return HttpAnswer(200, page.body, page.content_type, own)


# ---- parameters ------------------------------------------------------------------------------------------------------


def _number(query: dict[str, str], name: str, usual: float, highest: float, lowest: float = 1) -> float:
    text = query.get(name)
    if text is None:
        return usual
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not lowest <= value <= highest:
        raise BadQuery(f"{name} is a number from {lowest:g} to {highest:g}")
    return value


def _kinds(text: str) -> tuple[str, ...]:
    kinds = tuple(one for one in text.split(",") if one)
    for kind in kinds:
        name, _, outcome = kind.partition(":")
        if name not in KINDS or (outcome and outcome not in OUTCOMES[name]):
            raise BadQuery(f"kind is one or more of {', '.join(KINDS)}, each with an outcome if need be: worker:lost")
    return kinds


def _since(text: str, now: float) -> float | None:
    """Returns wall-clock seconds: given as such, as a span before now (90s, 15m, 2h, 7d), or as a date and time."""
    if not text:
        return None
    span = _SPAN.fullmatch(text)
    if span is not None:
        return now - float(span[1]) * _UNITS_S[span[2]]
    with contextlib.suppress(ValueError):
        seconds = float(text)
        if 0 <= seconds <= LATEST_S:
            return seconds
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise BadQuery(
            "since is a span (90s, 15m, 2h, 7d), a date and time (2026-11-30T03:04:05Z), or seconds"
        ) from None
