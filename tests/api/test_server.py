"""The server under the application, over real TLS: slow, silent, huge or numerous callers are bounded, and others are
served."""

import asyncio
import contextlib
import json
import logging
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from clusterd.listening import http_server
from clusterd.listening.bounded_server import LARGEST_HEAD, HttpBounds, make_server
from clusterd.listening.http_server import CountedServer
from clusterd.settings import ApiSettings
from tests.api.harness import Door
from tests.net.harness import wait_until
from tools.api_setup import self_signed
from tools.rig.patience import Patience

TIMEOUT_S = 0.4
CONNECTIONS = 12


class Served:
    """A server in a thread of its own, on a port of loopback."""

    def __init__(self, directory: Path, *, both_families: bool = False, **settings: Any) -> None:
        logging.getLogger("uvicorn").addHandler(logging.NullHandler())
        self.cert, self.key = directory / "crt", directory / "key"
        cert, key = self_signed("here")
        self.cert.write_bytes(cert)
        self.key.write_bytes(key)
        self.door = Door()
        usual = {"request_timeout_s": TIMEOUT_S, "connections": CONNECTIONS, "request_bytes": 65536}
        self.settings = ApiSettings(**(usual | settings))
        self.refused: list[str] = []
        self.door.api._settings = self.settings
        self.trust = ssl.create_default_context(cafile=str(self.cert))
        self._listening = (
            socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
            if both_families
            else socket.create_server(("127.0.0.1", 0))
        )
        self.port = self._listening.getsockname()[1]
        self._server: CountedServer | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(lambda loop, context: None)
        own = self.settings
        self._server = make_server(
            self.door.api.app,
            HttpBounds(
                own.connections, own.connections_per_address, own.connections_per_network, own.request_timeout_s
            ),
            cert=str(self.cert),
            key=str(self.key),
            refused=lambda caller, text: self.refused.append(text),
        )
        await self._server.serve(sockets=[self._listening])

    def __enter__(self) -> "Served":
        self._thread.start()
        patience = Patience(60)
        while self._server is None or not self._server.started:
            assert not patience.is_over()
            time.sleep(0.005)
        return self

    def __exit__(self, *reason: object) -> None:
        assert self._server is not None
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._server.end)
        self._thread.join(60)
        assert not self._thread.is_alive()

    @property
    def connections(self) -> int:
        assert self._server is not None
        return self._server.connections

    @property
    def waiting(self) -> int:
        assert self._server is not None
        return self._server._gate.waiting

    def plain(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def tls(self) -> ssl.SSLSocket:
        return self.trust.wrap_socket(self.plain(), server_hostname="localhost")

    def is_well(self) -> bool:
        """Returns whether another caller is served."""
        with httpx.Client(verify=self.trust, base_url=f"https://localhost:{self.port}", timeout=60) as client:
            return client.get("/openapi.json").status_code == 200

    def bearer(self) -> bytes:
        return f"Authorization: Bearer {self.door.token}\r\n".encode()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("api")) as running:
        yield running


def closed_after(link: socket.socket) -> float:
    """Returns the seconds until the server ends the connection; discards what it sends before."""
    began = time.monotonic()
    with contextlib.suppress(OSError):
        while link.recv(65536):
            pass
    return time.monotonic() - began


def answer(link: socket.socket) -> tuple[int, bytes]:
    """Returns status and body of everything that arrives until the connection ends."""
    received = b""
    with contextlib.suppress(OSError):
        while piece := link.recv(65536):
            received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), body


def test_a_caller_that_does_not_speak_tls_is_disconnected(served: Served) -> None:
    with served.plain() as link:
        link.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert closed_after(link) < TIMEOUT_S + 30
    assert served.is_well()


def test_a_caller_that_never_finishes_its_handshake_is_disconnected(served: Served) -> None:
    links = [served.plain() for _ in range(3 * CONNECTIONS)]
    try:
        assert served.is_well()
        began = time.monotonic()
        for link in links:
            closed_after(link)
            assert time.monotonic() - began < TIMEOUT_S + 30
    finally:
        for link in links:
            link.close()


def test_caller_of_ipv4_has_an_address_of_ipv4_where_both_families_are_served(tmp_path: Path) -> None:
    with Served(tmp_path, both_families=True, request_timeout_s=60.0) as served:
        url = f"https://127.0.0.1:{served.port}/security/user/authenticate"
        assert httpx.post(url, verify=served.trust, auth=("nobody", "wrong"), timeout=60).status_code == 401
    assert served.door.said[0][1].startswith("Login from 127.0.0.1 refused")


def test_only_tls_from_1_2_on_is_spoken(served: Served) -> None:
    old = ssl.create_default_context(cafile=str(served.cert))
    old.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        old.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    with served.plain() as link, pytest.raises(OSError):
        old.wrap_socket(link, server_hostname="localhost")


