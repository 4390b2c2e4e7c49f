"""Signals of a process with an asyncio loop."""

import asyncio
import signal
from collections.abc import Callable

ROLE_WRITTEN = signal.SIGUSR1
"""A process of the node has written `role.json`: for the supervisor, which passes it on to its children. No reload:
what somebody is just editing must not count because another node leads."""
_ENDING = (signal.SIGTERM, signal.SIGINT)


def heed_signals(
    stop: Callable[[], object], reload: Callable[[], object], look: Callable[[], object] = lambda: None
) -> None:
    """Calls `stop` at SIGTERM and SIGINT, `reload` at SIGHUP, `look` at ROLE_WRITTEN, on the running loop. They are
    blocked since the fork (clusterd/supervisor/child.py); one that came meanwhile is delivered now."""
    loop = asyncio.get_running_loop()
    for number in _ENDING:
        loop.add_signal_handler(number, stop)
    loop.add_signal_handler(signal.SIGHUP, reload)
    loop.add_signal_handler(ROLE_WRITTEN, look)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {*_ENDING, signal.SIGHUP, ROLE_WRITTEN})
