"""A package is made once for all workers that need the same, and some are kept."""

import asyncio
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import lz4.frame
import pytest

from clusterd.messages.packages import Compared, FinishPackage, PackPart
from clusterd.sync.integrity.package_store import BuiltPackage, PackageStore, plan_parts
from clusterd.sync.links.outgoing import Progress, cut_package, read_segments
from clusterd.sync.ports.pool_port import JobError
from clusterd.wire.transfer import chunk_bytes
from hashing.compare import Difference
from hashing.pack import content_keys, numbered
from ipc.arena import Arena
from tests.hashing.packages import difference_of, save, split_as_stock, write_tree
from tests.sync.fake_pool import FakePool, context

FILES = {f"etc/rules/{number:03}.xml": b"%d " % number * 50 for number in range(40)}
GIB = 1 << 30


class Stage:
    """A master's tree with FILES, and the store of its packages."""

    def __init__(self, base: Path) -> None:
        self.root = base / "root"
        write_tree(self.root, FILES)
        self.arena = Arena(0, 1, 65536)
        self.pool = FakePool(str(self.root), self.arena)
        self.context = context(self.root, self.pool)
        self.store = PackageStore(self.context)
        self.progress = Progress("w", "integrity", "packing", 0.0)
        self._base = base
        self._count = 0

    async def package(
        self,
        difference: Difference,
        limit: int = GIB,
        manifest: str = "m",
        store: PackageStore | None = None,
        method: str = "zlib",
    ) -> BuiltPackage:
        """Asks as `_sync` of the integrity master does: its own file is removed when the answer is there."""
        self._count += 1
        path = Path(save(self._base, difference)).rename(Path(self.context.spool.directory) / f"d{self._count}")
        content, whole = content_keys(difference)
        rows = numbered(difference)
        sizes = [row.size for row in rows]
        compared = Compared(0, 0, 0, 0, sizes, content, whole)
        try:
            return await (store or self.store).package(str(path), compared, manifest, limit, method, self.progress)
        finally:
            path.unlink()

    @property
    def spool(self) -> list[str]:
        return os.listdir(self.context.spool.directory)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path)
    yield made
    made.arena.close()


def files_in(built: BuiltPackage) -> dict[str, bytes]:
    return dict(split_as_stock(read_segments(built.package.segments))[:-1])


def groups_in(built: BuiltPackage) -> dict[str, list[str]]:
    metadata = json.loads(split_as_stock(read_segments(built.package.segments))[-1][1])
    return {group: list(rows) for group, rows in metadata.items()}


def split(paths: Mapping[str, bytes], shared: int) -> Difference:
    """The worker has another content of every `shared`th file."""
    ours = {path: data for number, (path, data) in enumerate(paths.items()) if number % shared == 0}
    return difference_of({path: data for path, data in paths.items() if path not in ours}, ours)


def test_ten_fresh_workers_get_one_packing(stage: Stage) -> None:
    async def story() -> None:
        built = await asyncio.gather(*(stage.package(difference_of(FILES)) for _ in range(10)))
        assert stage.pool.count(PackPart) == 1
        assert stage.pool.count(FinishPackage) == 1
        assert len({package.package.sha256 for package in built}) == 1
        assert files_in(built[0]) == FILES
        assert stage.progress.done_bytes == 10 * sum(map(len, FILES.values()))

    asyncio.run(story())


def test_missing_and_changed_files_are_packed_once_and_told_to_each_worker(stage: Stage) -> None:
    async def story() -> None:
        fresh, other = await asyncio.gather(stage.package(difference_of(FILES)), stage.package(split(FILES, 4)))
        assert stage.pool.count(PackPart) == 1
        assert stage.pool.count(FinishPackage) == 2
        assert files_in(fresh) == files_in(other) == FILES
        assert fresh.package.segments[:-1] == other.package.segments[:-1]
        assert not groups_in(fresh)["shared"]
        assert len(groups_in(other)["shared"]) == 10
        step = chunk_bytes(fresh.package.shared_path)
        assert fresh.package.shared < step  # small: each difference is one chunk of its own
        keys = [cut_package(built.package, built.package.shared_path)[0].key for built in (fresh, other)]
        assert keys[0] != keys[1]

    asyncio.run(story())


def test_same_content_gives_the_same_bytes_when_it_is_packed_again(stage: Stage) -> None:
    async def story() -> None:
        limit = 1500
        first = await stage.package(difference_of(FILES), limit)
        second = await stage.package(difference_of(FILES), limit, store=PackageStore(stage.context))
        assert first.dropped == second.dropped > 0
        assert first.package.sha256 == second.package.sha256
        assert first.package.build is not None

    asyncio.run(story())


def test_file_larger_than_the_limit_goes_alone(stage: Stage) -> None:
    async def story() -> None:
        write_tree(stage.root, {"etc/rules/large": os.urandom(5000)})
        large = (stage.root / "etc/rules/large").read_bytes()
        built = await stage.package(difference_of({"etc/rules/large": large}), 1000)
        assert files_in(built) == {"etc/rules/large": large}
        assert any("too large" in note.text for note in built.notes)

    asyncio.run(story())


