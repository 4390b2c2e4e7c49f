"""When a worker's journal is told of its master."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from clusterd.clock import Clock
from clusterd.messages.journal import MasterEvent
from clusterd.sync.links import master_link
from clusterd.sync.links.master_link import CLOSED, NEVER_THERE, MasterLink
from clusterd.sync.links.peer import Peer
from tests.fakes.events import Events
from tools.rig.patience import Patience


def peer(address: str) -> Peer:
    return cast(Peer, SimpleNamespace(name=address))


class Story:
    """A worker's link to its master. `until`: waits for so many events and returns them."""

    def __init__(self) -> None:
        self.events = Events()
        self.link = MasterLink(self.events.tell, Clock())

    async def until(self, count: int) -> list[tuple[str, str, str]]:
        patience = Patience(60)
        while len(self.events.told) < count:
            assert not patience.is_over(), self.events.told
            await asyncio.sleep(0.002)
        told = [cast(MasterEvent, event) for event in self.events.told]
        return [(event.what, event.master, event.why) for event in told]


def play(story: Callable[[Story], Any]) -> None:
    async def run() -> None:
        made = Story()
        task = asyncio.create_task(made.link.run())
        try:
            await story(made)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("why", "away", "told"),
    [
        ("", "", CLOSED),
        ("nothing has come", "a: nobody listens", "nothing has come"),
        ("", "a: nobody listens", "a: nobody listens"),
    ],
)
def test_master_that_does_not_come_back_soon_is_lost_once_and_then_back(
    monkeypatch: pytest.MonkeyPatch, why: str, away: str, told: str
) -> None:
    monkeypatch.setattr(master_link, "BACK_SOON_S", 0.01)

    async def story(made: Story) -> None:
        first, second = peer("a:1516"), peer("b:1516")
        made.link.up(first)
        made.link.left(first, why)
        if away:
            made.link.away(away)
        assert await made.until(2) == [("connected", "a:1516", ""), ("lost", "a:1516", told)]
        made.link.up(second)
        made.link.left(first, "the link before it, late")
        made.link.left(second, "cut")
        assert (await made.until(4))[2:] == [("back", "b:1516", ""), ("lost", "b:1516", "cut")]

    play(story)


def test_master_that_is_back_at_once_is_not_lost() -> None:
    async def story(made: Story) -> None:
        for _ in range(3):
            master = peer("a:1516")
            made.link.up(master)
            await asyncio.sleep(0.001)
            made.link.left(master, "cut")
            await asyncio.sleep(0.001)
        assert [what for what, _, _ in await made.until(3)] == ["connected"] * 3

    play(story)


@pytest.mark.parametrize(
    ("away", "told"), [(("a: no key", "b: nobody listens"), "b: nobody listens"), ((), NEVER_THERE)]
)
def test_master_that_never_was_there_since_the_start_is_lost(
    monkeypatch: pytest.MonkeyPatch, away: tuple[str, ...], told: str
) -> None:
    monkeypatch.setattr(master_link, "EXPECTED_S", 0.02)

    async def story(made: Story) -> None:
        for reason in away:
            made.link.away(reason)
        assert await made.until(1) == [("lost", "", told)]
        made.link.up(peer("a:1516"))
        assert (await made.until(2))[1] == ("back", "a:1516", "")

    play(story)
