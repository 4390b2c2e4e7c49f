"""authd on a worker: what it sends to the master and how often, with a scripted local socket."""

import asyncio
import contextlib
import json
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from clusterd.errors import ClusterError
from clusterd.store import forward
from clusterd.store.forward import Forwarder
from clusterd.wire.results import encode_failure

ADD = b'{"function":"add","arguments":{"name":"web-01","ip":"any"}}'
ANSWER = b'{"error":0,"data":{"id":"001","name":"web-01","ip":"any","key":"k"}}'
Script = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


def frame(command: str, payload: bytes, counter: int = 7) -> bytes:
    return struct.pack(">II", counter, len(payload)) + f"{command} ".encode().ljust(12, b"-") + payload


class LocalSocket:
    """Accepts one request for each connection and acts as the script says; keeps the requests."""

    def __init__(self, root: Path, script: Script) -> None:
        self.path = root / "queue/cluster/c-internal.sock"
        self.script = script
        self.requests: list[tuple[str, Any]] = []
        self.tasks: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator["LocalSocket"]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        server = await asyncio.start_unix_server(self._serve, self.path)
        try:
            yield self
        finally:
            server.close()
            await asyncio.gather(*self.tasks, return_exceptions=True)
            self.path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        header = await reader.readexactly(20)
        payload = await reader.readexactly(struct.unpack(">I", header[4:8])[0])
        self.requests.append((header[8:20].decode(), json.loads(payload)))
        await self.script(payload, writer)
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def says(*frames: bytes) -> Script:
    async def script(payload: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"".join(frames))

    return script


def ask(root: Path, script: Script, request: bytes = ADD, **options: float) -> tuple[Any, LocalSocket]:
    async def main() -> tuple[Any, LocalSocket]:
        async with LocalSocket(root, script).serving() as served:
            answer = await Forwarder(str(root), **{"link_wait_s": 2.0, "answer_s": lambda: 5.0} | options).answer(
                request
            )
            return json.loads(answer), served

    return asyncio.run(main())


def test_answer_comes_back_as_the_daemon_gave_it(tmp_path: Path) -> None:
    answer, served = ask(tmp_path, says(frame("ok", ANSWER)))
    assert answer == json.loads(ANSWER)
    assert served.requests == [("sendsync ---", {"daemon_name": "authd", "message": json.loads(ADD)})]


def test_master_hears_which_program_of_the_worker_asked(tmp_path: Path) -> None:
    async def main() -> list[tuple[str, Any]]:
        async with LocalSocket(tmp_path, says(frame("ok", ANSWER))).serving() as served:
            await Forwarder(str(tmp_path)).answer(ADD, "agent-auth")
            await Forwarder(str(tmp_path)).answer(ADD[:-1] + b',"clusterd_who":"ann"}', "python3")
            return served.requests

    assert [asked["message"] for _, asked in asyncio.run(main())] == [
        json.loads(ADD) | {"clusterd_who": who} for who in ("agent-auth", "ann")
    ]


def test_earlier_messages_of_the_server_are_skipped_before_the_answer(tmp_path: Path) -> None:
    answer, _ = ask(tmp_path, says(frame("echo-m", b"hello"), frame("ok", ANSWER)))
    assert answer["error"] == 0


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (b"{", 9002),
        (b'{"arguments":{}}', 9003),
        (b'{"function":"add"}', 9004),
        (b'{"function":"fly","arguments":{}}', 9001),
        (b'{"function":"add","arguments":{"ip":"any"}}', 9005),
        (b'{"function":"get","arguments":{}}', 9010),
    ],
)
def test_malformed_requests_do_not_bother_the_master(tmp_path: Path, request_: bytes, error: int) -> None:
    answer, served = ask(tmp_path, says(frame("ok", ANSWER)), request_)
    assert answer["error"] == error
    assert served.requests == []


def test_text_is_answered_here(tmp_path: Path) -> None:
    assert asyncio.run(Forwarder(str(tmp_path)).answer(b"getconfig auth")).startswith(b"ok {")
    assert asyncio.run(Forwarder(str(tmp_path)).answer(b"what")) == b"err Unrecognized command"


def test_without_a_link_it_waits_and_then_says_why(tmp_path: Path) -> None:
    started = time.monotonic()
    answer, served = ask(tmp_path, says(frame("err", encode_failure(ClusterError(3023)))))
    assert answer["error"] == 9001
    assert "not connected to master" in answer["message"]
    assert time.monotonic() - started > 1.0
    assert 2 <= len(served.requests) <= 3


def test_without_a_cluster_process_it_says_so(tmp_path: Path) -> None:
    answer = json.loads(asyncio.run(Forwarder(str(tmp_path), link_wait_s=0.1).answer(ADD)))
    assert answer["error"] == 9001
    assert "does not listen" in answer["message"]


