"""What net has to do on the disk. A disk that hangs, or a lock that another process keeps, must hold up no link, and
what waits for it must not grow."""

import asyncio
import contextlib
import errno
import functools
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")
MOST_WAITING = 1000
"""Directories of so many workers: far more than ever wait while the disk answers."""


class DiskThread:
    """One thread, made when it is first needed, that does one thing after the other. A stop does not wait for it."""

    def __init__(self) -> None:
        self._waiting: dict[str, tuple[asyncio.Future[Any], Callable[[], None]]] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def run(self, what: str, work: Callable[[], T]) -> "asyncio.Future[T]":
        """Begins `work` when what was asked for before has ended. Of one `what` the newest counts: it takes the place
        of an earlier one that has not begun, whose future is cancelled. The future of one too many, or without a
        thread, has an OSError. For the loop's thread."""
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

        try:
            self._make_thread()
        except RuntimeError as failure:
            future.set_exception(OSError(errno.EAGAIN, str(failure)))
            return future
        with self._changed:
            earlier = self._waiting.get(what)
            if earlier is None and len(self._waiting) >= MOST_WAITING:
                future.set_exception(OSError(errno.EAGAIN, "the disk hangs, and too much waits for it already"))
                return future
            self._waiting[what] = future, done
            self._changed.notify()
        if earlier is not None:
            earlier[0].cancel()
        return future

    def _make_thread(self) -> None:
        """Raises RuntimeError where there is no room for one at this moment."""
        if self._thread is None:
            thread = threading.Thread(target=self._serve, name="disk", daemon=True)
            thread.start()
            self._thread = thread

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                _, done = self._waiting.pop(next(iter(self._waiting)))
            done()
