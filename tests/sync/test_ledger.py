"""How many bytes of other nodes are accepted: in total, from each peer, and with a reserve of the disk."""

import asyncio
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from clusterd.settings import Limits
from clusterd.sync.links.incoming import Incoming
from clusterd.sync.links.partials import Partials
from clusterd.sync.ports.ledger import ALL, DISK, RATIO_FROM_BYTES, SMALL_BYTES, Disk, Ledger, disk_of, unpack_bounds
from clusterd.sync.ports.spool import AGAIN_S, Spool, SpoolRefused
from clusterd.sync.ports.troubles import Troubles
from ipc.arena import Arena
from tests.sync.fake_pool import FakePool, port
from tests.sync.rounds_bench import TagLog

MIB = 1024 * 1024
GIB = 1024 * MIB
PATH = "/queue/cluster/w1/a.zip"
TASK = "7b0f3b8e-0000-4000-8000-000000000001"


class Statvfs:
    """What the system reports for every disk."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, total: int, free: int) -> None:
        self.total, self.free = total, free
        monkeypatch.setattr(os, "statvfs", self._tell)

    def _tell(self, path: Any) -> Any:
        return SimpleNamespace(f_frsize=4096, f_blocks=self.total // 4096, f_bavail=self.free // 4096)


@pytest.mark.parametrize(
    ("total", "reserve"),
    [(2 * GIB, GIB // 2), (16 * MIB, 4 * MIB), (10 * GIB, GIB), (100 * GIB, 5 * GIB)],
    ids=["2 GiB", "16 MiB", "10 GiB", "100 GiB"],
)
def test_reserve_is_a_gib_or_a_twentieth_but_no_more_than_a_quarter(
    monkeypatch: pytest.MonkeyPatch, total: int, reserve: int
) -> None:
    Statvfs(monkeypatch, total, total)
    assert disk_of("/", Limits()).reserve == reserve
    assert disk_of("/", Limits(disk_reserve_bytes=0, disk_reserve_share=0)).reserve == 0


def test_above_the_reserve_all_is_taken_then_what_is_small_then_nothing() -> None:
    disk = Disk(100 * GIB, 5 * GIB + 100, 5 * GIB)
    assert disk.takes(100, GIB)
    assert not disk.takes(101, GIB)
    assert disk.takes(SMALL_BYTES, SMALL_BYTES)
    assert not disk.takes(SMALL_BYTES, SMALL_BYTES + 1)
    assert not Disk(100 * GIB, 5 * GIB // 16, 5 * GIB).takes(1, 1)


def test_without_facts_about_the_disk_everything_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Any) -> Any:
        raise OSError

    monkeypatch.setattr(os, "statvfs", refuse)
    assert disk_of("/", Limits()).takes(100 * GIB, 100 * GIB)


def test_package_may_unpack_to_what_the_ratio_and_the_disk_allow() -> None:
    roomy = Disk(1 << 50, 1 << 49, 0)
    limits = Limits()
    assert unpack_bounds(limits, 1000, roomy) == (RATIO_FROM_BYTES, RATIO_FROM_BYTES)
    assert unpack_bounds(limits, 10 * MIB, roomy) == (1000 * MIB, 1000 * MIB)
    assert unpack_bounds(limits, 10 * GIB, roomy) == (16 * GIB, 16 * GIB)
    assert unpack_bounds(limits, GIB, Disk(10 * GIB, 3 * GIB, GIB)) == (2 * GIB, 2 * GIB)
    assert unpack_bounds(limits, GIB, Disk(10 * GIB, GIB - 1, GIB)) == (SMALL_BYTES, SMALL_BYTES)
    assert unpack_bounds(limits, GIB, Disk(10 * GIB, MIB, GIB)) == (0, 0)


def make_ledger(tmp_path: Path, *, is_master: bool = True, **limits: int) -> Ledger:
    return Ledger(str(tmp_path), Limits(disk_reserve_bytes=0, disk_reserve_share=0, **limits), is_master=is_master)


def test_one_peer_cannot_take_the_spool_of_all(tmp_path: Path) -> None:
    ledger = make_ledger(tmp_path, spool_bytes=1000, spool_peer_bytes=100)
    ledger.charge("a", "w1", 60)
    ledger.charge("b", "w1", 40)
    refused = ledger.why_not("w1", 1, 1)
    assert refused is not None
    assert refused.subject == "spool of w1"
    assert ledger.why_not("w2", 100, 100) is None
    ledger.charge("a", "w1", 55)  # an update, not one more
    assert not ledger.is_over("spool of w1")
    ledger.release("b")
    assert ledger.is_over("spool of w1")
    assert ledger.why_not("w1", 45, 45) is None
    ledger.charge("c", "w1", 0)
    ledger.charge("d", "w1", 0)
    for path in "cda":
        ledger.release(path)
    ledger.release("a")
    assert ledger.shown()["peers"] == {}


def test_all_peers_and_the_node_itself_share_the_spool(tmp_path: Path) -> None:
    ledger = make_ledger(tmp_path, spool_bytes=1000, spool_peer_bytes=900)
    (tmp_path / "own").write_bytes(bytes(300))
    (tmp_path / "a").write_bytes(bytes(300))
    ledger.charge(str(tmp_path / "a"), "w1", 500)
    ledger.measure()
    assert ledger.used == 800
    refused = ledger.why_not("w2", 201, 201)
    assert refused is not None
    assert refused.subject == ALL
    assert ledger.why_not("w2", 200, 200) is None


def test_a_worker_takes_of_its_master_what_the_spool_may_hold(tmp_path: Path) -> None:
    assert make_ledger(tmp_path, is_master=False, spool_bytes=1000, spool_peer_bytes=1).why_not("m", 900, 900) is None


class Link:
    def __init__(self, root: Path, **limits: int) -> None:
        self.lines: list[tuple[str, str]] = []
        self.troubles = Troubles()
        bounds = Limits(**limits)
        self.spool = Spool(str(root), 1, self.troubles, cast(Any, TagLog(self.lines)), bounds)
        self.spool.prepare()
        self.partials = Partials(self.spool, lambda: 0.0)
        pool = FakePool(str(root), Arena(0, 1, 65536))
        self.incoming = Incoming(
            "w1", self.spool, port(pool), file_limit=1 << 40, limits=bounds, now=lambda: 0.0, partials=self.partials
        )
        self.incoming.expect(TASK)

    @property
    def peers(self) -> Any:
        return self.spool.ledger.shown()["peers"]


def test_what_a_link_sends_is_charged_until_it_is_removed(tmp_path: Path) -> None:
    async def story() -> None:
        link = Link(tmp_path)
        name = link.incoming.strings.begin(b"1000")
        assert link.peers == {}  # nothing has come of it
        await link.incoming.strings.chunk(f"{name} ".encode() + bytes(1000), None)
        assert link.peers == {"w1": 1000}
        link.incoming.new_file(PATH.encode())
        await link.incoming.file_chunk(f"{PATH} ".encode() + bytes(500), None)
        assert link.peers == {"w1": 1500}
        segment = await link.incoming.strings.take(name)
        assert link.peers == {"w1": 1500}  # whoever has it now has not used it yet
        link.spool.remove(segment.path)
        assert link.peers == {"w1": 500}
        link.incoming.close()
        assert link.peers == {}

    asyncio.run(story())


def test_package_that_is_kept_for_later_stays_charged(tmp_path: Path) -> None:
    async def story() -> None:
        link, claim = Link(tmp_path), f"{'0' * 64} 1000".encode()
        await link.incoming.resume_file(claim)
        link.incoming.new_file(PATH.encode())
        await link.incoming.file_chunk(f"{PATH} ".encode() + bytes(500), None)
        link.incoming.close()
        assert link.peers == {"w1": 500}
        link.partials.clear()
        assert link.peers == {}

    asyncio.run(story())


def test_link_beyond_its_share_is_refused_and_logged_once(tmp_path: Path) -> None:
    async def story() -> None:
        link = Link(tmp_path, spool_peer_bytes=1000)
        name = link.incoming.strings.begin(b"900")
        await link.incoming.strings.chunk(f"{name} ".encode() + bytes(900), None)
        link.incoming.new_file(PATH.encode())
        for _ in range(5):
            with pytest.raises(SpoolRefused):
                link.incoming.strings.begin(b"101")
        with pytest.raises(SpoolRefused):
            await link.incoming.file_chunk(f"{PATH} ".encode() + bytes(101), None)
        assert [level for level, _ in link.lines] == ["error"]
        assert list(link.troubles.shown()) == ["spool of w1"]
        link.incoming.strings.drop(name)
        link.spool.tidy(AGAIN_S)
        assert not link.troubles.shown()

    asyncio.run(story())


def test_disk_that_is_nearly_full_takes_only_what_is_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        link = Link(tmp_path)
        disk = Statvfs(monkeypatch, 100 * GIB, 4 * GIB)
        link.spool.tidy(AGAIN_S)
        assert list(link.troubles.shown()) == [DISK]
        link.incoming.strings.begin(b"1000")
        with pytest.raises(SpoolRefused):
            link.incoming.strings.begin(str(2 * MIB).encode())
        disk.free = 100 * MIB
        with pytest.raises(SpoolRefused):
            link.incoming.strings.begin(b"1000")
        with pytest.raises(SpoolRefused):
            link.incoming.new_file(PATH.encode())
        disk.free = 20 * GIB
        link.spool.tidy(3 * AGAIN_S)
        assert not link.troubles.shown()
        assert [level for level, _ in link.lines] == ["error", "info"]

    asyncio.run(story())


def test_package_that_grows_stops_at_the_reserve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        link = Link(tmp_path)
        disk = Statvfs(monkeypatch, 100 * GIB, 20 * GIB)
        link.incoming.new_file(PATH.encode())
        await link.incoming.file_chunk(f"{PATH} ".encode() + bytes(MIB), None)
        disk.free = 5 * GIB
        with pytest.raises(SpoolRefused):
            await link.incoming.file_chunk(f"{PATH} ".encode() + bytes(1000), None)
        assert os.listdir(link.spool.directory) == []

    asyncio.run(story())
