"""What this node cannot do (because its disk is full) is in its status at once, not only in a log."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from clusterd.clock import Clock
from clusterd.messages.manifest import PatchManifest, ScanShard
from clusterd.messages.packages import Compared
from clusterd.settings import Settings
from clusterd.sync.integrity.master import IntegrityMaster
from clusterd.sync.manifest.keeper import SUBJECT, ManifestKeeper
from clusterd.sync.manifest.scan import ScanFailed
from clusterd.sync.ports.pool_port import JobError
from clusterd.sync.ports.troubles import Troubles
from clusterd.sync.requests.status import results_of_workers
from tests.fakes.events import Events
from tests.fakes.pool import InlinePool
from tests.sync.rounds_bench import TagLog, scan_of, settle
from tests.sync.test_spool import make_worker


class Node:
    """A master whose pool fails jobs of these kinds because the disk is full."""

    def __init__(self, root: Path) -> None:
        (root / "etc/rules").mkdir(parents=True)
        (root / "state").mkdir()
        self.full: tuple[type, ...] = ()
        self.lines: list[tuple[str, str]] = []
        self.troubles = Troubles()
        self.pool = InlinePool(Settings(str(root)))
        self.manifests = ManifestKeeper(
            str(root),
            str(root / "state"),
            1,
            cast(Any, self),
            Clock(),
            300.0,
            log=cast(Any, TagLog(self.lines)),
            troubles=self.troubles,
        )
        self.context: Any = SimpleNamespace(
            settings=Settings(str(root)),
            tag_log=lambda tag, subtag: TagLog(self.lines),
            clock=Clock(),
            manifests=self.manifests,
            troubles=self.troubles,
            events=Events(),
            jobs=self,
            spool=None,
        )

    async def run(self, job: Any, **options: Any) -> Any:
        if isinstance(job, self.full):
            raise JobError("disk", f"{type(job).__name__}: No space left on device")
        return await self.pool.run(job, **options)

    def count(self, level: str) -> int:
        return sum(found == level for found, _ in self.lines)


def test_worker_is_not_shown_as_equal_while_the_master_cannot_look_at_its_files(tmp_path: Path) -> None:
    async def story() -> None:
        node = Node(tmp_path)
        integrity = IntegrityMaster(node.context)
        node.manifests.changed.append(integrity.manifest_changed)
        scan = await node.manifests.scan()
        integrity.record("w").is_equal(scan.content_digest, 100.0)
        assert results_of_workers(integrity.records, node.manifests, node.context.clock)["w"]["result"] == "equal"
        (tmp_path / "etc/rules/new.xml").write_text("new")
        node.full = (ScanShard, PatchManifest)
        for _ in range(3):
            with_failure = None
            try:
                await node.manifests.scan()
            except ScanFailed as failure:
                with_failure = failure
            assert with_failure is not None
        shown = results_of_workers(integrity.records, node.manifests, node.context.clock)["w"]
        assert (shown["result"], shown["lag_files"]) == ("unknown", None)
        assert shown["lag_s"] >= 0.0
        assert "No space left" in shown["detail"]
        assert "No space left" in node.troubles.shown()[SUBJECT]
        assert node.count("error") == 1
        node.full = ()
        await node.manifests.scan()
        shown = results_of_workers(integrity.records, node.manifests, node.context.clock)["w"]
        assert (shown["result"], node.troubles.shown(), node.count("info")) == ("equal", {}, 1)
        assert shown["lag_s"] is not None  # the change that was not seen is seen now

    asyncio.run(story())


class Integrity(IntegrityMaster):
    """The real class; packages are made, or fail because the disk is full."""

    is_full = True

    async def sync(self, peer: Any, compared: Compared, difference: str, scan: Any, *, ahead: bool = False) -> None:
        if self.is_full:
            raise JobError("disk", "PackPart: No space left on device")
        self.published(scan_of("a" * 32))


def test_package_that_could_not_be_made_is_shown_until_the_worker_is_equal(tmp_path: Path) -> None:
    async def story() -> None:
        node, worker = Node(tmp_path), make_worker()
        integrity = Integrity(node.context)
        for _ in range(3):
            try:
                await integrity.sync(worker, Compared(1, 1, 0, 0, [1]), "", "")
            except JobError as failure:
                integrity.failed(worker, failure)
            await settle()
        record = integrity.record("w")
        assert record.result == "failed"
        assert node.troubles.shown() == {"files for w": "Files for w: PackPart: No space left on device"}
        assert node.count("error") == 1
        integrity.checked(worker, scan_of("a" * 32), Compared(1, 0, 0, 0, []), 0.0, 0.0)
        assert node.troubles.shown() == {}

    asyncio.run(story())
