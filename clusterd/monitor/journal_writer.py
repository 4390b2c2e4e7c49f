"""Puts events into the journal's file, in batches and outside the loop. A file that cannot be written holds up no
process: its events wait, up to a bound; those beyond it are left out and counted."""

import asyncio
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeVar

from clusterd.monitor.feed import Heard
from clusterd.monitor.journal_file import JournalFile, JournalRow, is_damage, oldest_ms
from clusterd.monitor.wall_watch import ClockState, WallWatch
from clusterd.settings import JournalSettings

T = TypeVar("T")

COMMIT_EVERY_S = 1.0
RETRY_S = 5.0
PRUNE_EVERY_S = 60.0
CLOSE_AFTER_S = 5.0
"""An idle file is closed after this time: it costs three descriptors."""
NOTE_CLOCK_EVERY_S = 3600.0
MOST_WAITING = 20_000
MOST_WAITING_BYTES = 16 << 20
BATCH = 2000
NONE_IS_OLDER = -(1 << 62)


class JournalWriter:
    """Owner of the events that are not in the file yet. `rows` and `used_bytes`: content of the file; `unwritten`:
    events that were left out."""

    def __init__(
        self,
        file: JournalFile,
        settings: JournalSettings,
        say: Callable[[str, str], None],
        trouble: Callable[[str], None],
        numbered: Callable[[int], None] = lambda seq: None,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`say`: logs a text at a level. `trouble`: called with what keeps events from the file, and with "" when that
        is over. `numbered`: called with the highest new number when events had to be renumbered."""
        self._file = file
        self.settings = settings
        self._say = say
        self._trouble = trouble
        self._numbered = numbered
        self._wall = wall
        self._monotonic = monotonic
        self._use = threading.Lock()
        """Held by the thread that uses the file. Cancelling a task does not end its thread, and closing a database that
        another thread uses crashes the process."""
        self._watch = WallWatch()
        self._noted_at = float("-inf")
        self._waiting: deque[JournalRow] = deque()
        self._waiting_bytes = 0
        self._has_events = asyncio.Event()
        self._is_failing = False
        self._aside = ""
        """What `_prune` has found, to be said."""
        self._left_out = 0
        self.unwritten = 0

    @property
    def rows(self) -> int:
        return self._file.rows

    @property
    def used_bytes(self) -> int:
        return self._file.used_bytes

    async def first_seq(self) -> int:
        """Opens the file. Returns the number of the next event; one above all earlier ones if they are unknown."""
        try:
            aside, last = await self._in_thread(self._begin)
        except (sqlite3.Error, OSError) as failure:
            self._failed(failure)
            return int(self._wall())
        if aside:
            self._say("WARNING", aside)
            return int(self._wall())
        return last + 1

    async def _in_thread(self, work: Callable[..., T], *arguments: object) -> T:
        """Runs `work` in a thread, after any earlier thread has finished with the file."""

        def alone() -> T:
            with self._use:
                return work(*arguments)

        return await asyncio.to_thread(alone)

    def _begin(self) -> tuple[str, int]:
        aside = self._file.open()
        self._watch.begin(self._file.clock() or ClockState(self._wall()), self._monotonic())
        return aside, self._file.last_seq()

    def take(self, batch: Sequence[Heard]) -> None:
        """Takes events to write."""
        for heard in batch:
            row = heard.row()
            if len(self._waiting) >= MOST_WAITING or self._waiting_bytes + len(row.data) > MOST_WAITING_BYTES:
                self.unwritten += 1
                self._left_out += 1
                continue
            self._waiting.append(row)
            self._waiting_bytes += len(row.data)
        self._has_events.set()

    async def run(self) -> None:
        """Writes waiting events and removes old ones, for ever."""
        pruned_at = written_at = time.monotonic()
        is_more = True
        while True:
            pause = COMMIT_EVERY_S if is_more or self._file.is_open else PRUNE_EVERY_S
            if not self._waiting:
                await self._wait(pause)
            now = time.monotonic()
            if self._waiting:
                if not await self._write_some():
                    await asyncio.sleep(RETRY_S)
                    continue
                written_at = now
            if is_more or now - pruned_at >= PRUNE_EVERY_S:
                pruned_at = now
                is_more = await self._attempt(self._prune)
            elif now - written_at >= CLOSE_AFTER_S and self._file.is_open and not self._waiting:
                await self._attempt(self._file.close)
            if len(self._waiting) < BATCH:
                await asyncio.sleep(COMMIT_EVERY_S)

    async def _wait(self, pause: float) -> None:
        self._has_events.clear()
        try:
            async with asyncio.timeout(pause):
                await self._has_events.wait()
        except TimeoutError:
            return

    async def finish(self) -> None:
        """Writes waiting events and closes the file: at the end of the process, when `run` has ended."""
        while self._waiting:
            if not await self._write_some():
                break
        await self._in_thread(self._file.give_up)

    async def _write_some(self) -> bool:
        batch = [self._waiting[number] for number in range(min(BATCH, len(self._waiting)))]
        try:
            aside, given = await self._in_thread(self._write, batch)
        except (sqlite3.Error, OSError) as failure:
            self._failed(failure)
            return False
        for row in batch:
            self._waiting.popleft()
            self._waiting_bytes -= len(row.data)
        if aside:
            self._say("WARNING", aside)
        if given:
            self._numbered(given)
        self._works()
        return True

    def _write(self, batch: list[JournalRow]) -> tuple[str, int]:
        """Writes in a thread. Sets a damaged file aside, once. Returns the texts to log, and the result of
        JournalFile.write."""
        aside = self._file.open()
        try:
            given = self._file.write(batch)
        except sqlite3.DatabaseError as failure:
            self._file.give_up()
            if not is_damage(failure) or aside:
                raise
            path = self._file.set_aside()
            self._file.open()
            given = self._file.write(batch)
            return f"The journal was damaged ({failure}): it is kept as {path}, and a new one is begun.", given
        except BaseException:
            self._file.give_up()
            raise
        return aside, given

    def _prune(self) -> bool:
        """Removes old events in a thread."""
        self._aside = self._file.open()
        now, here = self._wall(), self._monotonic()
        if self._watch.state is None:
            self._watch.begin(self._file.clock(), here)
        oldest = oldest_ms(self.settings.days, now) if self._watch.is_believed(now, here) else NONE_IS_OLDER
        if self._watch.state is not None and here - self._noted_at >= NOTE_CLOCK_EVERY_S:
            self._file.note_clock(self._watch.state)
            self._noted_at = here
        return self._file.prune(oldest, self.settings.size_bytes)

    async def _attempt(self, work: Callable[[], object]) -> bool:
        try:
            answer = await self._in_thread(work)
            if not self._waiting:  # else the next batch shows whether it can be written again
                self._works()
            return bool(answer)
        except (sqlite3.Error, OSError) as failure:
            await self._in_thread(self._file.give_up)
            self._failed(failure)
            return False
        finally:
            if self._aside:
                self._say("WARNING", self._aside)
                self._aside = ""

    def _failed(self, failure: Exception) -> None:
        text = f"The journal is not written, everything else goes on: {failure}. It is tried again every {RETRY_S:g} s"
        self._trouble(text)
        if not self._is_failing:
            self._is_failing = True
            self._say("WARNING", text + ".")

    def _works(self) -> None:
        if self._is_failing:
            self._is_failing = False
            self._trouble("")
            left_out = f" {self._left_out} events are not in it." if self._left_out else ""
            self._left_out = 0
            self._say("INFO", f"The journal is written again.{left_out}")
