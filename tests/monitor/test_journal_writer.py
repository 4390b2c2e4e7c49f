"""Events are written to the file outside the loop; a file that cannot be written delays nothing."""

import asyncio
import sqlite3
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from clusterd.messages.journal import LoginEvent
from clusterd.monitor import journal_writer
from clusterd.monitor.feed import EventFeed
from clusterd.monitor.journal_file import JournalFile, JournalRow
from clusterd.monitor.journal_reader import JournalReader
from clusterd.monitor.journal_writer import JournalWriter
from clusterd.monitor.wall_watch import ClockState
from clusterd.settings import JournalSettings
from tools.rig.patience import Patience


class Disk(JournalFile):
    """A journal's file whose disk fails while the test wants it. `commits`: how many there were."""

    failure: Exception | None = None
    failure_of_prune: Exception | None = None
    commits = 0

    def write(self, rows: Sequence[JournalRow]) -> int:
        if self.failure is not None:
            raise self.failure
        self.commits += 1
        return super().write(rows)

    def prune(self, oldest_ms: int, size_bytes: int) -> bool:
        if self.failure_of_prune is not None:
            raise self.failure_of_prune
        return super().prune(oldest_ms, size_bytes)


class Site:
    def __init__(self, directory: Path, settings: JournalSettings) -> None:
        self.path = directory / "journal.db"
        self.file = Disk(str(self.path))
        self.said: list[tuple[str, str]] = []
        self.trouble = ""
        self.feed = EventFeed("m", 1)
        self.writer = JournalWriter(
            self.file,
            settings,
            lambda *line: self.said.append(line),
            self._trouble,
            self._numbered,
        )

    def _trouble(self, text: str) -> None:
        self.trouble = text

    def _numbered(self, seq: int) -> None:
        self.feed.go_on_above(seq)

    def tell(self, count: int, at: float = 0.0) -> None:
        self.feed.hear([(at or time.time(), LoginEvent(user=f"u{number}")) for number in range(count)])

    @property
    def last(self) -> int:
        return JournalReader(str(self.path)).last_seq()

    async def until(self, condition: Callable[[], bool]) -> None:
        patience = Patience(60)
        while not condition():
            assert not patience.is_over(), (self.said, self.trouble)
            await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RETRY_S", "COMMIT_EVERY_S", "CLOSE_AFTER_S"):
        monkeypatch.setattr(journal_writer, name, 0.05)


def play(
    directory: Path,
    story: Callable[[Site], Awaitable[None]],
    settings: JournalSettings = JournalSettings(),  # noqa: B008  # frozen
) -> Site:
    async def main() -> Site:
        site = Site(directory, settings)
        site.feed = EventFeed("m", await site.writer.first_seq())
        site.feed.subscribe(site.writer.take)
        running = asyncio.create_task(site.writer.run())
        try:
            await story(site)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await site.writer.finish()
        return site

    return asyncio.run(main())


