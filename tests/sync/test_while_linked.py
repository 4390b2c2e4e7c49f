"""Unpacking on a worker: how large a package may become, and how unpacking ends with the link."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from clusterd.messages.manifest import SweepTemporary, Swept
from clusterd.messages.packages import Applied, OpenPackage, PackageOpened, RangeUnpacked, UnpackRange
from clusterd.settings import Limits, Settings
from clusterd.sync.integrity.applier import NO_ROOM
from clusterd.sync.integrity.leftovers import AGAIN_S
from clusterd.sync.integrity.worker import IntegrityWorker
from clusterd.sync.links.caps import RESUME
from clusterd.sync.links.incoming import Incoming
from clusterd.sync.links.outgoing import Progress
from clusterd.sync.links.partials import Partials
from clusterd.sync.ports import ledger
from clusterd.sync.ports.ledger import RATIO_FROM_BYTES, SMALL_BYTES, Disk
from clusterd.sync.ports.pool_port import JobError
from clusterd.sync.ports.spool import Spool
from clusterd.sync.ports.troubles import Troubles
from clusterd.wire.transfer import IncomingFile
from hashing.errors import Note
from tests.fakes.events import Events
from tests.sync.rounds_bench import TagLog

DATA = b"package" * 100


class Worker:
    """A worker that has received a package. Its pool unpacks until the package is gone, or at once if `is_quick`."""

    def __init__(self, root: Path, capabilities: set[str]) -> None:
        self.lines: list[tuple[str, str]] = []
        self.jobs: list[Any] = []
        self.is_quick = self.is_full = self.ends_while_it_applies = False
        self.notes: list[Note] = []
        self.troubles = Troubles()
        self.losses = 0
        self.spool = Spool(str(root), 1)
        self.spool.prepare()
        self.partials = Partials(self.spool, lambda: 0.0)
        self.context: Any = SimpleNamespace(
            settings=Settings(str(root)),
            node_name="w1",
            tag="Worker w1",
            tag_log=lambda tag, subtag: TagLog(self.lines),
            clock=SimpleNamespace(wall=lambda: 0.0, monotonic=lambda: 0.0),
            troubles=self.troubles,
            events=Events(),
            spool=self.spool,
            progress=[],
            slabs=SimpleNamespace(is_admitted=True, admitted=self._nothing),
            manifests=SimpleNamespace(own_changes=self._own_changes, touch=lambda paths: None, current=None),
            jobs=self,
        )
        self.worker = IntegrityWorker(self.context, lambda: None)
        self.peer: Any = SimpleNamespace(
            name="m", gone=asyncio.Event(), capabilities=capabilities, incoming=self.link(), request=self._nothing
        )
        path = self.spool.new_path("package")
        Path(path).write_bytes(DATA)
        self.file = IncomingFile("/queue/cluster/w1/a.zip", path, len(DATA), True, sha256(DATA).digest())

    def link(self) -> Incoming:
        return Incoming(
            "w1",
            self.spool,
            cast(Any, None),
            file_limit=1 << 20,
            limits=Limits(),
            now=lambda: 0.0,
            partials=self.partials,
            sender="m",
        )

    @staticmethod
    async def _nothing(*_: Any, **__: Any) -> None:
        return None

    @contextlib.asynccontextmanager
    async def _own_changes(self, files: int) -> AsyncIterator[None]:
        yield

    async def run(self, job: Any, **_: Any) -> Any:
        self.jobs.append(job)
        if isinstance(job, OpenPackage):
            Path(job.plan).touch()
            return PackageOpened(1, 0, 0, 2, "", [])
        if isinstance(job, UnpackRange):
            while not self.is_quick and os.path.exists(job.package):
                await asyncio.sleep(0.001)
            if not self.is_quick:
                raise JobError("unwanted", "the package was taken away")
            if self.is_full:
                raise JobError("disk", "no space is left")
            return RangeUnpacked([], [])
        if isinstance(job, SweepTemporary):
            return Swept(1)
        if self.ends_while_it_applies:
            self.peer.gone.set()
            await asyncio.sleep(0.01)
        return Applied(0, 0, 0, 0, 0, 0, self.notes)

    async def apply(self) -> int:
        progress = Progress("m", "integrity", "", 0.0)
        return await self.worker._apply_package(self.peer, self.file, progress)

    def unpacking(self) -> bool:
        return any(isinstance(job, UnpackRange) for job in self.jobs)


def run(story: Any) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await story

    asyncio.run(bounded())


async def until(condition: Any) -> None:
    while not condition():
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("capabilities", [{RESUME}, set()], ids=["clusterd", "stock"])
def test_unpacking_ends_with_the_link_and_goes_on_with_the_next(tmp_path: Path, capabilities: set[str]) -> None:
    async def story() -> None:
        worker = Worker(tmp_path, capabilities)
        applying = asyncio.create_task(worker.apply())
        await until(worker.unpacking)
        worker.peer.gone.set()
        assert await applying == 0
        assert (worker.worker.last.result, worker.worker.last.detail) == (
            "failed",
            "Error 1000 - Wazuh Internal Error: the link to the master ended while its package was unpacked",
        )
        assert isinstance(worker.jobs[-1], SweepTemporary)  # what was unpacked does not stay
        later = worker.link()
        later.expect("task")
        held = await later.resume_file(f"{sha256(DATA).hexdigest()} {len(DATA)}".encode())
        assert held == (len(DATA) if capabilities else 0)
        later.close()
        worker.partials.clear()
        assert os.listdir(worker.spool.directory) == []

    run(story())


def test_failure_that_has_nothing_to_do_with_the_link_is_told_as_it_is(tmp_path: Path) -> None:
    async def story() -> None:
        worker = Worker(tmp_path, set())
        worker.is_quick = worker.is_full = True
        assert await worker.apply() == 0
        assert (worker.worker.last.result, worker.worker.last.detail) == ("failed", "no space is left")

    run(story())


def test_what_is_unpacked_when_the_link_ends_is_put_in_place(tmp_path: Path) -> None:
    async def story() -> None:
        worker = Worker(tmp_path, {RESUME})
        worker.is_quick = worker.ends_while_it_applies = True
        await worker.apply()
        assert worker.worker.last.result == "synced"
        assert os.listdir(worker.spool.directory) == []

    run(story())


@pytest.mark.parametrize("fails", [True, False], ids=["failed", "partly"])
def test_temporary_files_are_looked_for_again_when_something_has_failed(tmp_path: Path, fails: bool) -> None:
    async def story() -> None:
        worker = Worker(tmp_path, set())
        worker.is_quick = not fails
        for _ in range(2):
            await worker.worker._applier.sweep()
        assert [type(job) for job in worker.jobs] == [SweepTemporary]
        worker.notes = [Note("ERROR", "etc/rules/a", "Error with a", "why")]
        applying = asyncio.create_task(worker.apply())
        if fails:
            await until(worker.unpacking)
            worker.peer.gone.set()
        await applying
        for _ in range(2):
            await worker.worker._applier.sweep()
        assert sum(isinstance(job, SweepTemporary) for job in worker.jobs) == 2

    run(story())


def test_temporary_files_are_looked_for_when_a_pool_process_has_died_and_now_and_then(tmp_path: Path) -> None:
    async def story() -> None:
        worker = Worker(tmp_path, set())
        applier, now = worker.worker._applier, 0.0
        worker.context.clock.monotonic = lambda: now

        async def looked() -> int:
            before = len(worker.jobs)
            for _ in range(3):
                await applier.sweep()
            return len(worker.jobs) - before

        assert await looked() == 1
        worker.losses += 1
        assert await looked() == 1
        now = AGAIN_S - 1
        assert await looked() == 0
        now = AGAIN_S + 1
        assert await looked() == 1
        worker.losses += 1
        worker.context.slabs.is_admitted = False
        assert await looked() == 0, "a job of an earlier sync process may still write"

    run(story())


def test_package_may_unpack_to_what_ratio_and_disk_allow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        disk = Disk(1 << 50, 1 << 49, 1 << 30)
        monkeypatch.setattr("clusterd.sync.integrity.applier.disk_of", lambda path, limits: disk)
        worker = Worker(tmp_path, set())
        worker.is_quick = True
        await worker.apply()
        assert {job.max_total_bytes for job in worker.jobs if hasattr(job, "max_total_bytes")} == {RATIO_FROM_BYTES}
        assert not worker.troubles.shown()
        disk = Disk(1 << 50, (1 << 30) - 1, 1 << 30)
        worker.jobs.clear()
        for _ in range(3):
            await worker.apply()
        assert {job.max_file_bytes for job in worker.jobs if hasattr(job, "max_file_bytes")} == {SMALL_BYTES}
        assert list(worker.troubles.shown()) == [NO_ROOM]
        assert [level for level, text in worker.lines if ledger.low(disk) in text] == ["error"]
        disk = Disk(1 << 50, 1 << 30, 1 << 30)
        await worker.apply()
        assert not worker.troubles.shown()

    run(story())
