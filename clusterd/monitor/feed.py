"""Events of this node as they arrive: numbered, and passed to its listeners (journal, hooks, viewers)."""

from collections.abc import Callable, Sequence

import msgspec

from clusterd.messages.journal import AnyEvent, as_json
from clusterd.monitor.journal_file import JournalRow, stamp

LISTENER = Callable[[Sequence["Heard"]], None]


class Heard(msgspec.Struct, frozen=True):
    """One event. `text`: its whole JSON object with its `seq`, in one line."""

    seq: int
    at: float
    event: AnyEvent
    text: str

    def row(self) -> JournalRow:
        return JournalRow(self.seq, round(self.at * 1000), self.event.kind, self.event.outcome, self.text)


class EventFeed:
    """Numbers events and passes them on. `seq` grows over all lives of the node."""

    def __init__(self, node: str, first_seq: int) -> None:
        self._node = node
        self._next = first_seq
        self._listeners: list[LISTENER] = []
        self.count = 0
        """Events received in this life of the process."""

    @property
    def last_seq(self) -> int:
        return self._next - 1

    def go_on_above(self, seq: int) -> None:
        """Notes that an event has this number: the next one gets a higher one."""
        self._next = max(self._next, seq + 1)

    def subscribe(self, listener: LISTENER) -> Callable[[], None]:
        """`listener` is called with each batch of new events, in order. It must neither wait nor raise. Returns a
        function that ends the calls."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def hear(self, told: Sequence[tuple[float, AnyEvent]]) -> None:
        """Takes new events: their moments (wall-clock seconds) and themselves."""
        batch = []
        for at, event in told:
            head = {"seq": self._next, "at": stamp(at), "node": self._node}
            text = msgspec.json.encode({**head, **as_json(event)}).decode()
            batch.append(Heard(self._next, at, event, text))
            self._next += 1
        self.count += len(batch)
        for listener in tuple(self._listeners):
            listener(batch)
