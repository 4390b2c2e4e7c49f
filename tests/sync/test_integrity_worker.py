"""A worker's checks the stock way; links that end between two steps of its sync; packages that arrive while one is
applied."""

import asyncio
import os
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any, cast

import pytest

from clusterd.errors import ClusterError
from clusterd.messages.bodies import DigestSegments
from clusterd.messages.packages import Applied, ApplyPlan, OpenPackage, PackageOpened, PackMetadata, RangeUnpacked
from clusterd.messages.pool import AnyJob
from clusterd.settings import Limits
from clusterd.sync.integrity.applier import PackageApplier
from clusterd.sync.integrity.worker import MAX_SYNCS, IntegrityWorker
from clusterd.sync.links.incoming import Incoming
from clusterd.sync.links.outgoing import Package
from clusterd.sync.manifest.scan import ScanFailed
from clusterd.sync.ports.pool_port import JobError
from clusterd.sync.ports.slabs import SlabPool
from clusterd.sync.ports.spool import Spool
from clusterd.sync.ports.troubles import Troubles
from hashing.atomic import FileOps
from hashing.manifest import build_manifest, save_manifest
from hashing.plan import Written
from ipc.arena import Arena
from tests.fakes.events import Events
from tests.hashing.packages import meta_of
from tests.sync.fake_pool import FakePool
from tests.sync.fake_pool import context as context_of
from tests.sync.rounds_bench import TagLog


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
            incoming.strings.begin(b"10")

    asyncio.run(story())


class Checking:
    """A worker with two files, whose master permits every check. `sent`: the packages; `fails`: why the next one cannot
    be sent."""

    def __init__(self, root: Path) -> None:
        self.pool = FakePool(str(root), Arena(0, 1, 65536))
        self.lines: list[tuple[str, str]] = []
        made = cast(Any, context_of(root, self.pool))
        self.spool: Spool = made.spool
        manifest = build_manifest([meta_of(f"etc/rules/{name}.xml", b"x") for name in "ab"])
        save_manifest(FileOps(), self.spool.state_dir, manifest)
        made.tag, made.progress, made.node_name = "Worker w1", [], "w1"
        made.tag_log = lambda *_: TagLog(self.lines)
        self.verdict_comes_early = False
        made.sender = SimpleNamespace(send=self._send)
        self.worker = IntegrityWorker(made, lambda: None)
        self._scan = SimpleNamespace(root_digest=manifest.root_digest, files=2)
        cast(Any, self.worker).scan = self._scanned
        self.sent: list[str] = []
        self.fails: Exception | None = None
        self.scan_fails: Exception | None = None
        self.is_permitted = True
        self.asked: list[str] = []
        self.context = made

    async def _scanned(self, log: Any) -> Any:
        if self.scan_fails is not None:
            raise self.scan_fails
        return self._scan

    async def _send(self, peer: Any, node: str, command: str, package: Package, *_: Any) -> None:
        self.sent.append(package.segments[0].path)
        if self.verdict_comes_early:
            self.worker.told_equal()
            self.lines.append(("debug", "the last answer to our package"))
        if self.fails is not None:
            raise ClusterError(1000, str(self.fails)) from self.fails

    async def check(self) -> None:
        async def request(command: str, payload: bytes = b"", **_: Any) -> bytes:
            self.asked.append(command)
            return b"True" if self.is_permitted else b"False"

        await self.worker.check(cast(Any, SimpleNamespace(name="m", request=request, capabilities=frozenset())))
        assert self.context.progress == []

    @property
    def files(self) -> list[str]:
        return [f"{self.spool.directory}/{name}" for name in os.listdir(self.spool.directory)]


def test_metadata_that_could_not_be_packed_leave_no_file(tmp_path: Path) -> None:
    """On a full disk there would be one more in every round."""
    node = Checking(tmp_path)
    node.pool.fails = DigestSegments
    for _ in range(3):
        asyncio.run(node.check())
    assert (node.sent, node.files) == ([], [])
    assert node.pool.count(PackMetadata) == 3


def test_metadata_whose_file_cannot_be_read_are_packed_anew(tmp_path: Path) -> None:
    node = Checking(tmp_path)
    for fails in (None, ClusterError(1000, "the master has no room"), FileNotFoundError(2, "gone"), None):
        node.fails = fails
        asyncio.run(node.check())
    assert len(set(node.sent[:3])) == 1, "one package as long as nothing changes"
    assert node.files == [node.sent[3]] != [node.sent[2]]


