"""The monitoring port over real sockets, behind it a scripted node: what it answers, refuses and bounds."""

import asyncio
import contextlib
import json
import logging
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psutil
import pytest

from clusterd.monitor import port as port_module
from clusterd.monitor.app import MOST_EVENTS, MonitorApp, Shown
from clusterd.monitor.hosts import host_check
from clusterd.monitor.journal_reader import Filter, JournalUnreadable, Page
from clusterd.monitor.lag import LagHistory
from clusterd.monitor.pages import DIRECTORY, INDEX, PAGES, read_pages
from clusterd.monitor.port import MonitorPort
from clusterd.monitor.source import StatusSource
from clusterd.monitor.viewers import MOST_VIEWERS, MOST_WAITING, MOST_WAITING_BYTES, Viewer, Viewers
from clusterd.rounds import Rounds
from clusterd.rundir import run_dir
from clusterd.settings import Clusterd, MonitorSettings, Settings
from ipc.board import Board
from tests.monitor.fake_status import board_of_node, status_of_master
from tools.rig.nodes import free_port

DEADLINE_S = 60.0


class ScriptedPast:
    """A journal with so many events; `asked`: what was wanted of it."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.asked: list[tuple[Filter, int]] = []
        self.failure = self.text = ""
        self.stopped_at: int | None = None

    def _events(self, wanted: Filter, limit: int) -> list[dict[str, Any]]:
        self.asked.append((wanted, limit))
        if self.failure:
            raise JournalUnreadable(self.failure)
        own = {"text": self.text} if self.text else {}
        return [{"seq": seq, "kind": "change", **own} for seq in range(wanted.after + 1, self.count + 1)]

    def following(self, wanted: Filter, limit: int) -> list[dict[str, Any]]:
        return self._events(wanted, limit)[:limit]

    def latest_page(self, wanted: Filter, limit: int) -> Page:
        return Page(self._events(wanted, limit)[::-1][:limit], self.stopped_at)


class LonePort:
    """A port of its own process; everything behind it is made up."""

    def __init__(self, directory: Path) -> None:
        self.number = free_port()
        root = str(directory)
        os.makedirs(run_dir(root), exist_ok=True)
        pages = directory / "pages"
        (pages / "sub").mkdir(parents=True, exist_ok=True)
        (pages / "index.html").write_text("<!doctype html><title>here</title>")
        (pages / "app.js").write_text("let one = 1;")
        (pages / "secret.txt").write_text("no page")
        own = Clusterd(monitor=MonitorSettings(port=self.number, names=("monitor.example.net",)))
        self.settings = Settings(root=root, clusterd=own)
        self.board: Board = board_of_node(directory)
        self.past = ScriptedPast(5)
        self.lines: list[tuple[str, str]] = []
        self.problems: dict[str, str] = {}
        self.status = status_of_master()
        self.metrics = b"clusterd_verdict 0\n"
        self.word = "good"
        self.leads_not = ""
        self.source = StatusSource(lambda: self.status, Rounds(self._say))
        shown = Shown(
            source=self.source,
            rows=self.board.rows,
            lag=LagHistory(),
            past=self.past,
            journal=lambda: {"events_lost": 0, "journal": {"rows": 5, "bytes": 7}},
            metrics=lambda seen: {"good": self.metrics}[self.word],
            pages=read_pages(pages),
            is_our_host=host_check(("m", *own.monitor.names)),
            primary=lambda: self.leads_not,
        )
        self.app = MonitorApp(shown, Rounds(self._say))
        self.port = MonitorPort(self.app, self.settings, self._say, self.problems.__setitem__)

    def _say(self, level: str, text: str) -> None:
        self.lines.append((level, text))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.number}"


def run(directory: Path, work: Callable[[LonePort, httpx.AsyncClient], Awaitable[None]]) -> LonePort:
    async def serve() -> LonePort:
        lone = LonePort(directory)
        tasks = [asyncio.create_task(lone.port.run()), asyncio.create_task(lone.app.viewers.run())]
        try:
            async with asyncio.timeout(DEADLINE_S), httpx.AsyncClient(base_url=lone.url, timeout=DEADLINE_S) as client:
                while not any("The monitoring port is" in text for _, text in lone.lines):
                    await asyncio.sleep(0.01)
                await work(lone, client)
        finally:
            lone.app.close()
            lone.source.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            lone.board.close()
        return lone

    logging.getLogger("uvicorn").addHandler(logging.NullHandler())
    return asyncio.run(serve())


def test_answers_of_every_path(tmp_path: Path) -> None:
    async def work(lone: LonePort, client: httpx.AsyncClient) -> None:
        assert (await client.get("/livez")).text == "ok\n"
        assert "[+]answers ok\n" in (await client.get("/readyz?verbose")).text
        metrics = await client.get("/metrics")
        assert (metrics.content, metrics.headers["content-type"]) == (
            lone.metrics,
            "text/plain; version=0.0.4; charset=utf-8",
        )
        status = (await client.get("/status.json")).json()
        assert status["monitor"].pop("asked_at") > 0
        assert 0 <= status["monitor"].pop("answer_age_s") < DEADLINE_S
        assert status["monitor"] == {"fresh": True, "events_lost": 0, "journal": {"rows": 5, "bytes": 7}}
        assert status["verdict"]["level"] == "OK"
        assert {**lone.status, "verdict": 0, "monitor": 0} == {**status, "verdict": 0, "monitor": 0}
        assert (await client.get("/lag.json")).json() == {"step_s": 15, "from": None, "workers": {}}
        history = await client.get("/history.json?limit=2")
        assert [event["seq"] for event in history.json()["events"]] == [5, 4]
        for path in ("/livez", "/metrics", "/status.json", "/"):
            whole, head = await client.get(path), await client.head(path)
            assert (head.status_code, head.content) == (200, b"")
            assert head.headers["content-type"] == whole.headers["content-type"]
            for name, value in (("x-content-type-options", "nosniff"), ("x-frame-options", "DENY")):
                assert whole.headers[name] == value
            assert whole.headers["content-security-policy"].startswith("default-src 'self';")

    run(tmp_path, work)


def test_whole_dashboard_is_there_as_soon_as_the_code_is() -> None:
    files = [path for path in DIRECTORY.rglob("*") if path.is_file()]
    assert set(PAGES) == {"/", *(f"/page/{path.relative_to(DIRECTORY).as_posix()}" for path in files)}
    assert PAGES["/"].body == (DIRECTORY / INDEX).read_bytes()


def test_dashboard_is_served_from_memory_and_by_etag(tmp_path: Path) -> None:
    async def work(lone: LonePort, client: httpx.AsyncClient) -> None:
        index = await client.get("/")
        assert index.headers["content-type"] == "text/html; charset=utf-8"
        assert index.headers["cache-control"] == "no-cache"
        etag = index.headers["etag"]
        for known in (etag, f"W/{etag}", f'"other", {etag}', "*"):
            again = await client.get("/page/index.html", headers={"If-None-Match": known})
            assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
        assert (await client.get("/", headers={"If-None-Match": '"other"'})).status_code == 200
        assert (await client.get("/page/app.js")).headers["content-type"] == "text/javascript; charset=utf-8"
        for path in ("/page/secret.txt", "/page/../index.html", "/page/%2e%2e/etc/passwd", "/page/", "/page/none.js"):
            assert (await client.get(path)).status_code == 404, path

    run(tmp_path, work)


@pytest.mark.parametrize(
    ("method", "path", "headers", "code", "text"),
    [
        ("GET", "/nothing", {}, 404, "Not found. There are: /events, /history.json"),
        ("POST", "/status.json", {}, 405, "Only GET and HEAD"),
        ("DELETE", "/events", {}, 405, "Only GET and HEAD"),
        ("GET", "/livez", {"Host": "evil.example"}, 421, "clusterd.monitor.names"),
        ("GET", "/livez", {"Host": "m.evil.example:15516"}, 421, "clusterd.monitor.names"),
        ("GET", "/livez", {"Host": "127.0.0.1.evil.example"}, 421, "clusterd.monitor.names"),
        ("GET", "/livez", {"Host": "localhost:80"}, 200, "ok"),
        ("GET", "/livez", {"Host": "monitor.example.net:15516"}, 200, "ok"),
        ("GET", "/livez", {"Host": "M"}, 200, "ok"),
        ("GET", "/livez", {"Host": "[::1]:15516"}, 200, "ok"),
        ("GET", "/livez", {"Host": "10.0.0.7:15516"}, 200, "ok"),
        ("GET", "/status.json", {"Sec-Fetch-Site": "cross-site"}, 403, "Not for pages of other sites"),
        ("GET", "/", {"Sec-Fetch-Site": "cross-site"}, 200, "here"),
        ("GET", "/history.json?limit=0", {}, 400, "limit is a number from 1 to 1000"),
        ("GET", "/history.json?limit=nan", {}, 400, "limit is a number"),
        ("GET", "/history.json?limit=x", {}, 400, "limit is a number"),
        ("GET", "/history.json?kind=nonsense", {}, 400, "kind is one or more of"),
        ("GET", "/history.json?kind=worker:ok", {}, 400, "kind is one or more of"),
        ("GET", "/history.json?since=yesterday", {}, 400, "since is a span"),
        ("GET", "/history.json?since=inf", {}, 400, "since is a span"),
        ("GET", "/lag.json?minutes=61", {}, 400, "minutes is a number from 1 to 60"),
        ("GET", f"/history.json?path={'a' * 3000}", {}, 414, "too long"),
    ],
)
def test_what_is_refused_is_said_in_plain_words(
    tmp_path: Path, method: str, path: str, headers: dict[str, str], code: int, text: str
) -> None:
    async def work(lone: LonePort, client: httpx.AsyncClient) -> None:
        answer = await client.request(method, path, headers=headers)
        assert (answer.status_code, text in answer.text) == (code, True), answer.text
        if code == 405:
            assert answer.headers["allow"] == "GET, HEAD"

    run(tmp_path, work)


def test_history_is_asked_for_what_was_wanted(tmp_path: Path) -> None:
    async def work(lone: LonePort, client: httpx.AsyncClient) -> None:
        await client.get("/history.json?kind=worker:lost,sync&kind=change&node=w1&path=etc/*&after=3&before=9&limit=7")
        wanted, limit = lone.past.asked.pop()
        assert wanted == Filter(after=3, before=9, kinds=("worker:lost", "sync", "change"), node="w1", path="etc/*")
        assert limit == 7
        for since, expected in (("1000000.5", 1000000.5), ("2026-11-30T00:00:00Z", 1795996800.0)):
            await client.get(f"/history.json?since={since}")
            assert lone.past.asked.pop()[0].since == expected
        lone.past.failure = "the journal cannot be read"
        answer = await client.get("/history.json")
        assert (answer.status_code, answer.text) == (503, "the journal cannot be read\n")

    run(tmp_path, work)


def test_history_says_where_to_go_on_when_it_has_stopped_early(tmp_path: Path) -> None:
    async def work(lone: LonePort, client: httpx.AsyncClient) -> None:
        found = (await client.get("/history.json")).json()
        assert (found["more"], found["before"]) == (False, None)
        lone.past.stopped_at = 3
        found = (await client.get("/history.json")).json()
        assert (found["more"], found["before"]) == (True, 3)

    run(tmp_path, work)


@pytest.mark.parametrize("asks", ["nothing more", "and does not read"])
def test_connections_that_wait_for_their_callers_keep_no_scrape_out_and_no_viewer_is_lost_to_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asks: str
) -> None:
    most = 5
    bounds = msgspec.structs.replace(port_module.BOUNDS, per_address=most, send_s=DEADLINE_S)
    monkeypatch.setattr(port_module, "BOUNDS", bounds)

    async def work(lone: LonePort, client: httpx.AsyncClient) -> None:
        lone.past.count, lone.past.text = 1, "x" * (16 << 20)
        loop = asyncio.get_running_loop()
        async with client.stream("GET", "/events") as viewer:
            news = viewer.aiter_lines()
            with contextlib.ExitStack() as others:
                for _ in range(2 * most):
                    other = others.enter_context(socket.socket())
                    other.setblocking(False)
                    await loop.sock_connect(other, ("127.0.0.1", lone.number))
                    path = b"/livez" if asks == "nothing more" else b"/history.json"
                    await loop.sock_sendall(other, b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
                    assert (await loop.sock_recv(other, 100)).startswith(b"HTTP/1.1 200")
                for _ in range(2):
                    async with httpx.AsyncClient(base_url=lone.url, timeout=DEADLINE_S) as scraper:
                        assert (await scraper.get("/metrics")).status_code == 200
            lone.app.viewers.hear(7, '{"seq":7}')
            async for line in news:
                if line == 'data: {"seq":7}':
                    break
        assert not any("Refused" in text for _, text in lone.lines)

    run(tmp_path, work)


def test_caller_who_does_not_read_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the answer was given to the transport in one piece."""
    monkeypatch.setattr(port_module, "BOUNDS", msgspec.structs.replace(port_module.BOUNDS, send_s=0.2))

    async def work(lone: LonePort, client: httpx.AsyncClient) -> None:
        lone.past.count, lone.past.text = 1, "x" * (16 << 20)
        loop = asyncio.get_running_loop()
        with socket.socket() as caller:
            caller.setblocking(False)
            await loop.sock_connect(caller, ("127.0.0.1", lone.number))
            await loop.sock_sendall(caller, b"GET /history.json HTTP/1.1\r\nHost: localhost\r\n\r\n")
            ours = ("127.0.0.1", lone.number)
            while not lone.past.asked or any(
                one.laddr == ours and one.status == psutil.CONN_ESTABLISHED
                for one in psutil.Process().net_connections("tcp4")
            ):
                await asyncio.sleep(0.02)

    run(tmp_path, work)


