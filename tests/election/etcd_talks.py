"""Conversations with the client of etcd; requests of the tests' own."""

import asyncio
import base64
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx

from clusterd.election.etcd import (
    Etcd,
    EtcdUnavailable,
)
from clusterd.settings import EtcdSettings
from tools.rig.patience import slowness

LONG_S = 60.0
Talk = Callable[[Etcd], Awaitable[None]]


def talk(
    endpoints: list[str], what: Talk, *, timeout_s: float = LONG_S, witness: str = "", watch_s: float = 30, **more: Any
) -> None:
    """Runs this coroutine with a client that has these settings."""

    async def run() -> None:
        client = Etcd(EtcdSettings(tuple(endpoints), **more), timeout_s=timeout_s, witness=witness, watch_s=watch_s)
        try:
            await what(client)
        finally:
            await client.close()

    asyncio.run(run())


def post(endpoint: str, path: str, body: dict[str, Any]) -> Any:
    """Sends a request without the client under test."""
    answer = httpx.post(f"{endpoint}/v3/{path}", json=body, timeout=LONG_S, trust_env=False)
    assert answer.status_code == 200, answer.text
    return answer.json()


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


async def until(call: Callable[[], Awaitable[Any]]) -> Any:
    """Returns the call's answer once a majority has a leader again."""
    deadline = time.monotonic() + LONG_S * slowness()
    while True:
        try:
            return await call()
        except EtcdUnavailable:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.1)
