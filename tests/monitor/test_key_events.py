"""Registrations by a stock authd, found by changes of its key file."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from clusterd.agent_keys import KEY_FILE
from clusterd.messages.journal import AnyEvent, ChangeEvent, FileChange, RegistrationEvent
from clusterd.monitor import key_events
from clusterd.monitor.feed import EventFeed
from clusterd.monitor.key_events import KeyFileEvents
from clusterd.rounds import Rounds
from tools.rig.patience import Patience

KEY = "0123456789abcdef" * 4
CHANGE = ChangeEvent(manifest="a", source="events", files=(FileChange(KEY_FILE, "changed", 1, 1, b"a", b"b"),))


class Site:
    """A key file, and the events of the journal."""

    def __init__(self, root: Path) -> None:
        self.path = root / KEY_FILE
        self.path.parent.mkdir()
        self.told: list[AnyEvent] = []
        self.said: list[tuple[str, str]] = []
        self.feed = EventFeed("m", 1)
        self.keys = KeyFileEvents(str(root), self._tell, Rounds(lambda *line: self.said.append(line)))
        self.feed.subscribe(self.keys.take)

    def _tell(self, events: Sequence[AnyEvent]) -> None:
        self.told += events

    def write(self, *lines: str, event: ChangeEvent = CHANGE) -> None:
        self.path.with_suffix(".new").write_text("".join(f"{line} {KEY}\n" for line in lines))
        os.replace(self.path.with_suffix(".new"), self.path)
        self.feed.hear([(time.time(), event)])

    async def until(self, condition: Callable[[], bool]) -> None:
        patience = Patience(60)
        while not condition():
            assert not patience.is_over(), (self.told, self.said)
            await asyncio.sleep(0.01)

    async def looked(self) -> None:
        """The present file was looked at."""
        await self.until(lambda: self.keys._version is not None and self.keys._version[1] == self.path.stat().st_ino)
        await self.until(lambda: not self.keys._has_changed.is_set())


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_events, "PAUSE_S", 0.01)


def play(root: Path, story: Callable[[Site], Awaitable[None]], *lines: str) -> Site:
    async def main() -> Site:
        site = Site(root)
        site.write(*lines)
        running = asyncio.create_task(site.keys.run())
        try:
            await site.looked()
            await story(site)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        return site

    return asyncio.run(main())


def test_added_and_removed_agents_are_events_without_their_keys(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        site.write("001 web 10.0.0.7", "002 db any")
        await site.until(lambda: len(site.told) == 1)
        site.write("001 !web 10.0.0.7", "002 db any")
        await site.until(lambda: len(site.told) == 2)
        site.write("002 db2 any")
        await site.until(lambda: len(site.told) == 4)

    site = play(tmp_path, story, "001 web 10.0.0.7")
    assert site.told == [
        RegistrationEvent(what="added", agent="002", name="db", ip="any"),
        RegistrationEvent(what="removed", agent="001", name="web", ip="10.0.0.7"),
        RegistrationEvent(what="removed", agent="002", name="db", ip="any"),
        RegistrationEvent(what="added", agent="002", name="db2", ip="any"),
    ]
    assert KEY not in repr(site.told) + repr(vars(site.keys))


def test_file_that_is_empty_or_away_for_a_moment_is_no_removal(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        site.write()
        await site.looked()
        site.path.unlink()
        site.feed.hear([(time.time(), CHANGE)])
        await site.until(lambda: not site.keys._has_changed.is_set())
        site.write("001 web any", "002 db any")
        await site.until(lambda: bool(site.told))

    assert [event.outcome for event in play(tmp_path, story, "001 web any").told] == ["added"]


def test_change_of_other_files_is_no_reason_to_look_and_one_of_too_many_is(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        other = ChangeEvent(manifest="a", source="scan", files=(FileChange("etc/a", "added", None, 1, None, b"b"),))
        site.write("001 web any", "002 db any", event=other)
        for _ in range(20):
            await asyncio.sleep(0.01)
        assert site.told == []
        site.write("001 web any", "003 db any", event=ChangeEvent(manifest="a", source="scan", unlisted=30_000))
        await site.until(lambda: bool(site.told))

    assert [
        event.agent for event in play(tmp_path, story, "001 web any").told if isinstance(event, RegistrationEvent)
    ] == ["003"]


def test_events_of_one_look_are_bounded_and_the_last_one_counts_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_events, "MOST_EVENTS", 3)

    async def story(site: Site) -> None:
        site.write(*(f"{number:03} n{number} any" for number in range(1, 11)))
        await site.until(lambda: bool(site.told))

    told = play(tmp_path, story, "001 n1 any").told
    assert [(event.agent, event.why) for event in told if isinstance(event, RegistrationEvent)] == [
        ("002", ""), ("003", ""), ("004", "and 6 more changes at once"),
    ]  # fmt: skip
