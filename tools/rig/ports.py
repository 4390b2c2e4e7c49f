"""Ports for nodes of this machine. A stopped node holds no port, so a free port may still be another node's: each
process draws from a block of its own."""

import atexit
import itertools
import os
import random
import socket
from dataclasses import dataclass, field

HOST = "127.0.0.1"
FIRST, LAST = 20000, 32000
"""Below the range that the kernel uses for outgoing connections."""
BLOCK = 100


class NoFreePort(OSError):
    """No port of the whole range is free."""


@dataclass
class _Block:
    """Ports that belong to one process: the one that holds the block's name. The kernel frees the name when the last
    process that has inherited it ends; no file is left."""

    pid: int
    first: int
    name: socket.socket
    places: "itertools.cycle[int]" = field(default_factory=lambda: itertools.cycle(range(BLOCK)))


_block: _Block | None = None


def free_port() -> int:
    """Returns a free loopback port, one that this process has not had for a while. Raises NoFreePort."""
    global _block
    if _block is None or _block.pid != os.getpid():
        _block = _claim()
    for _ in range(BLOCK):
        port = _block.first + next(_block.places)
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind((HOST, port))
            except OSError:
                continue
            return port
    raise NoFreePort(f"no free port between {_block.first} and {_block.first + BLOCK} on {HOST}")


def _claim() -> _Block:
    """Raises NoFreePort."""
    blocks = list(range(FIRST, LAST, BLOCK))
    random.SystemRandom().shuffle(blocks)
    for first in blocks:
        name = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            name.bind(f"\0clusterd-rig-ports-{first}")
        except OSError:
            name.close()
            continue
        atexit.register(name.close)
        return _Block(os.getpid(), first, name)
    raise NoFreePort(f"{len(blocks)} processes have taken all ports between {FIRST} and {LAST} on {HOST}")
