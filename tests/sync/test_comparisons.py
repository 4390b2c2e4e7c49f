"""Equal metadata are compared once."""

import asyncio
import os
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from clusterd.messages.packages import Compared, ComparePackage
from clusterd.sync.integrity.comparisons import KEPT_DIFFERING, Comparisons
from clusterd.sync.ports.pool_port import JobError
from clusterd.sync.ports.spool import Spool
from hashing.atomic import FileOps
from hashing.compare import load_difference
from hashing.manifest import Manifest, build_manifest, save_manifest
from hashing.metadata_json import to_wire
from hashing.pack import write_metadata
from ipc.arena import Arena
from tests.hashing.packages import meta_of
from tests.sync.fake_pool import FakePool, port

ROWS = [meta_of(f"etc/rules/{number}.xml", b"x") for number in range(5)]


class Stage:
    """A master with a manifest of ROWS, and packages of workers that have some of them."""

    def __init__(self, root: Path) -> None:
        self.spool = Spool(str(root), 1)
        self.spool.prepare()
        self.pool = FakePool(str(root), Arena(0, 1, 65536))
        self.comparisons = Comparisons(port(self.pool), self.spool)
        self.manifest = self.publish(build_manifest(ROWS))

    def publish(self, manifest: Manifest) -> str:
        save_manifest(FileOps(), self.spool.state_dir, manifest)
        return manifest.root_digest

    async def check(self, count: int, manifest: str = "") -> tuple[Compared, str]:
        """A worker that has the first `count` files. Its package and difference are removed when it was told."""
        package, difference = self.spool.new_path("check"), self.spool.new_path("difference")
        write_metadata(package, to_wire(ROWS[:count]), 1)
        digest = sha256(Path(package).read_bytes()).digest()
        try:
            compared = await self.comparisons.compare(package, digest, manifest or self.manifest, difference)
            missing = len(load_difference(difference).missing) if Path(difference).exists() else 0
            assert missing == compared.missing
            return compared, difference
        finally:
            self.spool.remove(package, difference)

    @property
    def files(self) -> list[str]:
        return os.listdir(self.spool.directory)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    return Stage(tmp_path)


def test_workers_with_the_same_files_are_compared_once(stage: Stage) -> None:
    async def story() -> None:
        found = await asyncio.gather(*(stage.check(2) for _ in range(5)), stage.check(3))
        assert [compared.missing for compared, _ in found] == [3, 3, 3, 3, 3, 2]
        assert stage.pool.count(ComparePackage) == 2

    asyncio.run(story())


def test_worker_that_is_equal_is_known_again_without_a_job(stage: Stage) -> None:
    async def story() -> None:
        for _ in range(4):
            compared, _ = await stage.check(5)
            assert (compared.missing, compared.shared, compared.extra) == (0, 0, 0)
        assert stage.pool.count(ComparePackage) == 1
        assert not stage.files

    asyncio.run(story())


def test_new_manifest_is_compared_again_and_kept_comparisons_are_dropped(stage: Stage) -> None:
    async def story() -> None:
        await stage.check(2)
        assert len(stage.files) == 1
        newer = stage.publish(build_manifest(ROWS[:4]))
        compared, _ = await stage.check(2, newer)
        assert compared.missing == 2
        assert len(stage.files) == 1
        for number in range(20):
            await stage.check(number % 5, newer)
        assert len(stage.files) <= KEPT_DIFFERING

    asyncio.run(story())


def test_results_are_kept_as_long_as_they_are_few(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest go first: of those with a difference beyond KEPT_DIFFERING, of all beyond KEPT."""

    async def jobs(*counts: int) -> int:
        before = stage.pool.count(ComparePackage)
        for count in counts:
            await stage.check(count)
        return stage.pool.count(ComparePackage) - before

    async def story() -> None:
        assert await jobs(5, 0, 1, 2, 3, 0, 1, 2, 3, 5) == KEPT_DIFFERING + 1
        assert await jobs(4, 1, 2, 3, 4, 5) == 1
        assert len(stage.files) == KEPT_DIFFERING
        monkeypatch.setattr("clusterd.sync.integrity.comparisons.KEPT", KEPT_DIFFERING + 1)
        assert await jobs(0) == 1
        assert await jobs(3, 4, 0) == 0
        assert await jobs(5) == 1, "it was the oldest"

    asyncio.run(story())


def test_comparison_that_fails_when_its_asker_has_gone_is_made_anew(stage: Stage) -> None:
    async def story() -> None:
        stage.pool.fails = ComparePackage
        stage.pool.gate.clear()
        waiter = asyncio.create_task(stage.check(2))
        await asyncio.sleep(0)
        waiter.cancel()
        await ended(stage)
        stage.pool.fails = None
        assert (await stage.check(3))[0].missing == 2

    asyncio.run(story())


def test_failed_or_abandoned_waiting_affects_no_other_waiter(stage: Stage) -> None:
    async def story() -> None:
        stage.pool.fails = ComparePackage
        with pytest.raises(JobError):
            await stage.check(2)
        stage.pool.fails = None
        stage.pool.gate.clear()
        waiters = [asyncio.create_task(stage.check(2)) for _ in range(2)]
        for _ in range(3):
            await asyncio.sleep(0)
        waiters[0].cancel()
        await asyncio.sleep(0)
        stage.pool.gate.set()
        compared, _ = await waiters[1]
        assert compared.missing == 3

    asyncio.run(story())


async def ended(stage: Stage) -> None:
    """The job has ended, and its waiters do not know yet."""
    stage.pool.gate.set()
    (running,) = (known.running for known in stage.comparisons._known.values())
    while not running.done():
        await asyncio.sleep(0)


def test_result_that_is_dropped_before_its_waiters_have_it_reaches_them_all_the_same(stage: Stage) -> None:
    async def story() -> None:
        stage.pool.gate.clear()
        waiting = asyncio.create_task(stage.check(2))
        await asyncio.sleep(0)
        await ended(stage)
        stage.comparisons._forget_others("the next manifest")
        assert (await waiting)[0].missing == 3
        assert stage.files == []

    asyncio.run(story())


def test_waiter_that_goes_when_the_result_is_there_leaves_it_to_the_others(stage: Stage) -> None:
    async def story() -> None:
        stage.pool.gate.clear()
        waiters = [asyncio.create_task(stage.check(2)) for _ in range(2)]
        await asyncio.sleep(0)
        await ended(stage)
        waiters[0].cancel()
        assert (await waiters[1])[0].missing == 3
        assert stage.pool.count(ComparePackage) == 1
        assert (await stage.check(2))[0].missing == 3

    asyncio.run(story())
