"""The process `monitor`: receives events, keeps the journal, and informs viewers and hooks. It asks other processes
only by datagrams, and no process waits for it."""

import asyncio
import contextlib
import socket
import time
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

import msgspec

from clusterd.beat import pause
from clusterd.child_loop import run_loop, until_stopped
from clusterd.event_sender import bind_receiver
from clusterd.logs import Log
from clusterd.memory import Trimmer
from clusterd.messages.journal import LARGEST, AnyEvent, LostEvents, Told
from clusterd.monitor.feed import EventFeed
from clusterd.monitor.hooks import Hooks
from clusterd.monitor.journal_file import JournalFile
from clusterd.monitor.journal_writer import JournalWriter
from clusterd.monitor.key_events import KeyFileEvents
from clusterd.monitor.service import MonitorService
from clusterd.reload import read_again
from clusterd.rounds import Rounds
from clusterd.rundir import journal_path, journal_socket, problem_path
from clusterd.settings import Settings
from clusterd.signals import heed_signals
from ipc.board import Board

NAME = "monitor"
SUBTAG = "Monitor"
HOOKS = "Hooks"
HEARTBEAT_S = 0.5
AT_ONCE = 64
"""Most messages taken in one turn of the loop."""
LONGEST_START_S = 5.0
"""How long the disk may take to say which events there are; after that numbers begin with the clock."""
FINISH_S = 3.0
RETRY_S = 5.0


def run(settings: Settings, board: Board, log: Log) -> int:
    """The child's main function. Returns the exit code."""
    return run_loop(lambda: MonitorProcess(settings, board, log).run(), settings.root)


