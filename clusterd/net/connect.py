"""Opens a TCP connection to a host that may have several addresses. They are tried side by side."""

import asyncio
import os
import socket
from itertools import chain, zip_longest
from typing import Any

from clusterd.listening.addresses import Found

NEXT_AFTER_S = 0.5
"""After this time without an answer the next address is tried as well: a dead address costs no more than this."""


def in_turn(found: list[Found]) -> list[Found]:
    """The addresses in the system's order, IPv6 and IPv4 alternating: often one of the two families leads nowhere."""
    first = [one for one in found if one[0] == found[0][0]]
    others = [one for one in found if one[0] != found[0][0]]
    return [one for one in chain(*zip_longest(first, others)) if one is not None]


async def connect(found: list[Found]) -> socket.socket:
    """Returns the first connection that succeeds and cancels the other attempts. Raises OSError: the last failure.
    `found`: a host's addresses."""
    waiting = in_turn(found)
    attempts: set[asyncio.Task[socket.socket]] = set()
    failure: BaseException = OSError("no address")
    try:
        while waiting or attempts:
            if waiting:
                attempts.add(asyncio.create_task(_attempt(waiting.pop(0))))
            done, attempts = await asyncio.wait(
                attempts, timeout=NEXT_AFTER_S if waiting else None, return_when=asyncio.FIRST_COMPLETED
            )
            good = [attempt for attempt in done if attempt.exception() is None]
            for extra in good[1:]:
                extra.result().close()
            if good:
                return good[0].result()
            for attempt in done:
                failure = attempt.exception() or failure
        raise failure
    finally:
        for attempt in attempts:
            attempt.cancel()
            attempt.add_done_callback(_close)


async def _attempt(found: Found) -> socket.socket:
    family, kind, protocol, _, address = found
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        await _connected(sock, address)
    except OSError as problem:
        sock.close()
        if problem.errno is None:
            raise
        raise OSError(problem.errno, os.strerror(problem.errno)) from problem
    except BaseException:
        sock.close()
        raise
    return sock


async def _connected(sock: socket.socket, address: Any) -> None:
    """As the loop's `sock_connect`; uvloop's forgets the interface of a link-local address."""
    try:
        sock.connect(address)
        return
    except BlockingIOError:
        pass
    loop = asyncio.get_running_loop()
    is_writable = asyncio.Event()
    loop.add_writer(sock, is_writable.set)
    try:
        await is_writable.wait()
    finally:
        loop.remove_writer(sock)
    problem = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if problem:
        raise OSError(problem, os.strerror(problem))


def _close(attempt: "asyncio.Task[socket.socket]") -> None:
    """Closes a connection that succeeded after its attempt was cancelled."""
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().close()
