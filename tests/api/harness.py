"""The application over a fake node, which keeps the requests and answers from a script."""

import asyncio
import base64
import datetime
import functools
import time
from collections.abc import Callable
from typing import Any

import httpx

from clusterd.api.app import Api
from clusterd.api.tokens import Tokens
from clusterd.dapi.protocol.items import Items
from clusterd.dapi.protocol.request import ApiRequest, parse_request
from clusterd.settings import ApiSettings, Secret
from clusterd.users import User, make_user
from clusterd.wire.results import WireException, WireResult

PASSWORD = "correct horse battery"
SECRET = Secret(b"0123456789abcdef" * 8)
TODAY = datetime.date(2025, 11, 23)
PROBLEM = "application/problem+json; charset=utf-8"
Answer = WireResult | WireException


def nothing_found(request: ApiRequest) -> Answer:
    return Items("all", "some", "none").wire()


def plain(content: dict[str, Any]) -> WireResult:
    return WireResult("WazuhResult", {"str_priority": None, "result": content})


class FakeNode:
    """`asked`: the requests in their order. `answer` returns the answer to each."""

    def __init__(self, answer: Callable[[ApiRequest], Answer] = nothing_found) -> None:
        self.asked: list[ApiRequest] = []
        self.waited_s: list[float] = []
        self.answer = answer
        self.names: tuple[str, ...] = ("master-node", "worker1")
        self.absent: WireException | None = None

    async def ask(self, encoded: bytes, *, timeout_s: float) -> WireResult:
        request = parse_request(encoded)
        self.asked.append(request)
        self.waited_s.append(timeout_s)
        answer = self.answer(request)
        if isinstance(answer, WireException):
            raise answer
        return answer

    async def nodes(self) -> tuple[str, ...]:
        if self.absent is not None:
            raise self.absent
        return self.names


@functools.cache
def one_user() -> User:
    return make_user("admin", PASSWORD, 0, cost=2)


class Door:
    """A client of the application, logged in or not."""

    def __init__(self, node: FakeNode | None = None, **settings: Any) -> None:
        self.node = node or FakeNode()
        self.users = {"admin": one_user()}
        self.said: list[tuple[str, str]] = []
        self.later_s = 0.0
        self.api = Api(
            self.node,
            ApiSettings(**settings),
            users=lambda: self.users,
            secret=lambda: SECRET,
            waits_s=lambda asked_s, complete: 200.0 if complete else min(200.0, asked_s + 45),
            say=lambda level, text: self.said.append((level, text)),
            today=lambda: TODAY,
            clock=lambda: time.monotonic() + self.later_s,
        )
        self.address = "192.0.2.7"
        self.token = Tokens(lambda: SECRET, 900).issue(one_user(), time.time())

    def login(self, name: str = "admin", password: str = PASSWORD, **options: Any) -> Any:
        encoded = base64.b64encode(f"{name}:{password}".encode()).decode()
        headers = {"Authorization": f"Basic {encoded}"}
        return self.send("POST", "/security/user/authenticate", headers=headers, **options)

    def send(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Sends a request without a token."""
        return asyncio.run(self.sent(method, path, **options))

    async def sent(self, method: str, path: str, **options: Any) -> httpx.Response:
        transport = httpx.ASGITransport(self.api.app, client=(self.address, 12345))
        async with httpx.AsyncClient(transport=transport, base_url="https://node") as client:
            return await client.request(method, path, **options)

    def ask(self, method: str, path: str, **options: Any) -> Any:
        headers = {"Authorization": f"Bearer {self.token}"} | options.pop("headers", {})
        return self.send(method, path, headers=headers, **options)

    def get(self, path: str, **options: Any) -> Any:
        return self.ask("GET", path, **options)