class EventReader:
    """Reads one stream of server-sent events: id, kind, data."""

    def __init__(self, stream: httpx.Response) -> None:
        self._parts = stream.aiter_text()
        self._text = ""

    async def next(self) -> tuple[str, str, str]:
        """Raises StopAsyncIteration when the stream has ended."""
        while True:
            block, is_whole, rest = self._text.partition("\n\n")
            if not is_whole:
                self._text += await anext(self._parts)
                continue
            self._text = rest
            fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
            if "data" in fields:
                return fields.get("id", ""), fields["event"], fields["data"]


def test_viewers_get_status_and_events_and_what_they_missed(tmp_path: Path) -> None:
    async def work(lone: LonePort, client: httpx.AsyncClient) -> None:
        async with client.stream("GET", "/events", headers={"Last-Event-ID": "3"}) as stream:
            assert stream.headers["content-type"] == "text/event-stream"
            reader = EventReader(stream)
            found = [await reader.next() for _ in range(3)]
            assert [one[:2] for one in found] == [("4", "journal"), ("5", "journal"), ("", "status")]
            assert json.loads(found[2][2])["node"]["name"] == "m"
            assert lone.past.asked == [(Filter(after=3), MOST_EVENTS)]
            lone.app.viewers.hear(6, '{"seq":6}')
            while (await reader.next())[0] != "6":
                pass
        while lone.app.viewers.count:
            await asyncio.sleep(0.01)

    run(tmp_path, work)


