"""Files for which a worker has no room wait; small changes beside them do not. The node reports that once, until it is
over."""

import asyncio
import os
from collections.abc import Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import msgspec
import pytest

from clusterd.errors import ClusterError
from clusterd.messages.packages import Compared
from clusterd.pool.tree import fit, note_difference
from clusterd.settings import Limits
from clusterd.sync.integrity import room as rooms
from clusterd.sync.integrity.room import MIB, WAIT_S, Rooms, room
from clusterd.sync.links.caps import ROOM
from clusterd.sync.ports.ledger import Disk
from clusterd.sync.ports.net_port import LinkClosed
from clusterd.sync.ports.pool_port import JobError
from clusterd.sync.ports.spool import Spool
from clusterd.sync.ports.troubles import Troubles
from hashing.compare import Difference, load_difference
from hashing.manifest import FileMeta
from tests.fakes.events import Events

T = TypeVar("T")
SMALL, LARGE = 100, 36 * MIB


class Lines:
    """Keeps log lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def warning(self, text: str) -> None:
        self.lines.append(text)

    info = debug = error = warning


class Pool:
    async def run(self, job: Any) -> Any:
        return fit(job)


class Worker:
    """A peer that tells how much it can take; None: a stock peer."""

    name = "w1"

    def __init__(self, said: bytes | Exception | None) -> None:
        self.said = said
        self.tag = f"Worker {self.name}"
        self.capabilities = frozenset() if said is None else frozenset({ROOM})
        self.asked = 0

    async def request(self, command: str) -> bytes:
        assert command == "get_room"
        self.asked += 1
        if isinstance(self.said, Exception):
            raise self.said
        assert self.said is not None
        return self.said


class Scene:
    """A master with one large and one small file to send."""

    def __init__(self, tmp_path: Path, said: bytes | Exception | None) -> None:
        self.lines = Lines()
        self.now = 1000.0
        spool = Spool(str(tmp_path), 1)
        spool.prepare()
        self.troubles = Troubles()
        context = SimpleNamespace(
            spool=spool,
            jobs=Pool(),
            troubles=self.troubles,
            events=Events(),
            tag_log=lambda tag, subtag: self.lines,
            clock=SimpleNamespace(monotonic=lambda: self.now),
        )
        self.rooms = Rooms(cast(Any, context))
        self.worker = Worker(said)
        self.difference = spool.new_path("difference")
        rows = [FileMeta(f"etc/lists/{size}", "etc/lists/", b"d" * 64, size, 1) for size in (SMALL, LARGE)]
        self.compared: Compared = note_difference(Difference(rows, [], []), self.difference, 7)

    async def sizes(self) -> list[int]:
        """Returns the paths of the files that are sent now."""
        compared, difference, text = await self.rooms.fit(cast(Any, self.worker), self.compared, self.difference)
        found = load_difference(difference)
        assert [row.size for row in found.missing] == compared.raw_sizes
        assert compared.received == 7
        assert bool(text) == (difference != self.difference)
        assert (compared.content == self.compared.content) == (difference == self.difference)
        return compared.raw_sizes


def run(story: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(story)


def test_large_file_waits_and_the_small_one_goes(tmp_path: Path) -> None:
    scene = Scene(tmp_path, b"%d" % (22 * MIB))

    async def story() -> None:
        for _ in range(3):
            assert await scene.sizes() == [SMALL]
        assert list(scene.troubles.shown()) == ["room of w1"]
        scene.worker.said = b"%d" % (2 * LARGE)
        assert await scene.sizes() == [SMALL, LARGE]
        scene.rooms.equal("w1")

    run(story())
    assert scene.troubles.shown() == {}
    assert scene.lines.lines == [
        "1 files of 36.0 MB wait: w1 can take 22.0 MB at once. See its free disk.",
        "w1 has taken everything.",
    ]


def test_small_changes_need_no_question(tmp_path: Path) -> None:
    scene = Scene(tmp_path, b"0")
    small = msgspec.structs.replace(scene.compared, raw_sizes=[SMALL])
    assert run(scene.rooms.fit(cast(Any, scene.worker), small, scene.difference)) == (small, scene.difference, "")
    assert scene.worker.asked == 0


def test_part_that_could_not_be_made_leaves_no_file(tmp_path: Path) -> None:
    class DyingPool(Pool):
        async def run(self, job: Any) -> Any:
            await super().run(job)
            raise JobError("bug", "the process that ran it died, twice")

    scene = Scene(tmp_path, b"%d" % (22 * MIB))
    cast(Any, scene.rooms)._context.jobs = DyingPool()
    with pytest.raises(JobError):
        run(scene.sizes())
    assert [str(path) for path in Path(scene.difference).parent.iterdir()] == [scene.difference]


@pytest.mark.parametrize("said", [None, ClusterError(3000, "unknown")])
def test_refusal_halves_for_a_while_that_grows(said: Exception | None, tmp_path: Path) -> None:
    """A stock worker says nothing of its disk, so the master tries again, less and less often."""
    scene = Scene(tmp_path, said)

    async def story() -> None:
        wait_s = WAIT_S
        for _ in range(3):
            assert await scene.sizes() == [SMALL, LARGE]
            scene.rooms.refused("w1", ClusterError(3000, "[Errno 28] No space left on device"))
            for _ in range(3):
                assert await scene.sizes() == [SMALL]
            assert "w1 can take 18.0 MB at once" in scene.troubles.shown()["room of w1"]
            scene.now += wait_s - 1
            assert await scene.sizes() == [SMALL]
            scene.now += 2
            wait_s *= 2
        scene.rooms.equal("w1")
        assert await scene.sizes() == [SMALL, LARGE]

    run(story())


def test_what_fits_exactly_is_sent(tmp_path: Path) -> None:
    assert run(Scene(tmp_path, b"%d" % (SMALL + LARGE)).sizes()) == [SMALL, LARGE]


def test_worker_that_has_refused_is_believed_no_more_than_that(tmp_path: Path) -> None:
    """Its disk may have quotas that it does not know of."""
    scene = Scene(tmp_path, b"%d" % (2 * LARGE))

    async def story() -> None:
        assert await scene.sizes() == [SMALL, LARGE]
        scene.rooms.refused("w1", ClusterError(3000, "[Errno 122] Disk quota exceeded"))
        assert await scene.sizes() == [SMALL]

    run(story())


def test_refusal_is_over_when_the_worker_has_everything(tmp_path: Path) -> None:
    scene = Scene(tmp_path, None)

    async def story() -> None:
        for _ in range(2):
            assert await scene.sizes() == [SMALL, LARGE]
            scene.rooms.refused("w1", ClusterError(3000, "full"))
            assert await scene.sizes() == [SMALL]
            scene.rooms.equal("w1")
        scene.rooms.refused("w1", ClusterError(3000, "of a check: nothing was sent since it was equal"))
        assert await scene.sizes() == [SMALL, LARGE]

    run(story())


def test_refusal_outlives_the_link_and_its_row_in_status_does_not(tmp_path: Path) -> None:
    """A stock worker that dials again has no more room than before."""
    scene = Scene(tmp_path, None)

    async def story() -> None:
        assert await scene.sizes() == [SMALL, LARGE]
        scene.rooms.forget("w1")
        scene.rooms.refused("w1", ClusterError(3000, "of a check: nothing was sent over this link"))
        assert await scene.sizes() == [SMALL, LARGE]
        scene.rooms.refused("w1", ClusterError(3000, "full"))
        assert await scene.sizes() == [SMALL]
        scene.rooms.forget("w1")
        assert scene.troubles.shown() == {}
        assert await scene.sizes() == [SMALL]
        scene.now += WAIT_S + 1
        scene.rooms.forget("w1")
        assert await scene.sizes() == [SMALL, LARGE]
        scene.rooms.refused("w1", ClusterError(3000, "full"))
        scene.now += WAIT_S + 1
        assert await scene.sizes() == [SMALL, LARGE], "what was over when the link ended no longer counts"

    run(story())


class Local(ClusterError):
    def __init__(self) -> None:
        super().__init__(1000, "disk")
        self.__cause__ = JobError("disk", "no space left here")


@pytest.mark.parametrize("failure", [LinkClosed("file_upd"), ClusterError(3020), ClusterError(3039), Local()])
def test_what_failed_for_another_reason_halves_nothing(failure: Exception, tmp_path: Path) -> None:
    scene = Scene(tmp_path, None)

    async def story() -> None:
        for _ in range(2):
            assert await scene.sizes() == [SMALL, LARGE]
            scene.rooms.refused("w1", failure)
        scene.rooms.refused("w1", ClusterError(3000, "of a check: nothing was sent before"))
        assert await scene.sizes() == [SMALL, LARGE]

    run(story())


def test_link_that_ends_meanwhile_is_no_answer(tmp_path: Path) -> None:
    scene = Scene(tmp_path, LinkClosed("get_room"))
    with pytest.raises(LinkClosed):
        run(scene.sizes())


def disks(monkeypatch: pytest.MonkeyPatch, free: dict[Path, int]) -> None:
    monkeypatch.setattr(rooms, "disk_of", lambda path, limits: Disk(1000 * MIB, free[Path(path)], 100 * MIB))


def test_room_is_what_the_smallest_of_its_disks_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool, tree = tmp_path / "spool", tmp_path / "etc/rules"
    spool.mkdir()
    tree.mkdir(parents=True)
    free = {spool: 600 * MIB, tmp_path: 1000 * MIB, tree: 400 * MIB}
    disks(monkeypatch, free)
    places = ["etc/rules/", "etc/missing/"]
    assert room(str(spool), str(tmp_path), places, Limits()) == 150 * MIB  # twice on one disk, above the reserve
    free[tree] = 2000 * MIB
    assert room(str(spool), str(tmp_path), places, Limits()) == 450 * MIB
    free[tree] = 400 * MIB
    of_file, other = os.stat, os.stat_result([0] * 10)
    monkeypatch.setattr("os.stat", lambda path, **more: other if Path(path) == tree else of_file(path, **more))
    assert room(str(spool), str(tmp_path), places, Limits()) == 300 * MIB  # on a disk of its own


def test_nearly_full_disk_still_takes_small_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disks(monkeypatch, {tmp_path: 22 * MIB})
    assert room(str(tmp_path), str(tmp_path), [], Limits()) == MIB // 2
    disks(monkeypatch, {tmp_path: 2 * MIB})
    assert room(str(tmp_path), str(tmp_path), [], Limits()) == 0
