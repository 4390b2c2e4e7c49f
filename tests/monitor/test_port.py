"""The monitoring port: its paths, and what it refuses."""

import asyncio
import re
import socket
from pathlib import Path

import httpx
import pytest

from clusterd.monitor import port as port_module
from clusterd.monitor.journal_reader import Filter
from clusterd.monitor.pages import DIRECTORY, INDEX, PAGES
from clusterd.rundir import run_dir
from clusterd.status.verdict import ADVICE
from tests.monitor.lone_port import DEADLINE_S, LonePort, run


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


def test_dashboard_takes_for_advice_what_the_verdict_does() -> None:
    """A build that waits for a restart stood above a lost worker, in red."""
    found = re.search(r"const ADVICE = new Set\(\[(.*?)\]\)", (DIRECTORY / "problems.js").read_text())
    assert found is not None
    assert set(re.findall(r'"(\w+)"', found[1])) == ADVICE


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
def test_refusals_have_plain_words(
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


def test_failure_of_one_answer_is_logged_once_and_delays_no_other(tmp_path: Path) -> None:
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
