"""One packing for many workers, and transfers that are cut off, on whole nodes."""

import signal
from pathlib import Path
from random import Random

import pytest

from tests.conftest import KEY, MakeRig
from tools.rig.faults import signal_process, tell_link
from tools.rig.nodes import HOST, Node
from tools.rig.peer import StockWorker, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

LARGE = 60_000_000


def noise(size: int) -> bytes:
    """Bytes that do not shrink, the same on each call."""
    return Random(5).randbytes(size)


def synced(node: Node) -> bool:
    return "[Integrity sync] Finished" in (node.root / "logs/cluster.log").read_text()


def spool(node: Node) -> Path:
    return node.root / "queue/cluster/.clusterd/spool"


def test_stock_and_clusterd_workers_together_become_equal(make_rig: MakeRig) -> None:
    rig = make_rig(3, files=300)
    (rig.master.root / "etc/lists/noise").write_bytes(noise(12_000_000))  # several chunks
    rig.start("master")
    address = (HOST, rig.master.port)
    with StockWorker(address, KEY, "rig_manager_4", rig.workers[2].root, cluster="rig") as stock:
        stock.join()
        rig.start("rig_manager_2", "rig_manager_3")
        stock.sync(60)
        rig.wait_equal(60)
        assert not stock.notes
    assert not list((rig.workers[2].root / "queue/cluster").glob("clusterd-*"))


@pytest.mark.parametrize("cut", ["link", "master-net", "master-sync", "worker-net", "pool"])
def test_large_package_survives_a_death_in_its_middle(make_rig: MakeRig, cut: str) -> None:
    rig = make_rig(1, links=True)
    (rig.master.root / "etc/lists/noise").write_bytes(noise(LARGE))
    rig.start()
    worker = rig.workers[0]

    def arriving() -> int:
        return max((path.stat().st_size for path in spool(worker).glob("*-package") if path.exists()), default=0)

    wait_until(lambda: arriving() > LARGE // 4, 60, "a quarter has come")
    if cut == "link":
        assert worker.link_control is not None
        tell_link(worker.link_control, "cut")
        tell_link(worker.link_control, "mend")
    else:
        node, process = {
            "master-net": (rig.master, "net"),
            "master-sync": (rig.master, "sync"),
            "worker-net": (worker, "net"),
            "pool": (rig.master, "pool-1"),
        }[cut]
        pid = rig.processes(node.name)[process]
        assert pid is not None
        signal_process(pid, signal.SIGKILL)
    rig.wait_equal(120)
    wait_until(lambda: synced(worker), 30, "the sync is finished")