def test_events_that_come_together_are_one_commit_and_numbers_go_on(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        site.tell(500)
        await site.until(lambda: site.last == 500)
        assert site.file.commits == 1

    play(tmp_path, story)

    async def second(site: Site) -> None:
        site.tell(1)

    play(tmp_path, second)
    assert JournalReader(str(tmp_path / "journal.db")).last_seq() == 501


def test_file_that_nothing_is_written_to_is_closed(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        site.tell(1)
        await site.until(lambda: site.last == 1)
        await site.until(lambda: not site.file.is_open)
        site.tell(1)
        await site.until(lambda: site.last == 2)

    play(tmp_path, story)


def test_full_disk_is_logged_once_and_what_waited_is_written_when_there_is_room(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        site.file.failure = sqlite3.OperationalError("database or disk is full")
        site.tell(3)
        await site.until(lambda: "disk is full" in site.trouble)
        site.tell(3)
        await asyncio.sleep(0)
        site.file.failure = None
        await site.until(lambda: site.last == 6)
        await site.until(lambda: not site.trouble)

    site = play(tmp_path, story)
    assert [level for level, _ in site.said] == ["WARNING", "INFO"]
    assert site.writer.unwritten == 0


def test_failure_of_a_look_for_old_events_is_over_with_the_next_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a node on which nothing happens no event would show it."""
    monkeypatch.setattr(journal_writer, "PRUNE_EVERY_S", 0.05)

    async def story(site: Site) -> None:
        site.tell(1)
        await site.until(lambda: site.last == 1)
        site.file.failure_of_prune = sqlite3.OperationalError("database is locked")
        await site.until(lambda: "is locked" in site.trouble)
        site.file.failure_of_prune = None
        await site.until(lambda: not site.trouble)

    site = play(tmp_path, story)
    assert [level for level, _ in site.said] == ["WARNING", "INFO"]


def test_what_waits_is_bounded_and_the_rest_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_writer, "MOST_WAITING", 10)

    async def story(site: Site) -> None:
        site.file.failure = OSError(5, "Input/output error")
        site.tell(25)
        await site.until(lambda: bool(site.trouble))
        assert site.writer.unwritten == 15
        site.file.failure = None
        await site.until(lambda: site.last == 10)

    site = play(tmp_path, story)
    assert ("INFO", "The journal is written again. 15 events are not in it.") in site.said


def test_file_that_is_damaged_while_open_is_kept_aside_and_no_event_of_the_batch_is_lost(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        site.tell(3)
        log = tmp_path / "journal.db-wal"  # folded into the file when it is closed, unless somebody reads it then
        await site.until(lambda: site.file.commits > 0 and not site.file.is_open and not log.exists())
        site.path.write_bytes(b"no database" * 1000)
        site.tell(2)
        await site.until((tmp_path / "journal.db.damaged").exists)
        await site.until(lambda: site.path.exists() and site.last == 5 and bool(site.said))

    site = play(tmp_path, story)
    assert [level for level, _ in site.said] == ["WARNING"]
    assert site.trouble == ""


def test_numbers_after_a_damaged_file_are_above_all_earlier_ones(tmp_path: Path) -> None:
    (tmp_path / "journal.db").write_bytes(b"no database" * 1000)

    async def story(site: Site) -> None:
        assert site.feed.last_seq > 1_700_000_000

    play(tmp_path, story)


class Clocks:
    """A writer of one life after another, with the test's clocks."""

    def __init__(self, directory: Path) -> None:
        self.file = JournalFile(str(directory / "journal.db"))
        self.wall, self.passed = 1.8e9, 0.0
        self.restart()
        self.file.open()
        self.tell(1)

    def restart(self) -> None:
        """Monotonic time begins again, too, as after a boot."""
        self.passed = 0.0
        settings = JournalSettings(days=30)
        self.writer = JournalWriter(
            self.file, settings, lambda *_: None, lambda _: None, lambda _: None, lambda: self.wall, lambda: self.passed
        )

    def tell(self, seq: int) -> None:
        self.file.write([JournalRow(seq, int(self.wall * 1000), "login", "ok", "{}")])

    def go_on(self, seconds: float, leap_s: float = 0.0) -> int:
        """Moves the clock. Returns how many events are left."""
        self.passed, self.wall = self.passed + seconds, self.wall + seconds + leap_s
        self.writer._prune()
        return self.file.rows


YEARS_S = 70 * 365 * 86400.0


@pytest.mark.parametrize("is_running", [True, False])
def test_clock_that_leaps_forward_makes_nothing_old_for_a_day(tmp_path: Path, is_running: bool) -> None:
    clocks = Clocks(tmp_path)
    if is_running:  # else the leap was before this life
        assert clocks.go_on(0) == 1
    assert clocks.go_on(0, YEARS_S) == 1
    assert clocks.go_on(80_000) == 1
    assert clocks.go_on(0, -YEARS_S) == 1, "back again"
    assert clocks.go_on(0, YEARS_S) == 1
    assert clocks.go_on(80_000) == 1
    assert clocks.go_on(10_000) == 0
    clocks.file.close()


def test_doubt_of_the_clock_does_not_end_with_the_process(tmp_path: Path) -> None:
    clocks = Clocks(tmp_path)
    assert clocks.go_on(100) == 1
    assert clocks.go_on(0, YEARS_S) == 1
    clocks.tell(2)
    clocks.restart()
    assert clocks.go_on(0) == 2, "an event that bears the wrong time proves nothing"
    for _ in range(20):
        assert clocks.go_on(4000) == 2
        clocks.restart()
        assert clocks.go_on(0) == 2
    assert clocks.go_on(10_000) == 1
    clocks.file.close()


def test_journal_of_an_earlier_version_is_taken_over(tmp_path: Path) -> None:
    Clocks(tmp_path).file.close()
    with sqlite3.connect(tmp_path / "journal.db") as connection:
        connection.execute("DROP TABLE clock")
    connection.close()
    file = JournalFile(str(tmp_path / "journal.db"))
    assert file.open() == ""
    assert file.clock() == ClockState(1.8e9)
    file.close()


def test_event_whose_number_was_given_before_gets_another_and_the_feed_goes_on_above(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        site.tell(10)
        await site.until(lambda: site.last == 10)
        site.feed._next = 8  # the file could not be read when these began
        site.tell(4)
        await site.until(lambda: site.file.rows == 14)
        await site.until(lambda: site.feed.last_seq == 14)
        site.tell(1)
        await site.until(lambda: site.last == 15)

    play(tmp_path, story)
    events = JournalReader(str(tmp_path / "journal.db")).following()
    assert [event["seq"] for event in events] == list(range(1, 16))
    assert [event["user"] for event in events] == [
        *(f"u{number}" for number in range(10)), "u3", "u0", "u1", "u2", "u0",
    ]  # fmt: skip


def test_old_events_go_while_new_ones_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_writer, "PRUNE_EVERY_S", 0.05)

    async def story(site: Site) -> None:
        site.tell(100, at=1.0)
        await site.until(lambda: site.file.commits > 0 and site.file.rows == 0)

    play(tmp_path, story)


def test_file_is_closed_only_when_what_still_uses_it_has_ended(tmp_path: Path) -> None:
    """A task that is cancelled does not end its thread."""
    done: list[str] = []

    async def story(site: Site) -> None:
        pruning, go_on = threading.Event(), threading.Event()
        prune, close = site.file.prune, site.file.close

        def slow(oldest_ms: int, size_bytes: int) -> bool:
            pruning.set()
            go_on.wait(60)
            done.append("pruned")
            return prune(oldest_ms, size_bytes)

        def noted() -> None:
            done.append("closed")
            close()

        site.file.prune, site.file.close = slow, noted  # type: ignore[method-assign]
        await site.until(pruning.is_set)
        threading.Timer(0.3, go_on.set).start()

    play(tmp_path, story)
    assert done == ["pruned", "closed"]
