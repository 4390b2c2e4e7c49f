"""Causes faults: processes killed or frozen, links cut. Every fault affects one pid or one link of one rig.

A link is a small process of the rig that a worker dials instead of its master and that forwards bytes both ways. Its
faults are those of a cable: `cut` resets existing connections and refuses new ones; `silence` keeps them open and
forwards nothing (only keepalives and timeouts detect this); `silence-up` and `silence-down` stop only the bytes to the
master or to the worker; `strand` stops the existing connections for ever and forwards new ones (an address that has
changed); `slow` forwards a number of bytes a second each way; `mend` forwards again, as fast as possible. `count` and
`carried` (bytes to the worker so far) only ask. Nodes do not know of links.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Literal

import psutil
import uvloop

from tools.rig.patience import Patience

LinkCommand = Literal["cut", "silence", "silence-up", "silence-down", "strand", "slow", "mend", "count", "carried"]
CONTROL_TIMEOUT_S = 60.0


STOPPED_S = 60.0


def signal_process(pid: int, how: signal.Signals) -> None:
    """Sends a signal to one process. Raises ProcessLookupError when it is gone."""
    os.kill(pid, how)
    if how == signal.SIGSTOP:
        wait_stopped(pid)


def wait_stopped(pid: int) -> None:
    """Waits until a process to which SIGSTOP was sent stands still, or is gone. Its threads go on until one of them has
    a core and takes the signal: on a busy machine they answer meanwhile. Raises TimeoutError."""
    patience = Patience(STOPPED_S)
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        while process.status() not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            if patience.is_over():
                raise TimeoutError(f"process {pid} has not stopped in {STOPPED_S:g} s")
            patience.rest(0.001)


def tell_link(control: Path, command: LinkCommand, bytes_per_s: int | None = None) -> int:
    """Sends a command to a link (for `slow` with its `bytes_per_s`). Returns how many connections it has afterwards, or
    for `carried` the bytes. Raises OSError when there is no link."""
    return ask_control(control, "the link", command if bytes_per_s is None else f"{command} {bytes_per_s}")


def ask_control(control: Path, who: str, line: str) -> int:
    """Sends a line to a socket of commands; returns the number that it answers. Raises OSError when no process listens
    there, or `who` refuses."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(CONTROL_TIMEOUT_S)
        sock.connect(str(control))
        sock.sendall(f"{line}\n".encode())
        answer = sock.makefile("rb").readline()
    if not answer.strip().isdigit():
        raise OSError(f"{who} at {control} refused {line!r}: {answer.decode(errors='replace').strip()}")
    return int(answer)


class LinkProcess:
    """Forwards what arrives on `listener` to (host, port); runs until killed."""

    def __init__(self, listener: socket.socket, host: str, port: int) -> None:
        self._listener = listener
        self._host = host
        self._port = port
        self._up, self._down = asyncio.Event(), asyncio.Event()
        self._open = (self._up, self._down)
        for way in self._open:
            way.set()
        self._refusing = False
        self._stranded = 0
        self._number = 0
        self._bytes_per_s = 0
        self._carried = 0
        self._writers: set[asyncio.StreamWriter] = set()

    async def run(self, control: Path) -> None:
        data = await asyncio.start_server(self._carry, sock=self._listener)
        commands = await asyncio.start_unix_server(self._command, path=str(control))
        async with data, commands:
            await asyncio.gather(data.serve_forever(), commands.serve_forever())

    async def _command(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        command, _, rate = (await reader.readline()).decode(errors="replace").strip().partition(" ")
        if command == "cut":
            self._refusing = True
            for way in self._open:
                way.set()
            for one in list(self._writers):
                one.transport.abort()
        elif command in ("silence", "silence-up", "silence-down"):
            if command != "silence-down":
                self._up.clear()
            if command != "silence-up":
                self._down.clear()
        elif command == "strand":
            self._stranded = self._number
        elif command == "slow" and rate.isdecimal():
            self._bytes_per_s = int(rate)
        elif command == "mend":
            self._refusing = False
            self._bytes_per_s = 0
            for way in self._open:
                way.set()
        elif command not in ("count", "carried"):
            command = ""
        answer = (
            str(self._carried if command == "carried" else len(self._writers) // 2) if command else "unknown command"
        )
        writer.write(f"{answer}\n".encode())
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        writer.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            writer.transport.abort()
            return
        try:
            onward_reader, onward = await asyncio.open_connection(self._host, self._port)
        except OSError:  # the master is down: the worker sees a closed connection, as it would without the link
            writer.transport.abort()
            return
        if self._refusing:  # cut while this one was dialled
            writer.transport.abort()
            onward.transport.abort()
            return
        self._writers |= {writer, onward}
        self._number += 1
        number = self._number
        try:
            await asyncio.gather(
                self._pump(number, reader, onward), self._pump(number, onward_reader, writer, down=True)
            )
        finally:
            self._writers -= {writer, onward}
            writer.transport.abort()
            onward.transport.abort()

    async def _pump(
        self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, down: bool = False
    ) -> None:
        way = self._down if down else self._up
        try:
            while data := await reader.read(262144):
                await way.wait()
                if number <= self._stranded:
                    await asyncio.Event().wait()
                if self._bytes_per_s:
                    await asyncio.sleep(len(data) / self._bytes_per_s)
                    await way.wait()
                if writer.is_closing():  # cut meanwhile
                    break
                writer.write(data)
                if down:
                    self._carried += len(data)
                await writer.drain()
            writer.write_eof()
        except ConnectionError:  # a reset ends the other end, too
            writer.transport.abort()


def main(argv: list[str]) -> int:
    """Runs a link: `FD HOST PORT CONTROL`. The listening socket is inherited, so no other program could take the
    port."""
    descriptor, host, port, control = argv
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the rig, which ends its links itself
    with socket.socket(fileno=int(descriptor)) as listener:
        uvloop.run(LinkProcess(listener, host, int(port)).run(Path(control)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