def test_link_that_comes_back_in_time_serves_the_request(tmp_path: Path) -> None:
    seen = 0

    async def script(payload: bytes, writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        seen += 1
        writer.write(frame("ok", ANSWER) if seen > 1 else frame("err", encode_failure(ClusterError(3023))))

    answer, served = ask(tmp_path, script, link_wait_s=5.0)
    assert answer["error"] == 0
    assert len(served.requests) == 2


@pytest.mark.parametrize(
    ("script", "word"),
    [
        (says(frame("err", encode_failure(ClusterError(3023, "the connection was lost")))), "connection was lost"),
        (says(frame("err", b"Error 1014 - Error communicating with socket: 'nodaemon'")), "nodaemon"),
        (says(), "whether the agent was registered is not known"),
        (says(frame("ok", b"x" * 70_000)), "70000 bytes"),
    ],
)
def test_request_that_went_out_is_not_sent_again(tmp_path: Path, script: Script, word: str) -> None:
    answer, served = ask(tmp_path, script)
    assert answer["error"] == 9001
    assert word in answer["message"]
    assert len(served.requests) == 1


def test_silence_of_the_master_ends(tmp_path: Path) -> None:
    async def script(payload: bytes, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(1)

    answer, served = ask(tmp_path, script, answer_s=lambda: 0.2)
    assert answer["error"] == 9001
    assert "did not answer within 0.2 s" in answer["message"]
    assert len(served.requests) == 1


def test_many_without_a_link_ask_about_once_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here five times as often."""
    monkeypatch.setattr(forward, "AGAIN_S", 0.2)
    monkeypatch.setattr(forward, "SPREAD_S", 0.04)

    async def main() -> None:
        async with LocalSocket(tmp_path, says(frame("err", encode_failure(ClusterError(3023))))).serving() as served:
            forwarder = Forwarder(str(tmp_path), link_wait_s=0.6)
            answers = await asyncio.gather(*(forwarder.answer(ADD) for _ in range(40)))
            assert {json.loads(answer)["error"] for answer in answers} == {9001}
            assert len(served.requests) < 60 + 40

    asyncio.run(main())


def test_more_than_can_be_under_way_do_not_wait_for_a_link_twice(tmp_path: Path) -> None:
    async def main() -> None:
        async with LocalSocket(tmp_path, says(frame("err", encode_failure(ClusterError(3023))))).serving() as served:
            forwarder = Forwarder(str(tmp_path), link_wait_s=600.0)
            waiting = [asyncio.create_task(forwarder.answer(ADD)) for _ in range(300)]
            async with asyncio.timeout(120):
                while not served.requests or forwarder._room.locked():  # 64 that wait for a link would leave no room
                    await asyncio.sleep(0.01)
            for one in waiting:
                one.cancel()
            ends = await asyncio.gather(*waiting, return_exceptions=True)
            assert {type(end) for end in ends} == {asyncio.CancelledError}

    asyncio.run(main())


def test_at_most_64_are_with_the_master_and_each_client_gets_its_own_answer(tmp_path: Path) -> None:
    now = most = 0
    full = asyncio.Event()

    async def script(payload: bytes, writer: asyncio.StreamWriter) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        if now == 64:
            full.set()
        await full.wait()
        await asyncio.sleep(0)
        now -= 1
        name = json.loads(payload)["message"]["arguments"]["name"]
        writer.write(frame("ok", json.dumps({"error": 0, "data": {"name": name}}).encode()))

    async def main() -> None:
        async with LocalSocket(tmp_path, script).serving():
            forwarder = Forwarder(str(tmp_path), answer_s=lambda: 10)
            requests = [ADD.replace(b"web-01", b"web-%d" % n) for n in range(200)]
            answers = [json.loads(one) for one in await asyncio.gather(*map(forwarder.answer, requests))]
            assert [one["data"]["name"] for one in answers] == [f"web-{n}" for n in range(200)]
            assert most == 64

    asyncio.run(main())


def test_message_is_sent_as_the_client_wrote_it(tmp_path: Path) -> None:
    request = b'{"function":"add","arguments":{"name":"\xc3\xa9","ip":"any","extra":[1.50,null]},"more":{}}\0'
    _, served = ask(tmp_path, says(frame("ok", ANSWER)), request)
    assert served.requests[0][1]["message"] == json.loads(request[:-1])


def test_empty_answer_is_reported_and_not_asked_for_again(tmp_path: Path) -> None:
    answer, served = ask(tmp_path, says(frame("ok", b"")))
    assert answer["error"] == 9001
    assert "gave no answer" in answer["message"]
    assert len(served.requests) == 1


def test_socket_that_cannot_be_used_is_no_link(tmp_path: Path) -> None:
    path = tmp_path / "queue/cluster/c-internal.sock"
    path.parent.mkdir(parents=True)
    path.symlink_to(path)
    answer = json.loads(asyncio.run(Forwarder(str(tmp_path), link_wait_s=0.1).answer(ADD)))
    assert answer["error"] == 9001
    assert "cannot be asked" in answer["message"]


@pytest.mark.parametrize("cut", [0, 10, 20, 30])
def test_connection_that_ends_within_the_answer_is_not_tried_again(cut: int, tmp_path: Path) -> None:
    answer, served = ask(tmp_path, says(frame("ok", ANSWER)[:cut]))
    assert answer["error"] == 9001
    assert "not known" in answer["message"]
    assert len(served.requests) == 1
