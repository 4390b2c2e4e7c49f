"""Viewers by server-sent events: the status every two seconds, made once for all of them, and each event."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable

STATUS_EVERY_S = 2.0
HEARTBEAT_S = 15.0
MOST_VIEWERS = 32
MOST_WAITING = 512
"""Most events that wait for one slow viewer; beyond that it must connect again and say where it was."""
MOST_WAITING_BYTES = 4 << 20
"""The same as bytes: an event that lists many files is large."""
MOST_RECENT_BYTES = 1 << 20
PIECE_BYTES = 65536
HEARTBEAT = b": still here\n\n"
BEGIN = b"retry: 2000\n\n"


def message(kind: str, data: bytes, number: int | None = None) -> bytes:
    """One server-sent event. `data` has no line break."""
    head = f"id: {number}\n" if number is not None else ""
    return f"{head}event: {kind}\ndata: ".encode() + data + b"\n\n"


class Viewer:
    """What waits for one viewer: the newest status, and events in order."""

    def __init__(self) -> None:
        self.status: bytes | None = None
        self.events: deque[tuple[int, bytes]] = deque()
        self.waiting_bytes = 0
        self.is_behind = False
        self.news = asyncio.Event()

    def put(self, number: int, text: bytes) -> None:
        """Takes one more event, if there is room."""
        if len(self.events) >= MOST_WAITING or self.waiting_bytes + len(text) > MOST_WAITING_BYTES:
            self.is_behind = True
        else:
            self.events.append((number, text))
            self.waiting_bytes += len(text)
        self.news.set()

    def pop(self) -> bytes:
        _, text = self.events.popleft()
        self.waiting_bytes -= len(text)
        return text

    def take(self) -> bytes:
        """Returns the next part, of about PIECE_BYTES."""
        pieces, size = [], 0
        while self.events and size < PIECE_BYTES:
            text = self.pop()
            pieces.append(text)
            size += len(text)
        if not self.events:
            pieces.append(self.take_status())
            self.news.clear()
        return b"".join(pieces)

    def take_status(self) -> bytes:
        """Returns the newest status, empty if it was taken already."""
        told, self.status = self.status or b"", None
        return told


class Viewers:
    """Owner of all viewers. `status`: returns the data of the next message, None if there is none."""

    def __init__(self, status: Callable[[], Awaitable[bytes | None]]) -> None:
        self._status = status
        self._viewers: set[Viewer] = set()
        self._recent: deque[tuple[int, bytes]] = deque()
        self._recent_bytes = 0
        """The last events: the journal's file has them a second later."""
        self._came = asyncio.Event()

    @property
    def count(self) -> int:
        return len(self._viewers)

    @property
    def is_full(self) -> bool:
        return len(self._viewers) >= MOST_VIEWERS

    def hear(self, number: int, text: str) -> None:
        """Takes a new event of the journal: its `seq`, and its JSON."""
        told = message("journal", text.encode(), number)
        self._recent.append((number, told))
        self._recent_bytes += len(told)
        while len(self._recent) > MOST_WAITING or self._recent_bytes > MOST_RECENT_BYTES:
            self._recent_bytes -= len(self._recent.popleft()[1])
        for viewer in self._viewers:
            viewer.put(number, told)

    def close(self) -> None:
        """Ends what each viewer is sent, when the process stops."""
        for viewer in self._viewers:
            viewer.is_behind = True
            viewer.news.set()

    async def run(self) -> None:
        """Sends the status for ever, while there are viewers."""
        while True:
            self._came.clear()
            if self._viewers:
                data = await self._status()
                if data is not None:
                    told = message("status", data)
                    for viewer in self._viewers:
                        viewer.status = told
                        viewer.news.set()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._came.wait(), STATUS_EVERY_S if self._viewers else None)

    async def watch(
        self, earlier: Callable[[int], Awaitable[list[tuple[int, str]]]], after: int | None
    ) -> AsyncGenerator[bytes, None]:
        """Yields what one viewer is sent, until it is too far behind. `after`: the `seq` of the last event that it has
        had, None if it wants those from now on. `earlier`: returns the next events behind one, oldest first, with their
        `seq`; none when there are no more."""
        viewer = Viewer()
        self._viewers.add(viewer)
        self._came.set()
        try:
            yield BEGIN
            last = after or 0
            while after is not None:
                reading = asyncio.ensure_future(earlier(last))
                try:
                    # A disk that hangs holds up what was, not what is.
                    while not (await asyncio.wait({reading}, timeout=STATUS_EVERY_S))[0]:
                        yield viewer.take_status() or HEARTBEAT
                finally:
                    reading.cancel()
                if not reading.result():
                    break
                for number, text in reading.result():
                    last = number
                    yield message("journal", text.encode(), number)
            for number, told in list(self._recent) if after is not None else ():
                if number > last:
                    last = number
                    yield told
            while viewer.events and viewer.events[0][0] <= last:
                viewer.pop()
            while not viewer.is_behind:
                try:
                    await asyncio.wait_for(viewer.news.wait(), HEARTBEAT_S)
                except TimeoutError:
                    yield HEARTBEAT
                    continue
                yield viewer.take()
        finally:
            self._viewers.discard(viewer)
