"""How long the master waits for a worker's answer: as long as the function may take, but not for a worker that says
nothing."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from clusterd.errors import ClusterError
from clusterd.sync.ports.net_port import LinkClosed
from clusterd.sync.requests.answer_wait import patiently

LOOK_S = 0.02


async def there() -> bytes:
    return b"ok"


async def silent() -> bytes:
    raise ClusterError(3020, "echo")


async def gone() -> bytes:
    raise LinkClosed("echo")


def wait(
    *,
    limit_s: float | None = None,
    is_there: Callable[[], Awaitable[bytes]] = there,
    progress: Callable[[], int] = lambda: 0,
    answered_after: Callable[[int], bool] = lambda looks: False,
) -> Any:
    """`answered_after`: the answer arrives after that many looks at the progress."""

    async def story() -> str:
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        looks = 0

        def look() -> int:
            nonlocal looks
            looks += 1
            if answered_after(looks) and not answer.done():
                answer.set_result("answer")
            return progress()

        async with asyncio.timeout(30):
            return await patiently(answer, "w1", limit_s=limit_s, look_s=LOOK_S, progress=look, is_there=is_there)

    return asyncio.run(story())


def test_one_that_says_nothing_is_given_up_at_the_first_look() -> None:
    with pytest.raises(ClusterError, match=r"Error 3021 .*w1 says nothing any more"):
        wait(is_there=silent)


def test_one_that_is_there_may_take_its_time_when_the_asker_says_so() -> None:
    assert wait(answered_after=lambda looks: looks > 20) == "answer"


def test_one_that_is_there_and_does_not_answer_is_given_up_at_the_limit() -> None:
    with pytest.raises(ClusterError, match=r"Error 3021 .*w1 did not answer within"):
        wait(limit_s=3 * LOOK_S)


def test_an_answer_that_is_still_coming_is_waited_for_beyond_the_limit() -> None:
    sizes = iter(range(1_000_000))
    assert wait(limit_s=LOOK_S, progress=lambda: next(sizes), answered_after=lambda looks: looks > 20) == "answer"


def test_a_link_that_is_gone_is_reported_as_gone() -> None:
    with pytest.raises(LinkClosed):
        wait(is_there=gone)