def test_event_that_comes_while_earlier_ones_are_read_is_sent_once() -> None:
    async def status() -> bytes | None:
        return None

    async def work() -> None:
        viewers = Viewers(status)

        async def earlier() -> list[tuple[int, str]]:
            for number in (5, 6):  # they are written to the journal, and heard, before it is read
                viewers.hear(number, f'{{"seq":{number}}}')
            return [(4, '{"seq":4}'), (5, '{"seq":5}')]

        text = b""
        async with contextlib.aclosing(viewers.watch(earlier)) as pieces:
            while b"id: 6" not in text:
                text += await anext(pieces)
        assert [line for line in text.decode().splitlines() if line.startswith("id: ")] == ["id: 4", "id: 5", "id: 6"]

    asyncio.run(asyncio.wait_for(work(), DEADLINE_S))


def test_viewers_are_bounded_and_one_who_does_not_read_has_to_come_back(tmp_path: Path) -> None:
    async def work(lone: LonePort, client: httpx.AsyncClient) -> None:
        async with asyncio.TaskGroup() as group:
            release = asyncio.Event()

            async def view() -> None:
                async with client.stream("GET", "/events") as stream:
                    reader = EventReader(stream)
                    await reader.next()
                    await release.wait()
                    with contextlib.suppress(StopAsyncIteration):  # else the test ends at its deadline
                        while True:
                            await reader.next()

            viewers = [group.create_task(view()) for _ in range(MOST_VIEWERS)]
            while lone.app.viewers.count < MOST_VIEWERS:
                await asyncio.sleep(0.01)
            refused = await client.get("/events")
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "10")
            text = json.dumps({"seq": 1, "text": "x" * 8000})
            for number in range(4 * MOST_WAITING):
                lone.app.viewers.hear(number, text)
            assert len(viewers) == MOST_VIEWERS
            release.set()
        while lone.app.viewers.count:
            await asyncio.sleep(0.01)

    run(tmp_path, work)