def test_changed_files_have_metadata_of_their_own(tmp_path: Path) -> None:
    node = Checking(tmp_path)
    asyncio.run(node.check())
    manifest = build_manifest([meta_of("etc/rules/c.xml", b"x")])
    save_manifest(FileOps(), node.spool.state_dir, manifest)
    node._scan = SimpleNamespace(root_digest=manifest.root_digest, files=1)
    asyncio.run(node.check())
    assert node.files == [node.sent[1]] != [node.sent[0]]


def test_nothing_is_sent_without_permission(tmp_path: Path) -> None:
    node = Checking(tmp_path)
    node.is_permitted = False
    asyncio.run(node.check())
    assert (node.asked, node.sent, node.files) == (["syn_i_w_m_p"], [], [])
    assert ("info", "Starting.") not in node.lines


@pytest.mark.parametrize("failure", [ScanFailed("no space is left"), JobError("disk", "no space is left")])
def test_files_that_cannot_be_looked_at_are_told_to_the_master(tmp_path: Path, failure: Exception) -> None:
    node = Checking(tmp_path)
    node.scan_fails = failure
    asyncio.run(node.check())
    assert (node.asked, node.sent) == (["syn_i_w_m_p", "syn_i_w_m_r"], [])
    assert (node.worker.last.result, node.worker.last.detail) == ("failed", "no space is left")
    assert ("error", "Error synchronizing integrity: no space is left") in node.lines
    node.context.manifests = SimpleNamespace(current=None)
    node.worker.checked_equal()
    assert node.lines.count(("info", "Starting.")) == 2, "the check that failed is over"


def test_verdict_that_comes_before_the_last_answer_to_the_package_is_logged_behind_it(tmp_path: Path) -> None:
    """Readers of the log know the order of a check's lines."""
    node = Checking(tmp_path)
    node.verdict_comes_early = True
    asyncio.run(node.check())
    assert node.lines[-2] == ("debug", "the last answer to our package")
    assert node.lines[-1][1].endswith("s. Sync not required.")


def test_package_that_could_not_be_sent_is_a_failed_check(tmp_path: Path) -> None:
    node = Checking(tmp_path)
    node.fails = ClusterError(1000, "the master has no room")
    asyncio.run(node.check())
    assert (node.worker.last.result, "no room" in node.worker.last.detail) == ("failed", True)


def test_master_is_believed_that_nothing_differs_once_for_each_check_that_has_begun(tmp_path: Path) -> None:
    """What nobody has asked for would end the wait for deletions that are to be confirmed, hide files that are left
    out, and reload a ruleset."""
    node = Checking(tmp_path)

    def told() -> str:
        node.worker.note_result("partly", "files are left out")
        node.worker.told_equal()
        return node.worker.last.result

    assert told() == "partly", "no check was made"
    asyncio.run(node.check())
    assert [told(), told()] == ["equal", "partly"]
    node.fails = ClusterError(1000, "the master has no room")
    asyncio.run(node.check())
    assert told() == "partly", "no package has arrived"
    node.fails = None
    asyncio.run(node.check())
    node.worker.abandon_round()
    assert told() == "partly", "the link has ended"


def test_packages_are_applied_one_after_the_other_in_the_order_in_which_they_came(tmp_path: Path) -> None:
    """The master may send the next package while this node still applies one: older files must not be applied last."""
    context = SimpleNamespace(
        tag_log=lambda tag, subtag: Silent(),
        node_name="w1",
        tag="Worker w1",
        slabs=SlabPool([]),
    )
    seen: list[str] = []

    class Watched(PackageApplier):
        async def _apply(self, peer: Any, file: Any, log: Any, progress: Any) -> Any:
            seen.append(f"{file.place} begins")
            for _ in range(5):
                await asyncio.sleep(0)
            seen.append(f"{file.place} ends")

    async def story() -> None:
        applier = Watched(cast(Any, context))
        unused = cast(Any, SimpleNamespace())
        await context.slabs.admit()
        files = [cast(Any, SimpleNamespace(place=name)) for name in ("first", "second")]
        await asyncio.gather(*(applier.apply(unused, file, unused, unused) for file in files))

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
