"""Programs for shell scripts of tests: each looks like a command of this checkout, and runs as a fork of the process
that has loaded them all (tests/warm.py). It reads nothing from its standard input, and ends with the process that a
script started for it (tests/warm_client.py)."""

import contextlib
import os
import select
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.warm import WARM

CLIENT = Path(__file__).with_name("warm_client.py")
MESSAGE = 1 << 17


@contextlib.contextmanager
def programs(directory: Path, modules: Mapping[str, str]) -> Iterator[None]:
    """Makes programs in `directory`: the name of each, and the module that it runs. They work inside the block."""
    address = str(directory / ".warm")
    for name, module in modules.items():
        program = directory / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -ISs "{CLIENT}" "{address}" {module} "$@"\n')
        program.chmod(0o755)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(address)
        listening.listen()
        accepting = threading.Thread(target=_accept, args=(listening,), daemon=True)
        accepting.start()
        try:
            yield
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            accepting.join()
            os.unlink(address)


def _accept(listening: socket.socket) -> None:
    while True:
        try:
            client, _ = listening.accept()
        except OSError:
            return
        threading.Thread(target=_serve, args=(client,), daemon=True).start()


def _serve(client: socket.socket) -> None:
    with client:
        message, files, _, _ = socket.recv_fds(client, MESSAGE, 2)
        directory, count, *words = map(os.fsdecode, message.split(b"\0"))
        arguments, environment = words[: int(count)], words[int(count) :]
        try:
            command = WARM.start(
                [sys.executable, "-m", *arguments],
                dict(word.split("=", 1) for word in environment),
                out=files[0],
                err=files[1],
                directory=directory,
            )
        finally:
            for fd in files:
                os.close(fd)
        select.select([command, client], [], [])
        command.kill()  # if it has not ended, its client has
        code = command.wait()
        with contextlib.suppress(OSError):
            client.send(b"%d" % (code if code >= 0 else 128 - code))
