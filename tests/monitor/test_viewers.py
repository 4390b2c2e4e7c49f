"""The monitoring port under load: viewers of events, callers that wait or do not read."""

import asyncio
import contextlib
import json
import socket
import threading
from pathlib import Path

import httpx
import msgspec
import psutil
import pytest

from clusterd.monitor import port as port_module
from clusterd.monitor import viewers as viewers_module
from clusterd.monitor.app import MOST_EVENTS, MOST_READING
from clusterd.monitor.journal_reader import Filter
from clusterd.monitor.viewers import MOST_VIEWERS, MOST_WAITING, MOST_WAITING_BYTES, Viewer, Viewers
from tests.monitor.lone_port import DEADLINE_S, LonePort, run


@pytest.mark.slow
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


def test_caller_that_does_not_read_is_disconnected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This holds also if the answer was handed to the transport in one piece."""
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
            assert lone.past.asked == [(Filter(after=3), MOST_EVENTS), (Filter(after=5), MOST_EVENTS)]
            lone.app.viewers.hear(6, '{"seq":6}')
            while (await reader.next())[0] != "6":
                pass
        while lone.app.viewers.count:
            await asyncio.sleep(0.01)

    run(tmp_path, work)


def test_many_viewers_that_come_back_at_once_miss_nothing(tmp_path: Path) -> None:
    """As after a restart of the monitor, which knows no recent events then."""
    most, released = MOST_READING + 3, threading.Event()

    async def work(lone: LonePort, client: httpx.AsyncClient) -> None:
        read = lone.past.following
        lone.past.following = lambda *asked: read(*asked) if released.wait(DEADLINE_S) else []  # type: ignore[method-assign]

        async def view() -> list[str]:
            async with client.stream("GET", "/events", headers={"Last-Event-ID": "3"}) as stream:
                reader = EventReader(stream)
                return [(await reader.next())[0] for _ in range(2)]

        viewers = [asyncio.create_task(view()) for _ in range(most)]
        while lone.app.viewers.count < most:
            await asyncio.sleep(0.01)
        assert (await client.get("/lag.json")).status_code == 200
        released.set()
        assert await asyncio.gather(*viewers) == [["4", "5"]] * most

    run(tmp_path, work)


def test_viewer_sees_the_status_while_the_disk_with_earlier_events_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewers_module, "STATUS_EVERY_S", 0.02)

    async def status() -> bytes | None:
        return b"{}"

    async def work() -> None:
        viewers = Viewers(status)
        running = asyncio.create_task(viewers.run())

        async def earlier(last: int) -> list[tuple[int, str]]:
            await asyncio.Event().wait()
            return []

        text = b""
        async with contextlib.aclosing(viewers.watch(earlier, 3)) as pieces:
            while text.count(b"event: status") < 2:
                text += await anext(pieces)
        running.cancel()

    asyncio.run(asyncio.wait_for(work(), DEADLINE_S))


def test_event_that_comes_while_earlier_ones_are_read_is_sent_once_and_none_is_left_out() -> None:
    """One reading of the journal is bounded."""

    async def status() -> bytes | None:
        return None

    async def work() -> None:
        viewers = Viewers(status)

        async def earlier(last: int) -> list[tuple[int, str]]:
            if last == 3:
                return [(4, '{"seq":4}')]
            if last == 5:
                return []
            for number in (5, 6):  # they are written to the journal, and heard, before it is read
                viewers.hear(number, f'{{"seq":{number}}}')
            return [(5, '{"seq":5}')]

        text = b""
        async with contextlib.aclosing(viewers.watch(earlier, 3)) as pieces:
            while b"id: 6" not in text:
                text += await anext(pieces)
        assert [line for line in text.decode().splitlines() if line.startswith("id: ")] == ["id: 4", "id: 5", "id: 6"]

    asyncio.run(asyncio.wait_for(work(), DEADLINE_S))


def test_viewer_that_comes_back_gets_what_the_journal_has_not_written_yet() -> None:
    async def status() -> bytes | None:
        return None

    async def work(after: int | None) -> list[str]:
        viewers = Viewers(status)
        for number in range(2 * MOST_WAITING):
            viewers.hear(number, f'{{"seq":{number}}}')

        async def earlier(last: int) -> list[tuple[int, str]]:
            return []

        text = b""
        async with contextlib.aclosing(viewers.watch(earlier, after)) as pieces:
            text += await anext(pieces)
            viewers.hear(2 * MOST_WAITING, "{}")
            while f"id: {2 * MOST_WAITING}\n".encode() not in text:
                text += await anext(pieces)
        return [line.removeprefix("id: ") for line in text.decode().splitlines() if line.startswith("id: ")]

    newest = 2 * MOST_WAITING
    for after, first in ((newest - 3, newest - 2), (None, newest)):
        found = asyncio.run(asyncio.wait_for(work(after), DEADLINE_S))
        assert found == [str(number) for number in range(first, newest + 1)]


@pytest.mark.slow
def test_viewers_are_bounded_and_one_that_does_not_read_has_to_reconnect(tmp_path: Path) -> None:
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
