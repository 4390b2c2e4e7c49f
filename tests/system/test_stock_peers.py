"""clusterd beside nodes that are not clusterd: the rig's own implementation of the protocol plays the stock side."""

from collections.abc import Iterator

import pytest

from clusterd.status.status import StatusReader
from tests.conftest import KEY, MakeRig, rigs
from tools.rig import workload
from tools.rig.nodes import Rig
from tools.rig.peer import (
    PeerError,
    RawPeer,
    StockMaster,
    StockWorker,
    divided_without_end,
    garbage,
    half_header,
    huge_length,
    wait_until,
)
from tools.rig.ports import HOST

pytestmark = pytest.mark.slow


def stock_worker(rig: Rig, name: str = "rig_manager_2", **options: str) -> StockWorker:
    return StockWorker((HOST, rig.master.port), KEY, name, rig.workers[0].root, **{"cluster": "rig"} | options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def served() -> Iterator[Rig]:
    with rigs() as make:
        made = make(1)
        made.start("master")
        yield made


@pytest.fixture
def rig(served: Rig) -> Iterator[Rig]:
    """Our master; the test plays its workers. Afterwards the master has noticed that they left."""
    yield served
    reader = StatusReader(str(served.master.root))
    wait_until(lambda: not reader.read_sync()["peers"], 60, "the master has no worker")


def test_stock_worker_joins_and_stays_equal(rig: Rig) -> None:
    with stock_worker(rig) as worker:
        worker.join()
        worker.sync(30)
        assert rig.compare()["rig_manager_2"].is_equal
        workload.change(rig.master.root, seed=1, edit=2, add=2, delete=2)
        workload.tamper(worker.root, seed=1)
        wait_until(lambda: worker.sync(30) >= 0 and rig.compare()["rig_manager_2"].is_equal, 30, "all is equal")
        assert worker.keepalive() == b"keepalive"
        assert not worker.notes


def test_worker_joins_a_stock_master_and_heals(make_rig: MakeRig) -> None:
    rig = make_rig(1)
    root = rig.master.root
    with StockMaster(
        root, KEY, name="rig_manager_1", cluster="rig", port=rig.master.port, scan_interval_s=0.5
    ) as master:
        rig.start("rig_manager_2")
        session = master.session("rig_manager_2")
        rig.wait_equal(60)
        workload.change(root, seed=1, edit=2, add=2, delete=2)
        workload.tamper(rig.workers[0].root, seed=1)
        rig.wait_equal(60)
        wait_until(
            lambda: bool(session.checks) and not any(session.checks[-1].values()), 30, "a check without differences"
        )
        assert not session.notes
        master.drop("rig_manager_2")
        workload.change(root, seed=2)
        rig.wait_equal(60)
        assert master.session("rig_manager_2") is not session


def test_worker_does_not_delete_everything_for_a_master_that_has_not_scanned(make_rig: MakeRig) -> None:
    """wire.md C7: a stock master that is asked before its first scan tells the worker to delete everything."""
    rig = make_rig(1)
    workload.generate(rig.workers[0].root)
    held = workload.paths(rig.workers[0].root)
    where = {"name": "rig_manager_1", "cluster": "rig"}
    with StockMaster(rig.master.root, KEY, port=rig.master.port, scan_first=False, **where) as master:  # type: ignore[arg-type]
        rig.start("rig_manager_2")
        session = master.session("rig_manager_2")
        wait_until(lambda: bool(session.checks), 30, "the first check")
        assert len(session.checks[0]["extra"]) == len(held)
        master.scan_now()
        wait_until(lambda: len(session.checks) > 1, 30, "the second check")
        assert not session.checks[1]["missing"]
    assert workload.paths(rig.workers[0].root) == held


@pytest.mark.parametrize(
    ("name", "options", "code"),
    [
        ("rig_manager_1", {}, 3029),
        ("other", {"cluster": "elsewhere"}, 3030),
        ("other", {"version": "4.13.0"}, 3031),
    ],
)
def test_worker_that_does_not_belong_is_refused(rig: Rig, name: str, options: dict[str, str], code: int) -> None:
    with stock_worker(rig, name, **options) as worker, pytest.raises(PeerError, match=str(code)):
        worker.join()


def test_hostile_connections_leave_legitimate_ones_alone(rig: Rig) -> None:
    address = (HOST, rig.master.port)
    with stock_worker(rig) as worker:
        worker.join()
        idle = [RawPeer(address) for _ in range(50)]
        halves = [RawPeer(address) for _ in range(20)]
        try:
            for peer in halves:
                peer.send(half_header())
            for bytes_ in (huge_length(), garbage(100_000), b"".join(divided_without_end(20, 5_000_000))):
                with RawPeer(address) as peer:
                    peer.send(bytes_)
                    assert peer.is_closed(30)
            worker.sync(30)
            assert worker.keepalive() == b"keepalive"
            assert all(peer.is_closed(30) for peer in halves)
        finally:
            for peer in (*idle, *halves):
                peer.close()
    assert rig.compare()["rig_manager_2"].is_equal
