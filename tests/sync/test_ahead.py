"""The master sends what has changed at once to workers that have the manifest before. It tells all other workers of the
change, and those whose transfer fails."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from clusterd.messages.packages import Compared, CompareManifests
from clusterd.sync.links.caps import AHEAD
from clusterd.sync.ports.pool_port import JobError
from hashing.manifest import BUCKET_DIGEST_BYTES, BUCKETS
from tests.sync.digest_bench import EQUAL
from tests.sync.digest_bench import Bench as DigestBench
from tests.sync.rounds_bench import EVERYTHING, A, B, C, run, scan_of, settle

ABLE = EVERYTHING | {AHEAD}


class Bench(DigestBench):
    """All workers are known to have A, which is current. The spool's files are real."""

    def __init__(self, base: Path, *names: str) -> None:
        super().__init__(*names)
        self.base = base
        self.jobs: list[CompareManifests] = []
        self.lanes: list[str] = []
        for worker in self.workers:
            worker.capabilities = ABLE
            self.check(A, worker)
        self.digest.manifest_changed(self.manifests.current)

    def _new(self, kind: str) -> str:
        self.made.append(str(self.base / f"{kind}-{len(self.made)}"))
        return self.made[-1]

    def _remove(self, *paths: str) -> None:
        for path in paths:
            Path(path).unlink(missing_ok=True)

    async def _run(self, job: Any, *, lane: str) -> Any:
        self.jobs.append(job)
        self.lanes.append(lane)
        await asyncio.sleep(0)
        if self.held is not None:
            await self.held.wait()
        if isinstance(self.result, Exception):
            raise self.result
        Path(job.out).write_text("difference")
        return self.result

    def told(self) -> list[list[str]]:
        """Returns the digests of which each worker was told."""
        return [[payload[:32].decode() for _, payload in worker.asked] for worker in self.workers]

    def is_clean(self) -> bool:
        """Asserts that no transfer runs and that the spool has at most the last step."""
        free = all(self.integrity.is_free(worker.name) for worker in self.workers)
        return free and [path.name.partition("-")[0] for path in self.base.iterdir()] in ([], ["step"])


def test_workers_that_had_the_manifest_before_are_sent_what_changed(tmp_path: Path) -> None:
    async def story() -> None:
        bench = Bench(tmp_path, "w", "v", "u")
        bench.publish(B)
        await settle()
        assert (bench.integrity.sent, bench.told(), len(bench.jobs)) == (3, [[], [], []], 1)
        assert all(Path(own).read_text() == "difference" for own in bench.made if "difference" in own)
        assert (bench.record.check_ended_at, bench.record.behind_files) == (bench.now, 4)
        assert (bench.jobs[0].before, bench.jobs[0].root_digest) == (A, B)
        assert not bench.integrity.is_free("w")
        assert bench.check(A) == b"wait"
        bench.integrity.gate.set()
        await settle()
        assert bench.is_clean()

    run(story())


@pytest.mark.parametrize(
    ("files", "differing", "lane"),
    [(20_000, BUCKETS, "long"), (20_000, 200, "chunk"), (1000, BUCKETS, "chunk"), (1_000_000, 1, "chunk")],
)
def test_only_a_step_of_few_rows_is_compared_as_a_short_job(
    tmp_path: Path, files: int, differing: int, lane: str
) -> None:
    async def story() -> None:
        bench = Bench(tmp_path, "w")
        buckets = b"\1" * (differing * BUCKET_DIGEST_BYTES)
        scan = scan_of(B)
        scan = msgspec.structs.replace(scan, files=files, buckets=buckets + scan.buckets[len(buckets) :])
        bench.digest.manifest_changed(scan)
        await settle()
        assert bench.lanes == [lane]
        bench.integrity.gate.set()
        await settle()

    run(story())


def other_files(bench: Bench) -> None:
    bench.check(C)


def not_able(bench: Bench) -> None:
    bench.worker.capabilities = EVERYTHING


def busy(bench: Bench) -> None:
    bench.integrity.permissions.begin("w", "x", 0.0)


@pytest.mark.parametrize("reason", [other_files, not_able, busy])
def test_workers_that_get_nothing_ahead_are_informed(tmp_path: Path, reason: Callable[[Bench], None]) -> None:
    async def story() -> None:
        bench = Bench(tmp_path, "w")
        reason(bench)
        bench.publish(B)
        await settle()
        assert (bench.integrity.sent, bench.told(), bench.jobs) == (0, [[B]], [])

    run(story())


@pytest.mark.parametrize("result", [JobError("vanished", "x"), JobError("disk", "x"), EQUAL], ids=str)
def test_worker_that_cannot_get_its_files_is_informed(tmp_path: Path, result: Compared | Exception) -> None:
    async def story() -> None:
        bench = Bench(tmp_path, "w", "v")
        bench.result = result
        bench.publish(B)
        await settle()
        assert (bench.integrity.sent, bench.told(), len(bench.jobs)) == (0, [[B], [B]], 1)
        is_own_fault = isinstance(result, JobError) and result.kind == "disk"
        assert (bench.record.result == "failed") == is_own_fault
        assert bench.is_clean()

    run(story())


def test_lost_package_is_reported(tmp_path: Path) -> None:
    async def story() -> None:
        bench = Bench(tmp_path, "w")
        bench.publish(B)
        await settle()
        bench.record.failed("cut off")
        bench.integrity.gate.set()
        await settle()
        assert bench.told() == [[B]]

    run(story())


def test_outdated_step_is_not_sent_and_the_worker_hears_of_the_newest(tmp_path: Path) -> None:
    async def story() -> None:
        bench = Bench(tmp_path, "w")
        bench.held = asyncio.Event()
        bench.publish(B)
        await settle()
        bench.publish(C)
        bench.held.set()
        await settle()
        assert (bench.integrity.sent, bench.told()) == (0, [[C]])
        assert bench.is_clean()

    run(story())


def test_change_during_a_package_is_told(tmp_path: Path) -> None:
    async def story() -> None:
        bench = Bench(tmp_path, "w")
        bench.publish(B)
        await settle()
        bench.publish(C)
        await settle()
        assert (bench.integrity.sent, bench.told()) == (1, [[C]])
        bench.integrity.gate.set()
        await settle()
        assert not list(tmp_path.iterdir()), "the step to B is of no use any more"

    run(story())


@pytest.mark.parametrize("steps", range(6))
def test_link_that_ends_leaves_nothing(tmp_path: Path, steps: int) -> None:
    async def story() -> None:
        bench = Bench(tmp_path, "w")
        bench.publish(B)
        for _ in range(steps):
            await asyncio.sleep(0)
        await bench.unlink()
        await settle()
        assert bench.is_clean()
        assert cast(Any, bench.record).digest in (A, "")

    run(story())


def test_outdated_step_whose_askers_have_gone_leaves_nothing(tmp_path: Path) -> None:
    async def story() -> None:
        bench = Bench(tmp_path, "w")
        bench.held = asyncio.Event()
        bench.publish(B)
        await settle()
        await bench.unlink()
        bench.publish(C)
        bench.held.set()
        await settle()
        assert len(bench.jobs) == 1
        assert not list(tmp_path.iterdir())

    run(story())


def test_no_comparison_runs_without_an_asker(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "w")
    not_able(bench)
    asyncio.run(_publish_many(bench))
    assert not bench.jobs
    assert not list(tmp_path.iterdir())


async def _publish_many(bench: Bench) -> None:
    for digest in (B, C) * 20:
        bench.publish(digest)
    await settle()