def test_what_changed_while_it_was_packed_is_not_given_to_later_workers(stage: Stage) -> None:
    async def story() -> None:
        (stage.root / "etc/rules/000.xml").write_bytes(b"another")
        (stage.root / "etc/rules/001.xml").unlink()
        first = await stage.package(difference_of(FILES))
        assert files_in(first)["etc/rules/000.xml"] == b"another"
        write_tree(stage.root, FILES)
        second = await stage.package(difference_of(FILES))
        assert files_in(second) == FILES
        stage.store.release(first)
        stage.store.release(second)
        assert stage.pool.count(PackPart) == 2

    asyncio.run(story())


def test_failure_reaches_all_that_wait_and_is_not_kept(stage: Stage) -> None:
    async def story() -> None:
        stage.pool.fails = PackPart
        outcomes = await asyncio.gather(
            *(stage.package(difference_of(FILES)) for _ in range(3)), return_exceptions=True
        )
        assert all(isinstance(outcome, JobError) for outcome in outcomes)
        assert not stage.spool
        stage.pool.fails = FinishPackage
        with pytest.raises(JobError):
            await stage.package(difference_of(FILES))
        assert not stage.spool
        stage.pool.fails = None
        assert files_in(await stage.package(difference_of(FILES))) == FILES

    asyncio.run(story())


def test_unexpected_failure_is_not_kept_either(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers ask for the same package again every few seconds: it would never be old enough to go."""
    run = stage.pool.run

    async def trip(job: Any, **how: Any) -> Any:
        if isinstance(job, PackPart):
            raise ValueError("a bug")
        return await run(job, **how)

    async def story() -> None:
        monkeypatch.setattr(stage.pool, "run", trip)
        with pytest.raises(ValueError, match="a bug"):
            await stage.package(difference_of(FILES))
        monkeypatch.undo()
        assert files_in(await stage.package(difference_of(FILES))) == FILES

    asyncio.run(story())


def test_waiter_that_gives_up_stops_nothing(stage: Stage) -> None:
    async def story() -> None:
        stage.pool.gate.clear()
        waiters = [asyncio.create_task(stage.package(difference_of(FILES))) for _ in range(2)]
        for _ in range(5):
            await asyncio.sleep(0)
        waiters[0].cancel()
        await asyncio.sleep(0)
        stage.pool.gate.set()
        assert files_in(await waiters[1]) == FILES

    asyncio.run(story())


def test_packages_go_when_there_is_a_newer_manifest_or_they_are_too_many_but_never_one_in_use(stage: Stage) -> None:
    async def story() -> None:
        stage.store = PackageStore(stage.context, kept_bytes=0)
        used = await stage.package(difference_of(FILES))
        stage.store.release(await stage.package(difference_of({"etc/rules/000.xml": FILES["etc/rules/000.xml"]})))
        assert files_in(used) == FILES
        stage.store.release(used)
        assert not stage.spool
        stage.store = PackageStore(stage.context)
        stage.store.release(await stage.package(difference_of(FILES), manifest="old"))
        assert stage.spool
        some = {"etc/rules/001.xml": FILES["etc/rules/001.xml"]}
        stage.store.release(await stage.package(difference_of(some), manifest="new"))
        assert stage.store.kept_bytes < 1000

    asyncio.run(story())


def test_packages_that_no_worker_asks_for_are_removed(stage: Stage) -> None:
    async def story() -> None:
        stage.store = PackageStore(stage.context, kept_s=0.0)
        stage.store.release(await stage.package(difference_of(FILES)))
        assert not stage.spool

    asyncio.run(story())


def test_workers_that_read_lz4_get_packages_of_their_own(stage: Stage) -> None:
    async def story() -> None:
        stock, ours = await asyncio.gather(
            stage.package(difference_of(FILES)), stage.package(difference_of(FILES), method="lz4")
        )
        assert files_in(stock) == FILES
        assert ours.package.shared_path != stock.package.shared_path
        package = read_segments(ours.package.segments)
        assert package.count(b"|//@@//|" + lz4.frame.compress(b"")[:4]) == len(FILES) + 1

    asyncio.run(story())


@pytest.mark.parametrize(
    ("sizes", "parts"),
    [
        ([], []),
        ([10], [range(1)]),
        ([4, 6, 1], [range(2), range(2, 3)]),
        ([5, 5, 5], [range(2), range(2, 3)]),
        ([1, 11, 1], [range(1), range(1, 2), range(2, 3)]),
        ([0] * 7, [range(3), range(3, 6), range(6, 7)]),
    ],
)
def test_parts_have_so_many_bytes_or_files_and_a_large_file_is_one_alone(sizes: list[int], parts: list[range]) -> None:
    assert plan_parts(sizes, 10, 3) == parts


def test_package_stays_until_its_last_user_is_done(stage: Stage) -> None:
    async def story() -> None:
        first = await stage.package(difference_of(FILES))
        second = await stage.package(difference_of(FILES))
        assert stage.store.kept_bytes == first.package.size, "it is one package"
        stage.store.release(first)
        other = await stage.package(difference_of(dict(list(FILES.items())[:3])), manifest="a newer one")
        assert files_in(second) == FILES
        assert stage.store.kept_bytes == second.package.size + other.package.size
        stage.store.release(second)
        stage.store.release(other)
        last = await stage.package(difference_of(dict(list(FILES.items())[:5])), manifest="the newest")
        assert stage.store.kept_bytes == last.package.size
        assert stage.pool.count(FinishPackage) == 3

    asyncio.run(story())
