"""The requests of this node on one link that wait for their responses."""

from collections.abc import Iterator

from clusterd.net.asking import AnswerTaker, Ask
from clusterd.net.outbox import Outbox, OutboxEntry
from clusterd.wire.command_table import NOTICES
from clusterd.wire.connection import Connection


class SentRequests:
    """Owner of the askers, by the number of their request. Slabs of requests that need not be sent any more are
    returned to the caller, who owns them."""

    def __init__(self, connection: Connection, outbox: Outbox) -> None:
        self._connection = connection
        self._outbox = outbox
        self._asks: dict[int, Ask] = {}

    def __bool__(self) -> bool:
        """Whether any request waits."""
        return bool(self._asks)

    def add(self, number: int, command: str, entry: OutboxEntry, asker: AnswerTaker, timeout_s: float) -> None:
        """Remembers who asks. `entry`: the request's place in the outbox."""
        self._asks[number] = Ask(asker, command, entry, timeout_s)

    def take(self, number: int) -> AnswerTaker | None:
        """The asker of a request whose response has come; None when nobody waits for it any more."""
        ask = self._asks.pop(number, None)
        return None if ask is None else ask.asker

    def withdraw(self, number: int) -> list[int]:
        """Forgets a request: its response is no longer needed. Returns slabs."""
        ask = self._asks.pop(number, None)
        self._connection.forget(number)
        return [] if ask is None or not self._is_withdrawn(ask) else list(ask.entry.slabs)

    def expire(self, now: float, taken_at: float) -> Iterator[tuple[AnswerTaker, list[int], str]]:
        """Ends the requests whose time is over. Yields the asker of each, slabs, and what the asker is to be told.

        The time of a request begins when all of it was sent (wire.md 2.3): a body of 5 MiB takes half a minute on a
        slow line, and so does what waits behind it. `taken_at`: when the peer last took bytes; `now` if it takes
        some."""
        for number, open_ask in self._asks.items():
            if not open_ask.entry.is_finished:
                self._connection.put_off(number, taken_at + open_ask.timeout_s)
        for number in self._connection.expire(now):
            ask = self._asks.pop(number, None)
            if ask is not None:
                if self._is_withdrawn(ask):
                    yield ask.asker, list(ask.entry.slabs), "unsent"
                else:
                    yield ask.asker, [], "timeout"

    def close(self) -> list[AnswerTaker]:
        """The link has ended. Returns the askers, who are to be told."""
        asks, self._asks = self._asks, {}
        return [ask.asker for ask in asks.values()]

    def _is_withdrawn(self, ask: Ask) -> bool:
        """A request that nobody waits for need not be sent, unless the peer waits for it."""
        return ask.command not in NOTICES and self._outbox.withdraw(ask.entry)