@pytest.mark.parametrize(
    "sent", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\nX: "], ids=["silent", "line", "header"]
)
def test_a_missing_request_head_ends_the_connection(served: Served, sent: bytes) -> None:
    with served.tls() as link:
        link.sendall(sent)
        assert closed_after(link) < TIMEOUT_S + 30
    assert served.is_well()


def test_a_slow_request_head_ends_at_its_deadline(served: Served) -> None:
    with served.tls() as link:
        link.sendall(b"GET / HTTP/1.1\r\n")
        link.settimeout(0.05)
        began = time.monotonic()
        is_open = True
        while is_open and time.monotonic() - began < TIMEOUT_S + 40:
            try:
                link.sendall(b"X: y\r\n")
                is_open = link.recv(1) != b""
            except TimeoutError:
                continue
            except OSError:
                is_open = False
        assert time.monotonic() - began < TIMEOUT_S + 30


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"a" * (4 * LARGEST_HEAD),
        b"GET / HTTP/1.1\r\nX: " + b"a" * (4 * LARGEST_HEAD),
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * LARGEST_HEAD,
    ],
    ids=["line", "header", "headers"],
)
def test_a_head_without_end_ends_the_connection(served: Served, head: bytes) -> None:
    with served.tls() as link, contextlib.suppress(OSError):
        link.sendall(head)
        assert closed_after(link) < TIMEOUT_S + 30
    assert served.is_well()


def test_a_body_that_does_not_come_is_408(served: Served) -> None:
    with served.tls() as link:
        link.sendall(
            b"PUT /rules/files/a.xml HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\n"
            b"Content-Length: 1000\r\n" + served.bearer() + b"\r\n<gro"
        )
        status, body = answer(link)
    assert status == 408
    assert json.loads(body)["error"] == 408


def test_a_body_in_chunks_without_end_is_413(served: Served) -> None:
    with served.tls() as link:
        link.sendall(
            b"PUT /rules/files/a.xml HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\n"
            b"Connection: close\r\nTransfer-Encoding: chunked\r\n" + served.bearer() + b"\r\n"
        )
        with contextlib.suppress(OSError):
            for _ in range(20):
                link.sendall(b"2000\r\n" + b"x" * 8192 + b"\r\n")
        status, _ = answer(link)
    assert status == 413


@pytest.mark.parametrize(
    "request_",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /%ff%00%zz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"GET //../../etc/passwd HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
    ids=["zeros", "version", "bytes", "path", "negative", "both"],
)
def test_what_is_no_good_http_is_refused(served: Served, request_: bytes) -> None:
    with served.tls() as link:
        link.sendall(request_)
        status, body = answer(link)
    assert 400 <= status < 500
    assert b"root:" not in body
    assert b"Traceback" not in body
    assert served.is_well()


def test_silent_sockets_are_counted_before_tls_and_the_oldest_make_room(tmp_path: Path) -> None:
    """Once 3,000 of them held 1,985 descriptors, each until its handshake timed out."""
    before = psutil.Process().num_fds()
    with Served(tmp_path, request_timeout_s=60.0) as served:
        silent = [served.plain() for _ in range(300)]
        wait_until(lambda: psutil.Process().num_fds() - before - len(silent) < 4 * CONNECTIONS, "they are closed", 30)
        assert served.is_well()
        assert served.connections <= CONNECTIONS
        for link in silent:
            link.close()


def test_callers_whose_requests_are_not_answered_yet_are_not_closed_for_others(tmp_path: Path) -> None:
    with Served(tmp_path, request_timeout_s=60.0, connections_per_address=3) as served:
        busy = [served.tls() for _ in range(3)]
        for link in busy:
            link.sendall(
                b"PUT /rules/files/local.xml HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\n"
                b"Content-Length: 1000\r\n" + served.bearer() + b"\r\n<gro"
            )
        wait_until(lambda: served.waiting == 0, "their heads are read", 30)
        with served.plain() as fourth:
            assert fourth.recv(1) == b""
        assert wait_until(lambda: served.refused, "it is told", 30) == [
            "Refused a connection from 127.0.0.1: 3 connections from this address, no more are allowed."
        ]
        busy.pop().close()
        wait_until(lambda: served.connections == 2, "its place is free", 30)
        assert served.is_well()
        for link in busy:
            link.close()


def test_callers_who_have_their_answers_are_closed_for_others(tmp_path: Path) -> None:
    with Served(tmp_path, request_timeout_s=60.0, connections_per_address=3) as served:
        idle = [served.tls() for _ in range(3)]
        for link in idle:
            link.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n")
            assert link.recv(12) == b"HTTP/1.1 200"
        assert served.is_well()
        assert served.refused == []
        for link in idle:
            link.close()


def test_end_waits_for_no_look_at_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "TICK_S", 120.0)
    with Served(tmp_path) as served:
        assert served.is_well()
