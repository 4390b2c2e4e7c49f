"""Responses that a worker's link to its master waits for."""

import asyncio
from collections.abc import Callable

from clusterd.errors import ClusterError
from clusterd.net.context import NetContext
from clusterd.net.terms import Terms
from clusterd.wire import commands
from clusterd.wire.events import Sink
from clusterd.wire.terms import parse_term


class AwaitedAnswer:
    """Waits for one response: (command, payload), or raises ClusterError 3020 or ConnectionResetError. `at_once` is
    called before anything that arrives behind a good response is handled."""

    def __init__(self, context: NetContext, command: str, at_once: Callable[[], None] | None = None) -> None:
        self._context = context
        self._command = command
        self._at_once = at_once
        self.future: asyncio.Future[tuple[str, bytes]] = asyncio.get_running_loop().create_future()

    def answered(self, command: str, payload: bytes, bodies: list[Sink]) -> None:
        self._context.slabs.drop(bodies, self._context.clock.awake())
        if self.future.done():
            return
        if self._at_once is not None and command != commands.ERR:
            self._at_once()
        self.future.set_result((command, payload))

    def unanswered(self, why: str) -> None:
        if self.future.done():
            return
        if why in ("timeout", "unsent"):
            self.future.set_exception(ClusterError(3020, self._command))
        else:
            self.future.set_exception(ConnectionResetError("the connection was closed"))


class AwaitedTerm:
    """Takes the answer of a connected master to a question about its term."""

    def __init__(self, context: NetContext, terms: Terms) -> None:
        self._context = context
        self._terms = terms

    def answered(self, command: str, payload: bytes, bodies: list[Sink]) -> None:
        self._context.slabs.drop(bodies, self._context.clock.awake())
        if command == commands.ERR or bodies:
            return
        try:
            self._terms.believe(parse_term(payload, self._terms.cluster))
        except ClusterError as problem:
            self._context.own_line("WARNING", f"The term of the master was not understood: {problem.extra}.")

    def unanswered(self, why: str) -> None:
        """The link has ended, or will: the next one asks again."""
