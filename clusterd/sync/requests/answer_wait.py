"""How long a worker's answer is waited for. One that says nothing must not keep everybody else's answers back for
minutes."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from clusterd.errors import ClusterError
from clusterd.sync.ports.net_port import LinkClosed

T = TypeVar("T")
NO_ANSWER = 3021


async def patiently(
    answer: "asyncio.Future[T]",
    name: str,
    *,
    limit_s: float | None,
    look_s: float,
    progress: Callable[[], int],
    is_there: Callable[[], Awaitable[object]],
) -> T:
    """The answer of worker `name`, which has been asked. Every `look_s` it is looked whether there is anybody:
    `is_there` raises ClusterError when there is not. With `limit_s`, the time in which the answer must begin to come:
    given up when it is over and `progress` (bytes of answers that came from there) stands still for as long as a look.

    Raises ClusterError 3021, LinkClosed, and what `answer` holds."""
    waited_s, seen = 0.0, progress()
    while True:
        pause_s = look_s if limit_s is None or waited_s >= limit_s else min(look_s, limit_s - waited_s)
        done, _ = await asyncio.wait([answer], timeout=pause_s)
        if done:
            return answer.result()
        waited_s += pause_s
        now = progress()
        if now != seen:
            seen = now
            continue
        if limit_s is not None and waited_s >= limit_s:
            raise ClusterError(NO_ANSWER, f"{name} did not answer within {waited_s:g} s")
        await _look(name, is_there)


async def _look(name: str, is_there: Callable[[], Awaitable[object]]) -> None:
    try:
        await is_there()
    except LinkClosed:
        raise
    except ClusterError as failure:
        raise ClusterError(NO_ANSWER, f"{name} says nothing any more: {failure}") from failure
