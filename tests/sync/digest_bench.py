"""A master's digest protocol on scripted links and jobs."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import msgspec

from clusterd.messages.links import LinkInfo
from clusterd.messages.packages import CompareBuckets, Compared, DifferenceListed
from clusterd.settings import Settings
from clusterd.sync.integrity.digest_master import DigestMaster
from clusterd.sync.integrity.master import IntegrityMaster
from clusterd.sync.links.peer import Peer
from clusterd.sync.links.roster import Roster
from clusterd.sync.links.tags import worker_tag
from clusterd.sync.manifest.scan import Scan
from clusterd.sync.ports.tasks import Tasks
from clusterd.sync.ports.troubles import Troubles
from tests.fakes.events import Events
from tests.sync.rounds_bench import EVERYTHING, A, TagLog, scan_of

EQUAL = Compared(3, 0, 0, 0, [], against=A)
DIFFERS = Compared(3, 1, 2, 1, [1, 2, 3], against=A)


class Integrity(IntegrityMaster):
    """The real class, but a package waits until `gate` opens."""

    gate: asyncio.Event
    sent = 0

    async def sync(self, peer: Peer, compared: Compared, difference: str, scan: Any, *, ahead: bool = False) -> None:
        self.record(peer.name).digest = ""
        self.sent += 1
        await self.gate.wait()


class Worker:
    """A link to a worker. `answer`: the worker's answer to the master's requests."""

    def __init__(self, link: int, name: str, capabilities: frozenset[str] = EVERYTHING) -> None:
        self.info = LinkInfo(link, "worker", name)
        self.link, self.name, self.capabilities = link, name, capabilities
        self.tag = worker_tag(name)
        self.asked: list[tuple[str, bytes]] = []
        self.answer: Callable[[str, bytes], Any] = lambda command, payload: b"Thanks"
        self.told: list[str] = []
        self.gone = asyncio.Event()
        self.tasks = Tasks(self.told.append)

    def spawn(self, work: Any) -> None:
        self.tasks.spawn(work)

    async def request(self, command: str, payload: bytes = b"", **_: Any) -> bytes:
        self.asked.append((command, payload))
        answer = self.answer(command, payload)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, asyncio.Future):
            await answer
            return b"Thanks"
        return cast(bytes, answer)


class Bench:
    """`result`: the result of a comparison in the pool, or the exception that it raises."""

    def __init__(self, *names: str) -> None:
        self.lines: list[tuple[str, str]] = []
        self.result: Compared | Exception = DIFFERS
        self.held: asyncio.Event | None = None
        self.made: list[str] = []
        self.removed: list[str] = []
        self.now = 100.0
        self.manifests = SimpleNamespace(current=scan_of(A))
        context: Any = SimpleNamespace(
            settings=Settings("/"),
            tag_log=lambda tag, subtag: TagLog(self.lines),
            clock=SimpleNamespace(wall=lambda: self.now, monotonic=lambda: self.now, awake=lambda: self.now),
            manifests=self.manifests,
            roster=Roster(),
            troubles=Troubles(),
            events=Events(),
            jobs=SimpleNamespace(run=self._run),
            spool=SimpleNamespace(state_dir="/", new_path=self._new, remove=self._remove),
        )
        self.integrity = Integrity(context)
        self.integrity.gate = asyncio.Event()
        self._roster = context.roster
        self.workers = [Worker(number, name) for number, name in enumerate(names or ("w",), 1)]
        self.digest = DigestMaster(context, self.integrity)

    @property
    def workers(self) -> list[Worker]:
        return cast("list[Worker]", self._roster.workers())

    @workers.setter
    def workers(self, workers: list[Worker]) -> None:
        for peer in self._roster.all():
            self._roster.remove(peer.link)
        for worker in workers:
            self._roster.add(cast(Peer, worker))

    @property
    def worker(self) -> Worker:
        return self.workers[0]

    @property
    def record(self) -> Any:
        return self.integrity.record("w")

    def _new(self, kind: str) -> str:
        self.made.append(f"/{kind}-{len(self.made)}")
        return self.made[-1]

    def _remove(self, *paths: str) -> None:
        self.removed += paths

    async def _run(self, job: Any, **_: Any) -> Any:
        if not isinstance(job, CompareBuckets):
            return DifferenceListed(["etc/new"], ["etc/changed"], [])
        if self.held is not None:
            await self.held.wait()
        if isinstance(self.result, Exception):
            raise self.result
        return self.result

    def check(self, digest: str = A, worker: Worker | None = None, *, dry: bool = False) -> bytes:
        payload = digest.encode() + (b" dry" if dry else b"")
        return self.digest.check(cast(Peer, worker or self.worker), payload)

    async def compare(self, worker: Worker | None = None) -> bytes:
        return await self.digest.compare(cast(Peer, worker or self.worker), b"told", None)

    def publish(self, digest: str) -> None:
        scan: Scan = msgspec.structs.replace(scan_of(digest), ended_at=self.now + 0.25, duration_s=0.25)
        self.manifests.current = scan
        self.integrity.manifest_changed(scan)
        self.digest.manifest_changed(scan)

    async def unlink(self, worker: Worker | None = None) -> None:
        """Ends the link as core does."""
        gone = worker or self.worker
        gone.gone.set()
        await gone.tasks.close()
        self.integrity.forget(cast(Peer, gone))
        self.digest.forget(cast(Peer, gone))

    def is_clean(self) -> bool:
        return self.made == [path for path in self.made if path in self.removed] and self.integrity.is_free("w")
