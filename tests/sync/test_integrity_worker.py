"""Links that end between two steps of a worker's sync; packages that arrive while another one is applied."""

import asyncio
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any, cast

import pytest

from clusterd.errors import ClusterError
from clusterd.messages.packages import Applied, ApplyPlan, OpenPackage, PackageOpened, RangeUnpacked
from clusterd.messages.pool import AnyJob
from clusterd.settings import Limits
from clusterd.sync.integrity.worker import MAX_SYNCS, IntegrityWorker
from clusterd.sync.links.incoming import Incoming
from clusterd.sync.ports.slabs import SlabPool
from clusterd.sync.ports.spool import Spool
from clusterd.sync.ports.troubles import Troubles
from hashing.plan import Written
from tests.fakes.events import Events


class Silent:
    """Stands for the log, the clock and everything that is only told something."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: 0.0


def test_link_that_ends_as_a_sync_begins_does_not_keep_the_next_from_beginning(tmp_path: Path) -> None:
    settings = SimpleNamespace(communication=SimpleNamespace(timeout_receiving_file_s=60.0), root=str(tmp_path))
    context = SimpleNamespace(
        tag_log=lambda tag, subtag: Silent(),
        node_name="w1",
        tag="Worker w1",
        clock=Silent(),
        settings=settings,
        progress=[],
        manifests=SimpleNamespace(current=None),
    )

    async def story() -> None:
        worker = IntegrityWorker(cast(Any, context), lambda: None)
        for _ in range(MAX_SYNCS + 1):
            spool = Spool(str(tmp_path), 1)
            incoming = Incoming("w1", spool, cast(Any, None), file_limit=1, limits=Limits(), now=lambda: 0.0)
            worker.begin_sync(cast(Any, SimpleNamespace(name="m", incoming=incoming)))
            incoming.close()
            for _ in range(5):
                await asyncio.sleep(0)
        assert context.progress == []
        # The request may have been read just before the link ended, and be answered just after it.
        worker.begin_sync(cast(Any, SimpleNamespace(name="m", incoming=incoming)))
        for _ in range(5):
            await asyncio.sleep(0)
        assert context.progress == []
        assert not worker.is_syncing
        with pytest.raises(ClusterError, match="the link has ended"):
            incoming.new_string(b"10")

    asyncio.run(story())


def test_packages_are_applied_one_after_the_other_in_the_order_in_which_they_came(tmp_path: Path) -> None:
    """The master may send the next package while this node still applies one: older files must not be applied last."""
    context = SimpleNamespace(
        tag_log=lambda tag, subtag: Silent(),
        node_name="w1",
        tag="Worker w1",
        spool=SimpleNamespace(remove=lambda *paths: None),
        slabs=SlabPool([]),
    )
    seen: list[str] = []

    class Watched(IntegrityWorker):
        async def _apply(self, peer: Any, file: Any, log: Any, progress: Any) -> int:
            seen.append(f"{file.place} begins")
            for _ in range(5):
                await asyncio.sleep(0)
            seen.append(f"{file.place} ends")
            return 0

    async def story() -> None:
        worker = Watched(cast(Any, context), lambda: None)
        peer, progress = cast(Any, SimpleNamespace(name="m")), cast(Any, SimpleNamespace(step=""))
        await context.slabs.admit()
        await asyncio.gather(
            *(
                worker._apply_package(peer, cast(Any, SimpleNamespace(place=name)), progress)
                for name in ("first", "second")
            )
        )

    asyncio.run(story())
    assert seen == ["first begins", "first ends", "second begins", "second ends"]


class Aside:
    """The manifests of a worker that withholds nothing."""

    current = None

    def own_changes(self, files: int) -> "Aside":
        return self

    async def __aenter__(self) -> None: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def touch(self, paths: list[str]) -> None: ...


class SlowPool:
    """Runs package jobs at once, and each ApplyPlan when `go` allows it. `jobs`: the jobs that were asked for."""

    losses = 0

    def __init__(self) -> None:
        self.jobs: list[AnyJob] = []
        self.go = asyncio.Semaphore(0)

    async def run(self, job: AnyJob) -> Any:
        self.jobs.append(job)
        if isinstance(job, OpenPackage):
            return PackageOpened(1, 0, 0, 1, "", [])
        if isinstance(job, ApplyPlan):
            await self.go.acquire()
            return Applied(1, 0, 0, 0, 0, 0, [])
        return RangeUnpacked([Written("etc/rules/a", 7, 4)], [])

    def names(self) -> list[str]:
        return [type(job).__name__ for job in self.jobs]


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_packages_are_applied_one_after_the_other(tmp_path: Path) -> None:
    """The first waits until the jobs of an earlier sync process have ended, and the second waits for the first."""
    pool, slabs = SlowPool(), SlabPool([])
    limits = SimpleNamespace(limits=Limits(), delete_confirm_share=0.5)
    communication = SimpleNamespace(timeout_receiving_file_s=60.0)
    settings = SimpleNamespace(communication=communication, clusterd=limits, root=str(tmp_path))
    context = SimpleNamespace(
        tag_log=lambda tag, subtag: Silent(),
        node_name="w1",
        tag="Worker w1",
        clock=SimpleNamespace(wall=lambda: 0.0, monotonic=lambda: 0.0),
        settings=settings,
        progress=[],
        jobs=pool,
        slabs=slabs,
        spool=Spool(str(tmp_path), 1),
        manifests=Aside(),
        troubles=Troubles(),
        events=Events(),
    )

    async def story() -> None:
        worker = IntegrityWorker(cast(Any, context), lambda: None)
        incoming = Incoming("w1", context.spool, cast(Any, None), file_limit=1, limits=Limits(), now=lambda: 0.0)
        peer = cast(Any, SimpleNamespace(name="m", incoming=incoming, gone=asyncio.Event()))
        for number in range(2):
            awaited = incoming.awaited(worker.begin_sync(peer))
            assert awaited is not None
            awaited.file.set_result(cast(Any, SimpleNamespace(place=f"package-{number}", received=100)))
        await turns()
        assert pool.names() == []
        await slabs.admit()
        await turns()
        assert pool.names() == ["OpenPackage", "UnpackRange", "ApplyPlan"]
        assert [progress.step for progress in context.progress] == ["applying", "waiting"]
        pool.go.release()
        await turns()
        assert pool.names() == ["OpenPackage", "UnpackRange", "ApplyPlan"] * 2
        assert [job.package for job in pool.jobs if isinstance(job, OpenPackage)] == ["package-0", "package-1"]
        pool.go.release()
        await turns()
        assert worker.last.result == "synced"
        assert context.progress == []

    asyncio.run(story())
