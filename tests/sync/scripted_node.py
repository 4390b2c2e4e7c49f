"""A sync process whose ports belong to the test: the test brings links up and down, sends requests of nodes and
programs, and reads the answers."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, cast

import msgspec

from clusterd.messages.links import Answered, GiveString, LinkInfo, LinkUp, PeerRequest, Reply, Request, SyncToNet
from clusterd.messages.pool import AnyJob, JobFailed
from clusterd.pool.jobs import JobRunner
from clusterd.settings import ClusterBlock, Clusterd, Secret, Settings
from clusterd.sync.core import Core
from clusterd.sync.links.context import Context
from clusterd.sync.links.outgoing import Sender
from clusterd.sync.links.peer import Peer
from clusterd.sync.links.roster import Roster
from clusterd.sync.manifest.keeper import ManifestKeeper
from clusterd.sync.ports.net_port import NetPort
from clusterd.sync.ports.pool_port import JobError, PoolPort
from clusterd.sync.ports.slabs import SlabPool
from clusterd.sync.ports.spool import Spool
from clusterd.sync.ports.troubles import Troubles
from clusterd.wdb.client import Database
from ipc.arena import Arena
from ipc.job_queue import JobQueue
from tests.fakes.clock import FakeClock
from tests.fakes.events import Events
from tests.fakes.made_files import only_what_it_declares
from tests.sync.rounds_bench import run

KEY = Secret(b"k" * 32)
WORKER = LinkInfo(1, "worker", "w1")
MASTER = LinkInfo(1, "master", "m")
PROGRAM = LinkInfo(9, "local", "9", uid=0)
STRANGER = LinkInfo(8, "local", "8", uid=12345)


class Lines:
    """Keeps log lines."""

    def __init__(self) -> None:
        self.written: list[tuple[str, str, str, str]] = []

    def is_on(self, level: str) -> bool:
        return True

    def line(self, level: str, tag: str, subtag: str, text: str) -> None:
        self.written.append((level, tag, subtag, text))


class InlinePool:
    """Runs jobs in this process, if they need no arena. `jobs`: the jobs that ran. `answers`: results to return
    instead, by type of job. `go_on`: jobs wait while it is not set."""

    size = 1
    losses = 0

    def __init__(self, settings: Settings) -> None:
        self._runner = JobRunner(settings, cast(Arena, None), lambda: None)
        self.jobs: list[AnyJob] = []
        self.answers: dict[type[Any], Callable[[Any], Any]] = {}
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def run(self, job: AnyJob, *, urgent: bool = False, lane: str = "bulk", begin_by: float | None = None) -> Any:
        self.jobs.append(job)
        await asyncio.sleep(0)
        await self.go_on.wait()
        answer = self.answers.get(type(job))
        if answer is not None:
            return answer(job)
        with only_what_it_declares(job):
            found = self._runner.do(job)
        if isinstance(found, JobFailed):
            raise JobError(found.kind, found.text)
        return found


class Node:
    """A sync process for which the test plays net and the pool. `sent`: the messages to net, in order."""

    def __init__(
        self,
        root: Path,
        role: str,
        caps: tuple[str, ...] = ("digest",),
        *,
        pool: bool = False,
        serves_store: bool = False,
        slabs: int = 0,
        **more: Any,
    ) -> None:
        """Without a `pool` jobs wait for ever. `slabs`: how many sync has. `more`: settings of cluster.json's section
        `clusterd`."""
        self.sent: list[SyncToNet] = []
        self.log = Lines()
        self.clock = FakeClock()
        block = ClusterBlock(node_type=role, node_name="m" if role == "master" else "w1", nodes=("127.0.0.1",), key=KEY)
        settings = Settings(str(root), cluster=block, clusterd=Clusterd(caps=caps, **more))
        settings = msgspec.structs.replace(settings, serves_store=serves_store)
        spool = Spool(str(root), 1)
        spool.prepare()
        own_slabs = SlabPool(range(slabs))
        self.pool = InlinePool(settings)
        jobs = cast(PoolPort, self.pool) if pool else PoolPort(self._drop, JobQueue(100), 1, self.clock)
        self.context = Context(
            settings=settings,
            clock=self.clock,
            log=cast(Any, self.log),
            net=NetPort(self._send, own_slabs),
            jobs=jobs,
            slabs=own_slabs,
            spool=spool,
            manifests=ManifestKeeper(str(root), spool.state_dir, 1, jobs, self.clock, 300.0),
            sender=Sender(jobs, own_slabs, self.clock),
            progress=[],
            database=Database(str(root)),
            troubles=Troubles(),
            events=cast(Any, Events()),
            roster=Roster(),
        )
        self.core = Core(self.context)
        self.side: Any = self.core._side
        self._serial = 0

    async def _send(self, message: SyncToNet) -> None:
        self.sent.append(message)

    async def _drop(self, *_: Any) -> None:
        pass

    async def up(self, info: LinkInfo) -> Peer:
        await self.core.handle(LinkUp(info))
        peer = self.context.roster.at(info.link)
        assert peer is not None
        return peer

    async def ask(self, info: LinkInfo, command: str, payload: bytes = b"") -> int:
        """Sends a request of the other end; returns its serial number."""
        self._serial += 1
        await self.core.handle(PeerRequest(info.link, self._serial, command, payload))
        return self._serial

    async def reply(self, serial: int) -> Reply:
        return cast(Reply, await self.find(lambda sent: isinstance(sent, Reply) and sent.serial == serial))

    async def request(self, link: int, command: str) -> Request:
        return cast(
            Request,
            await self.find(lambda sent: isinstance(sent, Request) and (sent.link, sent.command) == (link, command)),
        )

    async def string(self, link: int, command: str) -> GiveString:
        """Returns a long string that net must send, and the command that names it."""
        return cast(
            GiveString,
            await self.find(lambda sent: isinstance(sent, GiveString) and (sent.link, sent.command) == (link, command)),
        )

    async def says(self, asked: Request | GiveString, payload: bytes = b"", command: str = "ok") -> None:
        """Sends the other end's response to a request of this node."""
        await self.core.handle(Answered(asked.id, command, payload))

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not holds():
                await asyncio.sleep(0.002)

    async def find(self, matches: Callable[[SyncToNet], bool]) -> SyncToNet:
        async with asyncio.timeout(60):
            while True:
                for message in self.sent:
                    if matches(message):
                        return message
                await asyncio.sleep(0.002)

    def asked(self, link: int) -> list[str]:
        return [sent.command for sent in self.sent if isinstance(sent, Request) and sent.link == link]

    async def close(self) -> None:
        await self.core.net_lost()
        await self.context.database.close()


def on(node: Node, story: Coroutine[Any, Any, None]) -> None:
    async def closed() -> None:
        try:
            await story
        finally:
            await node.close()

    run(closed())


def code_in(payload: bytes) -> int:
    code: int = json.loads(payload)["__wazuh_exception__"]["__object__"]["code"]
    return code


async def turns() -> None:
    for _ in range(30):
        await asyncio.sleep(0)