def test_what_waits_for_a_viewer_is_bounded_in_bytes() -> None:
    viewer = Viewer()
    for number in range(10):
        viewer.put(number, b"x" * (MOST_WAITING_BYTES // 4))
    assert (viewer.is_behind, len(viewer.events)) == (True, 4)
    while viewer.events:
        viewer.take()
    assert viewer.waiting_bytes == 0


def test_failure_of_one_answer_is_said_once_and_nobody_waits(tmp_path: Path) -> None:
    async def work(lone: LonePort, client: httpx.AsyncClient) -> None:
        lone.word = "bad"
        for _ in range(2):
            assert (await client.get("/metrics")).status_code == 500
        lone.word = "good"
        assert (await client.get("/metrics")).status_code == 200

    lone = run(tmp_path, work)
    assert [level for level, text in lone.lines if "answering /metrics" in text] == ["ERROR", "INFO"]


def test_port_that_is_taken_is_a_problem_and_not_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(port_module, "AGAIN_S", 0.01)
    url_file = Path(run_dir(str(tmp_path)), "monitor.url")

    async def serve() -> None:
        lone = LonePort(tmp_path)
        with socket.create_server(("127.0.0.1", lone.number)):
            task = asyncio.create_task(lone.port.run())
            while not lone.problems.get("port"):
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            assert "another program listens there; set clusterd.monitor.port" in lone.problems["port"]
            assert [level for level, _ in lone.lines] == ["WARNING"], "said once, however often it is tried"
            assert not url_file.exists()
        async with asyncio.timeout(DEADLINE_S):
            while lone.problems["port"]:
                await asyncio.sleep(0.01)
        assert url_file.read_text() == f"{lone.url}\n"
        async with httpx.AsyncClient(base_url=lone.url, timeout=DEADLINE_S) as client:
            assert (await client.get("/livez")).text == "ok\n"
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert not url_file.exists()
        lone.source.close()
        lone.app.close()
        lone.board.close()

    asyncio.run(serve())


def test_balancer_hears_who_leads(tmp_path: Path) -> None:
    async def work(lone: LonePort, client: httpx.AsyncClient) -> None:
        assert (await client.get("/primary")).status_code == 200
        lone.leads_not = "this node is a worker"
        found = await client.head("/primary")
        assert (found.status_code, found.content) == (503, b"")
        assert (await client.get("/primary")).text == "this node is a worker\n"

    run(tmp_path, work)
