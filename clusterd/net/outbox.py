"""What waits to be written to one peer: in which order, and in slices of how many bytes. Knows no transport.

Two lanes. Responses and keepalives go first, as they are small and somebody waits for each. Requests and bodies that lie
in slabs keep their order behind them. Lanes change only between two frames; a long run of responses lets a frame of the
other lane through after each slice, so neither lane starves.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import accumulate

from clusterd.wire.frame import Piece

SLICE_BYTES = 262144
"""Most bytes handed to the transport at a time: a single write of 7 MB would block for 2.5 ms."""

Buffer = bytes | memoryview


class Entry:
    """One request, or message with a body in slabs. `slabs`: whose room it occupies until it is written or dropped."""

    __slots__ = ("_offset", "_piece", "_pieces", "_views", "begun", "size", "slabs")

    def __init__(self, pieces: Sequence[Piece], views: Sequence[memoryview], slabs: Sequence[int]) -> None:
        """The concatenation of `views` holds the bytes that the pieces name."""
        self._pieces = pieces
        self._views = views
        self._piece = 0
        self._offset = 0
        self.slabs = tuple(slabs)
        self.begun = False
        self.size = sum(len(piece.header) + piece.stop - piece.start for piece in pieces)

    def take(self, room: int, into: list[Buffer]) -> int:
        """Move at most `room` bytes of the frame in progress (a header counts as none) and return how many."""
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
    """The two lanes of one link. The link asks `next_write`, writes, and says `drained` when the transport has
    written everything it was given."""

    def __init__(self, slice_bytes: int = SLICE_BYTES) -> None:
        self._slice = slice_bytes
        self._first: deque[bytes] = deque()
        self._then: deque[Entry] = deque()
        self._current: Entry | None = None
        self._given: list[int] = []
        self._overtaken = 0
        self.waiting_bytes = 0
        self.first_bytes = 0

    def add_first(self, frames: Iterable[bytes]) -> None:
        """Complete frames that may overtake what waits in the other lane."""
        for frame in frames:
            self._first.append(frame)
            self.waiting_bytes += len(frame)
            self.first_bytes += len(frame)

    def add(self, frames: Sequence[bytes]) -> Entry:
        """The complete frames of a request, which keeps its place among the others."""
        stops = list(accumulate(map(len, frames)))
        pieces = [Piece(b"", stop - len(frame), stop) for frame, stop in zip(frames, stops, strict=True)]
        return self.add_body(pieces, [memoryview(frame) for frame in frames], ())

    def add_body(self, pieces: Sequence[Piece], views: Sequence[memoryview], slabs: Sequence[int]) -> Entry:
        """A message whose body lies in slabs; `drained` or `clear` name them when it is done with."""
        entry = Entry(pieces, views, slabs)
        self._then.append(entry)
        self.waiting_bytes += entry.size
        return entry

    def withdraw(self, entry: Entry) -> bool:
        """Take out a message nobody waits for any more. False when it was begun: a peer needs the rest of a frame."""
        if entry.begun or entry not in self._then:
            return False
        self._then.remove(entry)
        self.waiting_bytes -= entry.size
        return True

    def next_write(self) -> list[Buffer]:
        """The next buffers for one write, at most about a slice; empty when nothing waits."""
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
                    picked = Entry([Piece(b"", 0, len(picked))], [memoryview(picked)], ())
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

    def _pick(self) -> Entry | bytes | None:
        """The next message: one of the first lane, or after a slice of those one of the other."""
        if self._first and not (self._then and self._overtaken >= self._slice):
            frame = self._first.popleft()
            self.first_bytes -= len(frame)
            if self._then:
                self._overtaken += len(frame)
            return frame
        self._overtaken = 0
        return self._then.popleft() if self._then else None

    def drained(self) -> list[int]:
        """The transport has written all it was given: the slabs of the messages that were complete in it."""
        given, self._given = self._given, []
        return given

    def clear(self) -> list[int]:
        """The link is gone: all slabs that were waiting."""
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
