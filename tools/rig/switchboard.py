"""The cables of a rig with candidates: one process through which nodes reach one another, and candidates etcd.

Each candidate is advertised with an address of the switchboard, which forwards to its cluster port; each candidate
knows etcd's members by addresses of its own there. So what lies between a node and the others, or between a node and
etcd, can be cut without the node's help, in both directions:

    cut NODE WAYS      resets its connections and refuses new ones
    silence NODE WAYS  keeps them open and forwards nothing
    slow NODE WAYS     forwards what comes back a second later
    mend NODE WAYS     forwards again

WAYS is `peers`, `etcd` or `all`. Who dials is found in /proc: the process that has the other end of the connection is a
child of the node's supervisor.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec
import uvloop

from clusterd.pidfile import running_pid
from tools.rig.faults import ask_control

Ways = Literal["peers", "etcd", "all"]
Fault = Literal["", "cut", "silence", "slow"]
Command = Literal["cut", "silence", "slow", "mend"]
PIECE = 262144
FAULTS = {"cut": "cut", "silence": "silence", "slow": "slow", "mend": ""}
SLOW_S = 1.0


class Way(msgspec.Struct, frozen=True):
    """A listening socket (its descriptor) and where it leads. `node`: whose address it is (`peers`), or who uses it
    (`etcd`)."""

    fd: int
    ways: str
    node: str
    host: str
    port: int


class Wiring(msgspec.Struct, frozen=True):
    """What a switchboard is started with. `roots`: of all nodes, by name."""

    control: str
    ways: list[Way]
    roots: dict[str, str]


class Cable:
    """One connection: the nodes at its ends, and whether it carries."""

    def __init__(self, ways: str, ends: set[str], writers: tuple[asyncio.StreamWriter, asyncio.StreamWriter]) -> None:
        self.ways = ways
        self.ends = ends
        self.writers = writers
        self.is_open = asyncio.Event()
        self.delay_s = 0.0

    def follow(self, fault: Fault) -> None:
        self.delay_s = SLOW_S if fault == "slow" else 0.0
        if fault == "silence":
            self.is_open.clear()
            return
        self.is_open.set()
        if fault == "cut":
            for writer in self.writers:
                writer.transport.abort()


class Switchboard:
    """Forwards until it is killed."""

    def __init__(self, plan: Wiring) -> None:
        self._plan = plan
        self._faults: dict[tuple[str, str], Fault] = {}
        self._cables: set[Cable] = set()

    async def run(self) -> None:
        servers = []
        for way in self._plan.ways:
            listener = socket.socket(fileno=way.fd)
            servers.append(await asyncio.start_server(self._taker(way), sock=listener))
        servers.append(await asyncio.start_unix_server(self._command, path=self._plan.control))
        await asyncio.gather(*(server.serve_forever() for server in servers))

    def _fault(self, ways: str, ends: set[str]) -> Fault:
        found = {self._faults.get((end, ways), "") for end in ends}
        return next((fault for fault in ("cut", "silence", "slow") if fault in found), "")

    async def _command(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        words = (await reader.readline()).decode(errors="replace").split()
        answer = "unknown command"
        if len(words) == 3 and words[0] in FAULTS and words[1] in self._plan.roots:
            for ways in ("peers", "etcd") if words[2] == "all" else (words[2],):
                self._faults[(words[1], ways)] = FAULTS[words[0]]  # type: ignore[assignment]
            for cable in list(self._cables):
                cable.follow(self._fault(cable.ways, cable.ends))
            answer = str(sum(words[1] in cable.ends for cable in self._cables))
        writer.write(f"{answer}\n".encode())
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        writer.close()

    def _taker(self, way: Way):  # type: ignore[no-untyped-def]
        async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                await self._carry(way, reader, writer)
            writer.transport.abort()

        return take

    async def _carry(self, way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = {way.node}
        if way.ways == "peers":
            dialler = await asyncio.to_thread(
                node_of, self._plan.roots, writer.get_extra_info("peername")[1], writer.get_extra_info("sockname")[1]
            )
            ends |= {dialler} if dialler else set()
        if self._fault(way.ways, ends) == "cut":
            return
        onward_reader, onward = await asyncio.open_connection(way.host, way.port)
        cable = Cable(way.ways, ends, (writer, onward))
        self._cables.add(cable)
        cable.follow(self._fault(way.ways, ends))
        try:
            await asyncio.gather(_pump(cable, reader, onward), _pump(cable, onward_reader, writer, is_back=True))
        finally:
            self._cables.discard(cable)
            onward.transport.abort()


async def _pump(
    cable: Cable, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_back: bool = False
) -> None:
    try:
        while data := await reader.read(PIECE):
            if is_back:
                await asyncio.sleep(cable.delay_s)
            await cable.is_open.wait()
            if writer.is_closing():
                return
            writer.write(data)
            await writer.drain()
        await cable.is_open.wait()
        writer.write_eof()
    except OSError:  # a reset ends the other end, too
        for one in cable.writers:
            one.transport.abort()


# ---- who dials -------------------------------------------------------------------------------------------------------


def node_of(roots: dict[str, str], port: int, to_port: int) -> str:
    """Returns the node whose process has the connection from this loopback port to that one; empty for other
    programs."""
    inode = _inode(port, to_port)
    if not inode:
        return ""
    for name, root in roots.items():
        pid = running_pid(root)
        if pid is not None and any(_has(one, f"socket:[{inode}]") for one in (pid, *_children(pid))):
            return name
    return ""


def _inode(port: int, to_port: int) -> str:
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        if words[1].endswith(f":{port:04X}") and words[2].endswith(f":{to_port:04X}"):
            return words[9]
    return ""


def _children(pid: int) -> Iterator[int]:
    with contextlib.suppress(OSError):
        yield from (int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


def _has(pid: int, link: str) -> bool:
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{pid}/fd/{name}") == link:
                    return True
    return False


def tell(control: Path, command: Command, node: str, ways: Ways) -> int:
    """Sends a command to a switchboard; returns how many connections the node has. Raises OSError when there is
    none."""
    return ask_control(control, "the switchboard", f"{command} {node} {ways}")


def main(argv: list[str]) -> int:
    """Runs a switchboard: the wiring in JSON. The listening sockets are inherited."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the rig
    uvloop.run(Switchboard(msgspec.json.decode(argv[0], type=Wiring)).run())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
