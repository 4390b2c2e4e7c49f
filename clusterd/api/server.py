"""uvicorn, held to bounds that it has none for: how many connections, how large and slow a head, how slow a reader."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from clusterd.settings import ApiSettings

LARGEST_HEAD = 65536
"""Bytes of a request's first line and headers."""
SEND_S = 300.0
"""How long an answer may take to leave."""
KEEP_ALIVE_S = 5
STOP_S = 2
BACKLOG = 128


class QuietServer(uvicorn.Server):
    """uvicorn without its own signal handlers: the process has its own. A TLS handshake is bounded in time."""

    def __init__(self, config: uvicorn.Config, handshake_s: float) -> None:
        super().__init__(config)
        self._handshake_s = handshake_s

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's for sockets that are bound. It leaves callers that never finish a handshake a minute each, and counts
        them nowhere."""
        config, loop = self.config, asyncio.get_running_loop()

        def protocol() -> asyncio.Protocol:
            made: Any = config.http_protocol_class
            return cast(
                asyncio.Protocol, made(config=config, server_state=self.server_state, app_state=self.lifespan.state)
            )

        self.servers = [
            await loop.create_server(
                protocol,
                sock=listening,
                ssl=config.ssl,
                backlog=config.backlog,
                ssl_handshake_timeout=self._handshake_s,
            )
            for listening in sockets or ()
        ]
        self.started = True


def make_server(app: ASGIApp, settings: ApiSettings, *, cert: str, key: str) -> QuietServer:
    """To be run with a socket that is bound already. Raises OSError (ssl.SSLError) for a certificate or key that cannot be
    used."""
    config = uvicorn.Config(
        _Hurried(app),
        http=_protocol(settings),
        ssl_certfile=cert,
        ssl_keyfile=key,
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        proxy_headers=False,
        server_header=False,
        date_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=STOP_S,
    )
    config.load()
    return QuietServer(config, settings.request_timeout_s)


class _Hurried:
    """The application, given up when its caller does not read."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def hurried(message: Message) -> None:
            async with asyncio.timeout(SEND_S):
                await send(message)

        await self._app(scope, receive, hurried)


def _protocol(settings: ApiSettings) -> type[HttpToolsProtocol]:
    """uvicorn makes one for each connection, without arguments of ours."""

    class BoundedProtocol(HttpToolsProtocol):
        _in_head = True
        _head_bytes = 0
        _head_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > settings.connections:
                transport.abort()
                return
            self._begin_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._end_head()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self._in_head:
                self._head_bytes += len(data)
                if self._head_bytes > LARGEST_HEAD:
                    self.transport.abort()

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._begin_head()

        def on_headers_complete(self) -> None:
            self._end_head()
            super().on_headers_complete()

        def _begin_head(self) -> None:
            self._end_head()
            self._in_head = True
            self._head_timer = self.loop.call_later(settings.request_timeout_s, self._too_slow)

        def _end_head(self) -> None:
            self._in_head = False
            self._head_bytes = 0
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None

        def _too_slow(self) -> None:
            self.transport.abort()

    return BoundedProtocol
