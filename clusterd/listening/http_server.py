"""uvicorn on a socket of ours: connections are counted when they are accepted, before any handshake, and closed
beyond a bound."""

import asyncio
import contextlib
import functools
import itertools
import socket
from collections.abc import Callable, Iterator
from typing import Any, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from clusterd.listening.accepting import Acceptor
from clusterd.listening.addresses import plain
from clusterd.listening.admission import Gatekeeper
from clusterd.listening.transport import give_up

HANDSHAKE_S = 10.0
TICK_S = 1.0
Refused = Callable[[str, str], None]
"""Hears the address (empty: everybody's) and the text, when a connection is refused."""


class CountedProtocol(HttpToolsProtocol):
    """Says when it works for its caller (`spoke`: the head of a request is there), when it waits for the caller
    (`rested`: all is answered, or nobody reads), and when the caller is gone."""

    spoke: Callable[[], None] | None = None
    rested: Callable[[], None] | None = None
    left: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.client is not None:
            self.client = (plain(self.client[0]), self.client[1])

    def on_headers_complete(self) -> None:
        if self.spoke is not None:
            self.spoke()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.rested is not None and not self._is_answering():
            self.rested()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.rested is not None:
            self.rested()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.spoke is not None and self._is_answering():
            self.spoke()

    def _is_answering(self) -> bool:
        """A request, or the last one of those that came together."""
        return self.cycle is not None and not self.cycle.response_complete

    def connection_lost(self, exc: Exception | None) -> None:
        if self.left is not None:
            self.left()
        super().connection_lost(exc)


class CountedServer(uvicorn.Server):
    """uvicorn without its own signal handlers: the process has its own."""

    def __init__(
        self,
        config: uvicorn.Config,
        gate: Gatekeeper,
        *,
        caller: Callable[[socket.socket, Any], str],
        refused: Refused,
        handshake_s: float = HANDSHAKE_S,
    ) -> None:
        """`config`: loaded, with a CountedProtocol. `caller`: who an accepted connection is counted for."""
        super().__init__(config)
        self._gate = gate
        self._caller = caller
        self._refused = refused
        self._handshake_s = handshake_s
        self._keys = itertools.count()
        self._arriving: dict[int, tuple[socket.socket, asyncio.Task[None]]] = {}
        self._made: dict[int, CountedProtocol] = {}
        self._ends = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def end(self) -> None:
        """Makes `serve` return as soon as what is under way is answered. May be called twice."""
        self.should_exit = True
        self._ends.set()

    async def main_loop(self) -> None:
        """Uvicorn's looks ten times a second whether it has to end, and waits twice for that: a process that stops, or
        whose node changes its role, took 0.2 s longer."""
        while not await self.on_tick(0):  # which also renews the answers' header Date
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ends.wait(), TICK_S)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Uvicorn's, for connections that there are."""
        if self.server_state.connections or self.server_state.tasks:
            await super().shutdown(sockets)
            return
        for one in (*self.servers, *(sockets or ())):
            one.close()
        await self.lifespan.shutdown()

    @property
    def connections(self) -> int:
        return self._gate.connections

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's for sockets that are bound."""
        self.servers = []
        for listening in sockets or ():
            listening.setblocking(False)
            listening.listen(self.config.backlog)
            acceptor = Acceptor(listening, self._accepted, lambda text: self._refused("", text))
            acceptor.start()
            self.servers.append(cast(Any, _Closing(acceptor, self._drop_arriving)))
        self.started = True

    def _accepted(self, accepted: socket.socket, address: Any) -> None:
        caller = self._caller(accepted, address)
        key = next(self._keys)
        admission = self._gate.admit(key, caller)
        if admission.refused:
            accepted.close()
            self._refused(caller, f"Refused a connection from {caller}: {admission.refused}.")
            return
        if admission.evicted is not None:
            self._drop(admission.evicted)
        task = asyncio.ensure_future(self._arrive(key, accepted))
        self._arriving[key] = accepted, task
        task.add_done_callback(functools.partial(self._arrived, key, accepted))

    async def _arrive(self, key: int, accepted: socket.socket) -> None:
        made: Any = self.config.http_protocol_class
        protocol: CountedProtocol = made(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        protocol.spoke = lambda: self._gate.name(key)
        protocol.rested = lambda: self._gate.rest(key)
        protocol.left = lambda: self._left(key)
        await asyncio.get_running_loop().connect_accepted_socket(
            lambda: protocol,
            accepted,
            ssl=self.config.ssl,
            ssl_handshake_timeout=self._handshake_s if self.config.ssl is not None else None,
        )
        if not protocol.transport.is_closing():
            self._made[key] = protocol

    def _arrived(self, key: int, accepted: socket.socket, task: "asyncio.Task[None]") -> None:
        """Also of a task that was cancelled before its first step."""
        del self._arriving[key]
        if not task.cancelled():
            task.exception()  # a handshake that failed is its caller's business
        if key not in self._made:
            with contextlib.suppress(OSError):
                accepted.shutdown(socket.SHUT_RDWR)  # what there is of TLS by now ends by that, too
            accepted.close()
            self._gate.release(key)

    def _left(self, key: int) -> None:
        self._made.pop(key, None)
        self._gate.release(key)

    def _drop(self, key: int) -> None:
        protocol = self._made.get(key)
        if protocol is not None:
            protocol.transport.abort()
        elif key in self._arriving:
            give_up(self._arriving[key][0])

    def _drop_arriving(self) -> None:
        for accepted, _ in list(self._arriving.values()):
            give_up(accepted)


class _Closing:
    """What uvicorn asks of an asyncio.Server when it stops."""

    def __init__(self, acceptor: Acceptor, drop_arriving: Callable[[], None]) -> None:
        self._acceptor = acceptor
        self._drop_arriving = drop_arriving

    def close(self) -> None:
        self._acceptor.stop()
        self._drop_arriving()

    async def wait_closed(self) -> None:
        return
