"""Signals of a process with an asyncio loop."""

import asyncio
import signal
from collections.abc import Callable

_ENDING = (signal.SIGTERM, signal.SIGINT)


def heed_signals(stop: Callable[[], object], reload: Callable[[], object]) -> None:
    """Calls `stop` at SIGTERM and SIGINT, `reload` at SIGHUP, on the running loop. They are blocked since the fork
    (clusterd/supervisor/child.py); one that came meanwhile is delivered now."""
    loop = asyncio.get_running_loop()
    for number in _ENDING:
        loop.add_signal_handler(number, stop)
    loop.add_signal_handler(signal.SIGHUP, reload)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {*_ENDING, signal.SIGHUP})
