"""Aio tasks that are not awaited: held until they end, their failures logged."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from clusterd import stacks
from clusterd.errors import ClusterError

Work = Coroutine[Any, Any, None]


class Tasks:
    """The tasks of one owner. `tell`: gets the text about a task that failed with an unexpected exception."""

    def __init__(self, tell: Callable[[str], None], most: int | None = None) -> None:
        """`most`: the number of tasks at which `spawn` refuses."""
        self._tell = tell
        self._most = most
        self._running: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._running)

    def spawn(self, work: Work) -> None:
        """Runs it until it ends or `close`. Raises ClusterError 1000 if too many run."""
        if self._most is not None and len(self._running) >= self._most:
            work.close()
            raise ClusterError(1000, f"{self._most} answers to this node wait to be sent already")
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._ended)

    async def close(self) -> None:
        """Cancels all tasks and waits until they have ended."""
        tasks = list(self._running)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        failure = None if task.cancelled() else task.exception()
        if failure is not None:
            self._tell(f"Unexpected failure: {stacks.told(failure)}")