class MonitorProcess:
    """Owner of the journal, the feed and everything else that serves viewers. `settings`: the current ones."""

    def __init__(self, settings: Settings, board: Board, log: Log) -> None:
        self.settings = settings
        self._board = board
        self._row = board.row(NAME)
        self._service: MonitorService | None = None
        self._log = log
        self._stop = asyncio.Event()
        self._trimmer = Trimmer(self._row.set_own_bytes)
        self._decoder = msgspec.msgpack.Decoder(Told)
        self._rounds = Rounds(self.say)
        self._problems: dict[str, str] = {}
        self._lost = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._writer = JournalWriter(
            JournalFile(journal_path(settings.root)),
            settings.clusterd.journal,
            self.say,
            lambda text: self.problem("journal", text),
            self._numbered,
        )
        self.feed = EventFeed(settings.cluster.node_name, 1)
        self._hooks = Hooks(
            settings.root,
            settings.cluster.node_name,
            lambda level, text: self._log.line(level, "Cluster", HOOKS, text),
            self.problem,
            lambda counter: self._row.add(counter, 1),
        )

    async def run(self) -> int:
        """Runs until SIGTERM."""
        loop = asyncio.get_running_loop()
        heed_signals(self._stop.set, self._reload)
        # Ready at once: a node serves even if its disk allows neither the socket nor the journal.
        self._row.set_ready()
        beating = asyncio.create_task(self._beat())
        receiver: socket.socket | None = None
        try:
            receiver = await self._bound()
            if receiver is None:
                return 0
            await self._begin_journal()
            self._hooks.adopt(self.settings.clusterd.hooks)
            self.feed.subscribe(self._hooks.take)
            self._begin_service()
            self._begin_key_events()
            loop.add_reader(receiver, self._receive, receiver)
            await until_stopped(self._stop, [beating, *self._tasks])
            self._row.set_stopping()
            self._receive(receiver)
        finally:
            if receiver is not None:
                loop.remove_reader(receiver)
                receiver.close()
            if self._service is not None:
                self._service.close()
            for task in (beating, *self._tasks):
                task.cancel()
            await asyncio.gather(beating, *self._tasks, return_exceptions=True)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FINISH_S):
                    await asyncio.gather(self._hooks.close(), self._writer.finish())
        return 0

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs `work` for ever, until the process ends."""
        self._tasks.append(asyncio.create_task(work))

    async def _bound(self) -> socket.socket | None:
        """Returns the socket to which other processes send events; None if the process stopped before there was one."""
        while not self._stop.is_set():
            try:
                receiver = bind_receiver(self.settings.root)
            except OSError as failure:
                text = f"No events of this node are heard: {journal_socket(self.settings.root)} {failure.strerror}"
                self.problem("events", text)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), RETRY_S)
            else:
                self.problem("events", "")
                return receiver
        return None

    async def _begin_journal(self) -> None:
        if not self.settings.clusterd.journal.enabled:
            return
        opening = asyncio.create_task(self._writer.first_seq())
        done, _ = await asyncio.wait([opening], timeout=LONGEST_START_S)
        first = opening.result() if done else int(time.time())
        self.feed = EventFeed(self.settings.cluster.node_name, first)
        self.feed.subscribe(self._writer.take)
        self.begin(self._writer.run())

    def _begin_key_events(self) -> None:
        """Our own store reports registrations itself."""
        settings = self.settings
        if settings.is_master and not settings.serves_store:
            keys = KeyFileEvents(settings.root, self._hear_own, self._rounds)
            self.feed.subscribe(keys.take)
            self.begin(keys.run())

    def _hear_own(self, events: Sequence[AnyEvent]) -> None:
        now = time.time()
        self.feed.hear([(now, event) for event in events])

    def _begin_service(self) -> None:
        if not self.settings.clusterd.monitor.enabled:
            return
        service = MonitorService(self.settings, self._board, self.feed, self.say, self.problem)
        for work in service.forever():
            self.begin(work)
        self._service = service

    # ---- events ------------------------------------------------------------------------------------------------------

    def _numbered(self, seq: int) -> None:
        """The journal gave this number to an event whose own was taken."""
        self.feed.go_on_above(seq)  # of the feed that there is by now

    def _receive(self, receiver: Any) -> None:
        batch: list[tuple[float, AnyEvent]] = []
        for _ in range(AT_ONCE):
            try:
                data = receiver.recv(LARGEST)
            except OSError:
                break
            try:
                told = self._decoder.decode(data)
            except (msgspec.DecodeError, UnicodeDecodeError) as problem:
                self._rounds_say(problem)
                continue
            if told.lost:
                self._lost += told.lost
                batch.append((told.at, LostEvents(process=told.process, count=told.lost)))
            batch.append((told.at, told.event))
        if batch:
            with self._rounds.survive("passing events on"):
                self.feed.hear(batch)

    def _rounds_say(self, problem: Exception) -> None:
        with self._rounds.survive("messages of other processes"):
            raise ValueError(f"one was not understood: {problem}")

    # ---- time --------------------------------------------------------------------------------------------------------

    async def _beat(self) -> None:
        while True:
            self._row.stamp()
            self._trimmer.tick(time.monotonic())
            self._row.set("events", self.feed.count)
            self._row.set("lost", self._lost)
            self._row.set("unwritten", self._writer.unwritten)
            self._row.set("rows", self._writer.rows)
            self._row.set("bytes", self._writer.used_bytes)
            if self._service is not None:
                self._service.tick()
            await pause(self._row, HEARTBEAT_S)

    def _reload(self) -> None:
        """After SIGHUP: applies the settings that can change without a restart."""
        self.settings = read_again(self.settings, self._log)
        self._writer.settings = self.settings.clusterd.journal
        self._hooks.adopt(self.settings.clusterd.hooks)
        if self._service is not None:
            self._service.set_limits(self.settings.clusterd.limits)

    # ---- telling -----------------------------------------------------------------------------------------------------

    def say(self, level: str, text: str) -> None:
        """Writes a line of the log."""
        self._log.line(level, "Cluster", SUBTAG, text)

    def problem(self, subject: str, text: str) -> None:
        """Sets what keeps this process from a part of its work, for `problems` of the status; "" when it is over."""
        if self._problems.get(subject, "") == text:
            return
        self._problems.pop(subject, None)
        if text:
            self._problems[subject] = text
        path = Path(problem_path(self.settings.root, NAME))
        with contextlib.suppress(OSError):
            if self._problems:
                path.write_text(". ".join(self._problems.values()) + "\n", encoding="utf-8")
            else:
                path.unlink(missing_ok=True)
