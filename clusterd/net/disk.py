"""What net has to do on the disk. A disk that hangs, or a lock that another process keeps, must hold up no link."""

import asyncio
import contextlib
import functools
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")


class DiskThread:
    """One thread, made when it is first needed, that does one thing after the other. A stop does not wait for it."""

    def __init__(self) -> None:
        self._waiting: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def run(self, work: Callable[[], T]) -> "asyncio.Future[T]":
        """Begins `work` when what was asked for before has ended. For the loop's thread."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def done() -> None:
            settle: Callable[[], None]
            try:
                settle = functools.partial(future.set_result, work())
            except Exception as failure:  # whoever waits gets it
                settle = functools.partial(future.set_exception, failure)
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(lambda: None if future.done() else settle())

        self._waiting.put(done)
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="disk", daemon=True)
            self._thread.start()
        return future

    def _serve(self) -> None:
        while True:
            self._waiting.get()()
