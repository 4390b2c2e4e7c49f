"""How long to wait for a worker's answer. A worker that does not answer must not delay the answers of all others for
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
    """Returns the answer of worker `name`, which has been asked. Every `look_s` it checks that the worker is still
    there: `is_there` raises ClusterError if not. `limit_s`: the time in which the answer must begin to arrive; after
    it, waiting ends at the first check since which `progress` (bytes of answers received from the worker) has not
    grown.

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
