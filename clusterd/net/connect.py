"""A TCP connection to a host that may have several addresses: they are looked up each time, and tried side by side."""

import asyncio
import os
import socket
from itertools import chain, zip_longest
from typing import Any

NEXT_AFTER_S = 0.5
"""An address that has not answered in so long has company from then on: a dead one costs no more than this."""

Found = tuple[int, int, int, str, Any]


def in_turn(found: list[Found]) -> list[Found]:
    """The addresses in the system's order, but IPv6 and IPv4 in turn: often one of the two leads nowhere at all."""
    first = [one for one in found if one[0] == found[0][0]]
    others = [one for one in found if one[0] != found[0][0]]
    return [one for one in chain(*zip_longest(first, others)) if one is not None]


async def connect(host: str, port: int) -> socket.socket:
    """The first connection that comes about; the other attempts are given up. Raises OSError: the last failure."""
    found: list[Found] = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)  # type: ignore[assignment]
    waiting = in_turn(found)
    attempts: set[asyncio.Task[socket.socket]] = set()
    failure: BaseException = OSError(f"{host} has no address")
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
        await asyncio.get_running_loop().sock_connect(sock, address)
    except OSError as problem:
        sock.close()
        if problem.errno is None:
            raise
        raise OSError(problem.errno, os.strerror(problem.errno)) from problem
    except BaseException:
        sock.close()
        raise
    return sock


def _close(attempt: "asyncio.Task[socket.socket]") -> None:
    """One that was given up and has come about all the same."""
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().close()
