"""Pauses that end by the clock, or earlier because a task called `wake`."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from clusterd.sync.ports.wake_timer import WakeTimer

LONG_S = 60.0
T = TypeVar("T")


def run(story: Coroutine[Any, Any, T]) -> T:
    async def bounded() -> T:
        async with asyncio.timeout(60):
            return await story

    return asyncio.run(bounded())


async def steps() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_rest_ends_by_the_clock() -> None:
    async def story() -> bool:
        return await WakeTimer().rest(0.01)

    assert run(story()) is False


def test_sleeper_is_woken_at_once() -> None:
    async def story() -> bool:
        pace = WakeTimer()
        resting = asyncio.ensure_future(pace.rest(LONG_S))
        await steps()
        pace.wake()
        return await resting

    assert run(story()) is True


def test_wake_before_the_rest_is_kept_for_it_and_only_for_it() -> None:
    async def story() -> tuple[bool, bool]:
        pace = WakeTimer()
        pace.wake()
        return await pace.rest(LONG_S), await pace.rest(0.01)

    assert run(story()) == (True, False)


def test_many_wakes_are_one() -> None:
    async def story() -> list[bool]:
        pace = WakeTimer()
        for _ in range(100):
            pace.wake()
        return [await pace.rest(0.01) for _ in range(2)]

    assert run(story()) == [True, False]


def test_earlier_wake_stays_when_a_later_one_is_asked_for() -> None:
    async def story() -> bool:
        pace = WakeTimer()
        pace.wake(0.01)
        pace.wake(LONG_S)
        return await pace.rest(LONG_S)

    assert run(story()) is True


def test_earlier_wake_overtakes_a_later_one_while_somebody_rests() -> None:
    async def story() -> bool:
        pace = WakeTimer()
        pace.wake(LONG_S / 2)
        resting = asyncio.ensure_future(pace.rest(LONG_S))
        await steps()
        pace.wake(0.01)
        return await resting

    assert run(story()) is True


def test_rest_that_ends_by_the_clock_serves_a_later_wake_too() -> None:
    """The check that follows runs after whatever caused the wake, but it must know that there was a cause."""

    async def story() -> list[bool]:
        pace = WakeTimer()
        pace.wake(LONG_S)
        return [await pace.rest(0.01) for _ in range(2)]

    assert run(story()) == [True, False]


def test_cancelled_rest_keeps_the_wake() -> None:
    async def story() -> bool:
        pace = WakeTimer()
        resting = asyncio.ensure_future(pace.rest(LONG_S))
        await steps()
        resting.cancel()
        pace.wake()
        return await pace.rest(LONG_S)

    assert run(story()) is True
