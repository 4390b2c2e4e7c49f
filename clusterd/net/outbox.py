"""Queues everything to be written to one peer: its order, and the size of each write. Knows no transport.

There are two lanes. Responses and keepalives go first: they are small and somebody waits for each. Requests and bodies
in slabs keep their order behind them. The lane changes only between two frames; during a long run of responses one
frame of the other lane follows each slice, so neither lane starves.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import accumulate

from clusterd.wire.frame import Piece

SLICE_BYTES = 262144
"""Most bytes given to the transport at once: a single write of 7 MB would block for 2.5 ms."""

Buffer = bytes | memoryview


class OutboxEntry:
    """One request, or a message with a body in slabs. `slabs` are occupied until it is written or dropped."""

    __slots__ = ("_offset", "_piece", "_pieces", "_views", "begun", "size", "slabs")

    def __init__(self, pieces: Sequence[Piece], views: Sequence[memoryview], slabs: Sequence[int]) -> None:
        """`views` together hold the bytes that `pieces` refer to."""
        self._pieces = pieces
        self._views = views
        self._piece = 0
        self._offset = 0
        self.slabs = tuple(slabs)
        self.begun = False
        self.size = sum(len(piece.header) + piece.stop - piece.start for piece in pieces)

    def take(self, room: int, into: list[Buffer]) -> int:
        """Moves at most `room` bytes of the current frame to the output (a header counts as none) and returns how
        many."""
        piece = self._pieces[self._piece]
        start = piece.start + self._offset
        count = min(room, piece.stop - start)
        taken = count
        if not self._offset and piece.header:
            into.append(piece.header)
            taken += len(piece.header)
        self._slices(start, count, into)
        self._offset += count
        self.begun = True
        if start + count == piece.stop:
            self._piece += 1
            self._offset = 0
        return taken

    @property
    def is_between_frames(self) -> bool:
        return self._offset == 0

    @property
    def is_finished(self) -> bool:
        return self._piece == len(self._pieces)

    def _slices(self, start: int, count: int, into: list[Buffer]) -> None:
        for view in self._views:
            if not count:
                return
            if start >= len(view):
                start -= len(view)
                continue
            part = view[start : start + count]
            into.append(part)
            count -= len(part)
            start = 0


class Outbox:
    """The two lanes of one link. The link calls `next_write`, writes, and calls `drained` when the transport has
    written everything."""

    def __init__(self, slice_bytes: int = SLICE_BYTES) -> None:
        self._slice = slice_bytes
        self._first: deque[bytes] = deque()
        self._then: deque[OutboxEntry] = deque()
        self._current: OutboxEntry | None = None
        self._given: list[int] = []
        self._overtaken = 0
        self.waiting_bytes = 0
        self.first_bytes = 0

    def add_first(self, frames: Iterable[bytes]) -> None:
        """Adds complete frames that may overtake the other lane."""
        for frame in frames:
            self._first.append(frame)
            self.waiting_bytes += len(frame)
            self.first_bytes += len(frame)

    def add(self, frames: Sequence[bytes]) -> OutboxEntry:
        """Adds the complete frames of a request, which keeps its place."""
        stops = list(accumulate(map(len, frames)))
        pieces = [Piece(b"", stop - len(frame), stop) for frame, stop in zip(frames, stops, strict=True)]
        return self.add_body(pieces, [memoryview(frame) for frame in frames], ())

    def add_body(self, pieces: Sequence[Piece], views: Sequence[memoryview], slabs: Sequence[int]) -> OutboxEntry:
        """Adds a message whose body lies in slabs; `drained` or `clear` returns them."""
        entry = OutboxEntry(pieces, views, slabs)
        self._then.append(entry)
        self.waiting_bytes += entry.size
        return entry

    def withdraw(self, entry: OutboxEntry) -> bool:
        """Removes a message that nobody waits for any more. False if it was begun: the peer needs the rest of the
        frame."""
        if entry.begun or entry not in self._then:
            return False
        self._then.remove(entry)
        self.waiting_bytes -= entry.size
        return True

    def next_write(self) -> list[Buffer]:
        """The buffers of the next write, about one slice; empty when nothing is queued."""
        out: list[Buffer] = []
        room = self._slice
        while room > 0:
            entry = self._current
            if entry is None:
                picked = self._pick()
                if picked is None:
                    break
                if isinstance(picked, bytes):
                    if len(picked) <= self._slice:
                        out.append(picked)
                        room -= len(picked)
                        self.waiting_bytes -= len(picked)
                        continue
                    picked = OutboxEntry([Piece(b"", 0, len(picked))], [memoryview(picked)], ())
                entry = picked
            taken = entry.take(room, out)
            room -= taken
            self.waiting_bytes -= taken
            self._current = None if entry.is_between_frames else entry
            if entry.is_finished:
                self._given.extend(entry.slabs)
            elif self._current is None:
                self._then.appendleft(entry)
        return out

    def _pick(self) -> OutboxEntry | bytes | None:
        """The next message: from the first lane, or after a slice of those one from the other lane."""
        if self._first and not (self._then and self._overtaken >= self._slice):
            frame = self._first.popleft()
            self.first_bytes -= len(frame)
            if self._then:
                self._overtaken += len(frame)
            return frame
        self._overtaken = 0
        return self._then.popleft() if self._then else None

    def drained(self) -> list[int]:
        """The transport has written everything: returns the slabs of the messages completed by it."""
        given, self._given = self._given, []
        return given

    def clear(self) -> list[int]:
        """The link has ended: returns all slabs that were waiting."""
        slabs = self._given
        if self._current is not None:
            slabs = [*slabs, *self._current.slabs]
        for entry in self._then:
            slabs = [*slabs, *entry.slabs]
        self._first.clear()
        self._then.clear()
        self._current, self._given, self.waiting_bytes, self.first_bytes = None, [], 0, 0
        return slabs

    def __bool__(self) -> bool:
        return bool(self._first or self._then or self._current is not None)
