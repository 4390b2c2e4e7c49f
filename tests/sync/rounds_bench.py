"""A worker's checks between a scripted master and scripted jobs. The test decides everything except the timing."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine
from types import SimpleNamespace
from typing import Any, cast

from clusterd.clock import Clock
from clusterd.messages.links import LinkInfo
from clusterd.messages.packages import BucketsPicked
from clusterd.settings import Settings
from clusterd.sync.integrity.digest_worker import DigestWorker
from clusterd.sync.integrity.rounds import IntegrityRounds
from clusterd.sync.integrity.worker import IntegrityWorker, LastSync
from clusterd.sync.links.peer import Peer
from clusterd.sync.links.roster import Roster
from clusterd.sync.manifest.scan import Scan
from clusterd.sync.ports.troubles import Troubles
from tests.fakes.events import Events

A, B, C = ("a" * 32, "b" * 32, "c" * 32)
BUCKETS = bytes(16384)
EVERYTHING = frozenset({"digest", "push"})


def scan_of(digest: str) -> Scan:
    return Scan(digest, digest, BUCKETS, 3, 30, 0, 3, 0, 0.0, 0.0, [])


def differs(digest: str) -> bytes:
    return b"differs " + digest.encode() + b" " + BUCKETS


class TagLog:
    """Keeps lines as (level, text)."""

    def __init__(self, lines: list[tuple[str, str]]) -> None:
        self._lines = lines

    def __getattr__(self, level: str) -> Callable[..., None]:
        return lambda text, **_: self._lines.append((level, str(text)))


class Manifests:
    """`scan` returns `files`, or raises what is in `failure`. Listeners hear of changed content, as with the real
    keeper."""

    def __init__(self, digest: str) -> None:
        self.files = digest
        self.failure: Exception | None = None
        self.current: Scan | None = None
        self.changed: list[Callable[[Scan], None]] = []
        self.scans = 0

    async def walk(self) -> Scan:
        return await self.scan()

    async def scan(self) -> Scan:
        self.scans += 1
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        self.publish()
        assert self.current is not None
        return self.current

    def publish(self) -> None:
        before, self.current = self.current, scan_of(self.files)
        if before is None or before.content_digest != self.files:
            for listener in self.changed:
                listener(self.current)


class ScriptedMaster:
    """`answers` by command: bytes, an exception, or a function of the payload. `asked`: the requests, in order."""

    name = "m"
    link = 1
    info = LinkInfo(1, "master", "m")

    def __init__(self, capabilities: frozenset[str] = EVERYTHING) -> None:
        self.capabilities = capabilities
        self.answers: dict[str, Any] = {"syn_digest": b"equal", "syn_i_w_m_r": b"", "syn_i_w_m_p": b"False"}
        self.asked: list[str] = []
        self.knows = asyncio.Event()
        self.knows.set()

    async def agreed(self) -> frozenset[str]:
        await self.knows.wait()
        return self.capabilities

    async def request(self, command: str, payload: bytes = b"", **_: Any) -> bytes:
        self.asked.append(command)
        answer = self.answers[command]
        if callable(answer):
            answer = answer(payload)
        if isinstance(answer, Awaitable):
            answer = await answer
        if isinstance(answer, Exception):
            raise answer
        return cast(bytes, answer)

    def count(self, command: str = "syn_digest") -> int:
        return self.asked.count(command)


class ScriptedWorker:
    """The parts of IntegrityWorker that rounds and checks by digest use."""

    def __init__(self, bench: "Bench") -> None:
        self._bench = bench
        self.is_syncing = False
        self.sync_ended: Callable[[int], None] = lambda changed: None
        self.last = LastSync()
        self.equal = 0
        self.stock_checks = 0
        self.begun = 0

    async def scan(self, log: Any) -> Scan:
        return await self._bench.manifests.scan()

    async def check(self, peer: Any) -> None:
        self.stock_checks += 1
        await peer.request("syn_i_w_m_p")

    async def could_not_check(self, peer: Any, failure: Exception) -> None:
        self.note_result("failed", str(failure))

    def begin_without_package(self, started: float) -> None:
        self.begun += 1

    def abandon_round(self) -> None:
        pass

    def checked_equal(self) -> None:
        self.equal += 1
        self.note_result("equal", "")

    def note_result(self, result: str, detail: str) -> None:
        self.last.result, self.last.detail = result, detail

    def sync_ends(self, changed: int) -> None:
        self.is_syncing = False
        self.sync_ended(changed)


class Bench:
    """`picked`: the rows that the pool finds in the differing buckets."""

    def __init__(self, interval_s: float = 60.0, capabilities: frozenset[str] = EVERYTHING) -> None:
        settings = SimpleNamespace(
            worker=SimpleNamespace(sync_integrity_s=interval_s), communication=Settings("/").communication
        )
        self.lines: list[tuple[str, str]] = []
        self.manifests = Manifests(A)
        self.picked: BucketsPicked | Exception = BucketsPicked(4, 1, b"told")
        self.removed: list[str] = []
        context = SimpleNamespace(
            settings=settings,
            node_name="w",
            tag="Worker w",
            roster=Roster(),
            tag_log=lambda tag, subtag: TagLog(self.lines),
            clock=Clock(),
            progress=[],
            manifests=self.manifests,
            troubles=Troubles(),
            events=Events(),
            jobs=SimpleNamespace(run=self._run),
            spool=SimpleNamespace(state_dir="/", new_path=lambda kind: f"/{kind}", remove=self._remove),
        )
        self.context = context
        self.worker = ScriptedWorker(self)
        self.digest = DigestWorker(cast(Any, context), cast(IntegrityWorker, self.worker))
        self.rounds = IntegrityRounds(cast(Any, context), cast(IntegrityWorker, self.worker), self.digest)
        self.master = ScriptedMaster(capabilities)
        self._running: asyncio.Task[None] | None = None

    async def _run(self, job: Any, **_: Any) -> Any:
        await asyncio.sleep(0)
        if isinstance(self.picked, Exception):
            raise self.picked
        return self.picked

    def _remove(self, *paths: str) -> None:
        self.removed += paths

    def link(self) -> None:
        """Connects the link to the master."""
        self._running = asyncio.ensure_future(self.rounds.run(cast(Peer, self.master)))

    async def unlink(self) -> None:
        assert self._running is not None
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)

    async def until(self, condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
        async with asyncio.timeout(timeout_s):
            while not condition():
                await asyncio.sleep(0.002)

    async def checked(self, times: int) -> None:
        """Waits until that many checks were made and the worker rests again."""
        await self.until(lambda: self.master.count() >= times)
        await settle()

    def changed(self, digest: str, spread_ms: int = 0) -> None:
        self.rounds.master_changed(f"{digest} {spread_ms}".encode())

    def errors(self) -> list[str]:
        return [text for level, text in self.lines if level == "error"]


async def settle() -> None:
    """Waits until everything that needs no timer has run."""
    for _ in range(50):
        await asyncio.sleep(0)


def run(story: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(120):
            await story

    asyncio.run(bounded())


def listed(**counts: int) -> bytes:
    return json.dumps({"counts": {"missing": 0, "shared": 0, "extra": 0} | counts}).encode()
