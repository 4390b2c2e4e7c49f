"""uvicorn with the bounds that it lacks: number of connections, size and duration of a head, slow readers."""

import asyncio
import socket
from typing import Any

import msgspec
import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clusterd.listening.addresses import network_of
from clusterd.listening.admission import Bounds, Gatekeeper
from clusterd.listening.http_server import CountedProtocol, CountedServer, Refused

LARGEST_HEAD = 65536
"""Most bytes of a request's first line and headers."""
SEND_S = 300.0
"""How long sending an answer may take."""
KEEP_ALIVE_S = 5
STOP_S = 2
BACKLOG = 128


class HttpBounds(msgspec.Struct, frozen=True):
    """What a server bears. `head_s`: how long a handshake, and the head of a request, may take to arrive; `send_s`: how
    long its caller may take to read what was written."""

    connections: int
    per_address: int
    per_network: int
    head_s: float
    send_s: float = SEND_S


def make_server(
    app: ASGIApp, bounds: HttpBounds, *, refused: Refused, cert: str | None = None, key: str | None = None
) -> CountedServer:
    """Returns a server, to be run with a bound socket. `cert`, `key`: for HTTPS. `refused`: called for connections
    above the limits. Raises OSError (ssl.SSLError) for an unusable certificate or key."""
    config = uvicorn.Config(
        _Hurried(app, bounds.send_s),
        http=_protocol(bounds.head_s, bounds.send_s),
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
    gate = Gatekeeper(Bounds(bounds.connections, bounds.per_address, bounds.per_network, bounds.connections))
    return CountedServer(config, gate, caller=_caller, refused=refused, handshake_s=bounds.head_s)


def _caller(accepted: socket.socket, address: Any) -> str:
    return network_of(str(address[0]))


class _Hurried:
    """The application, aborted when its caller does not read."""

    def __init__(self, app: ASGIApp, send_s: float) -> None:
        self._app = app
        self._send_s = send_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def hurried(message: Message) -> None:
            async with asyncio.timeout(self._send_s):
                await send(message)

        await self._app(scope, receive, hurried)


def _protocol(head_s: float, send_s: float) -> type[CountedProtocol]:
    """uvicorn creates one for each connection and passes none of our arguments, so they are in a closure."""

    class BoundedProtocol(CountedProtocol):
        _in_head = True
        _head_bytes = 0
        _head_timer: asyncio.TimerHandle | None = None
        _send_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            # An answer in one piece is given to the transport at once, and closing waits until it is read: what is
            # unread is watched here, from its first bytes on.
            transport.set_write_buffer_limits(high=1, low=0)
            self._begin_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._end_head()
            self._all_read()
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            super().pause_writing()
            if self._send_timer is None:
                self._send_timer = self.loop.call_later(send_s, self._too_slow)

        def resume_writing(self) -> None:
            self._all_read()
            super().resume_writing()

        def _all_read(self) -> None:
            if self._send_timer is not None:
                self._send_timer.cancel()
                self._send_timer = None

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
            self._head_timer = self.loop.call_later(head_s, self._too_slow)

        def _end_head(self) -> None:
            self._in_head = False
            self._head_bytes = 0
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None

        def _too_slow(self) -> None:
            self.transport.abort()

    return BoundedProtocol
