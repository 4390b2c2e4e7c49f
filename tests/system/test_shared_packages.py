"""One packing for many workers, and interrupted transfers, on whole nodes."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import combinations
from random import Random
from typing import Any

import pytest

from clusterd.status.status import StatusReader
from tests.conftest import KEY, MakeRig, rigs
from tests.system.new_lines import NewLines
from tools.rig.faults import LinkCommand, signal_process, tell_link
from tools.rig.nodes import Rig, RigNode
from tools.rig.peer import ScriptedPeer, StockWorker, wait_until
from tools.rig.ports import HOST

pytestmark = pytest.mark.slow

LARGE = 24_000_000
CHUNK = 5 * 1024 * 1024
SEALED = 4 / 3
"""Bytes on the wire for each byte of a package: a Fernet token is base64."""
SLOW = 5_000_000
"""Bytes a second: LARGE takes seven seconds."""
ONE_METHOD = {"clusterd": {"caps": {"lz4": False}}}
"""Stock and clusterd workers get the same packages."""
DEATHS = ("link", "master-net", "master-sync", "worker-net", "pool")
MIXED_UP = ("3025", "ecrypt", "hecksums aren't equal", "bad-seal")
"""What a log has when bytes of one transfer got into another."""


def put_noise(rig: Rig, size: int, seed: int = 5) -> None:
    """Puts a file that does not compress onto the master, whole and at once."""
    beside = rig.directory / "noise"
    beside.write_bytes(Random(seed).randbytes(size))
    beside.replace(rig.master.root / "etc/lists/noise")


def log(node: RigNode) -> str:
    return (node.root / "logs/cluster.log").read_text()


def spooled(node: RigNode, kind: str) -> dict[str, int]:
    """Returns name to size of the files of one kind in a node's spool."""
    sizes = {}
    for path in (node.root / "queue/cluster/.clusterd/spool").glob(f"*-{kind}"):
        try:
            sizes[path.name] = path.stat().st_size
        except FileNotFoundError:
            continue
    return sizes


def arriving(worker: RigNode) -> int:
    """Returns how many bytes of a package have arrived."""
    return max(spooled(worker, "package").values(), default=0)


def tell(node: RigNode, command: LinkCommand, bytes_per_s: int | None = None) -> int:
    assert node.link_control is not None
    return tell_link(node.link_control, command, bytes_per_s)


def kill(rig: Rig, node: RigNode, process: str) -> None:
    pid = rig.processes(node.name)[process]
    assert pid is not None
    signal_process(pid, signal.SIGKILL)
    wait_until(lambda: rig.processes(node.name).get(process) not in (None, pid), 60, f"{process} is replaced")


def assert_quiet(rig: Rig, *nodes: RigNode) -> None:
    """Waits until all slabs are free. Asserts that no log tells of mixed transfers."""

    def in_use() -> dict[str, Any]:
        return {
            f"{name} {process}": slabs
            for name, status in rig.status(*(node.name for node in nodes)).items()
            for process, slabs in status["slabs"].items()
            if slabs["free"] != slabs["total"]
        }

    wait_until(lambda: not in_use(), 60, "all slabs are free")
    for node in nodes:
        assert not [line for line in log(node).splitlines() if any(word in line for word in MIXED_UP)]


class NotedStockWorker(StockWorker):
    """Keeps its connections, with what a stock node would have logged about each."""

    connections: list[ScriptedPeer]

    def connect(self) -> ScriptedPeer:
        self.__dict__.setdefault("connections", []).append(super().connect())
        return self.connections[-1]

    def assert_nothing_mixed_up(self) -> None:
        said = [note for one in self.connections for note in (*one.notes, one.link.failure or "")]
        assert not [note for note in said if any(word in note for word in (*MIXED_UP, "BadPackage", "zlib"))]


@contextmanager
def stock_worker(rig: Rig, node: RigNode) -> Iterator[NotedStockWorker]:
    with NotedStockWorker((HOST, node.port), KEY, node.name, node.root, cluster="rig") as worker:
        yield worker


def paths_sent(worker: StockWorker) -> set[bytes]:
    return {seen.payload for seen in worker.record if seen.command == "new_file" and not seen.sent}


# ---- one packing -----------------------------------------------------------------------------------------------------


def test_stock_and_clusterd_workers_together_become_equal(make_rig: MakeRig) -> None:
    rig = make_rig(3, files=300, overrides=ONE_METHOD)
    put_noise(rig, 12_000_000)  # several chunks
    rig.start("master")
    *_, node = rig.workers
    with stock_worker(rig, node) as stock:
        stock.join()
        rig.start("rig_manager_2", "rig_manager_3")
        stock.sync(60)
        rig.wait_equal(60)
        assert not stock.notes
        assert paths_sent(stock) == {b"/queue/cluster/clusterd-1.zip"}
    assert not list((node.root / "queue/cluster").glob("clusterd-*"))
    assert_quiet(rig, *rig.nodes[:3])


def test_workers_that_come_at_once_and_one_that_comes_later_cost_one_packing(make_rig: MakeRig) -> None:
    rig = make_rig(4, files=300, links=True)
    put_noise(rig, LARGE)
    for worker in rig.workers:
        tell(worker, "cut")
    *at_once, late = rig.workers
    rig.start()
    parts: dict[str, int] = {}
    tails: dict[str, int] = {}

    def all_equal(*workers: RigNode) -> bool:
        for kind, found in (("part", parts), ("metadata", tails)):
            for name, size in spooled(rig.master, kind).items():
                found[name] = max(size, found.get(name, 0))
        return all("[Integrity sync] Finished" in log(worker) for worker in workers)

    for worker in at_once:
        tell(worker, "mend")
    wait_until(lambda: all_equal(*at_once), 90, "three are equal")
    assert LARGE <= sum(parts.values()) < 1.2 * LARGE
    assert len(tails) == 1
    names = parts.keys() | tails.keys()
    tell(late, "mend")
    wait_until(lambda: all_equal(late), 60, "the fourth is equal")
    rig.wait_equal(60)
    assert parts.keys() | tails.keys() == names
    assert_quiet(rig, *rig.nodes)


# ---- deaths ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def running() -> Iterator[Rig]:
    with rigs() as make:
        rig = make(1, links=True)
        rig.start()
        yield rig


@pytest.fixture
def pair(running: Rig) -> Rig:
    """A master and a worker behind a link that are equal, and nothing is under way."""
    (worker,) = running.workers
    tell(worker, "mend")
    wait_until(running.are_connected, 60, "the worker is connected")
    running.wait_equal(60)
    wait_until(lambda: not spooled(worker, "package"), 60, "no package is left")
    return running


@pytest.mark.parametrize("cut", DEATHS)
def test_large_package_survives_a_death_in_its_middle(pair: Rig, cut: str) -> None:
    rig = pair
    (worker,) = rig.workers
    said = NewLines(worker)
    tell(worker, "slow", SLOW)
    put_noise(rig, LARGE, DEATHS.index(cut))
    wait_until(lambda: arriving(worker) > LARGE // 4, 60, "a quarter has come")
    tell(worker, "cut" if cut == "link" else "silence")
    assert arriving(worker) < LARGE
    if cut != "link":
        node, process = {
            "master-net": (rig.master, "net"),
            "master-sync": (rig.master, "sync"),
            "worker-net": (worker, "net"),
            "pool": (rig.master, "pool-1"),
        }[cut]
        kill(rig, node, process)
    tell(worker, "mend")
    rig.wait_equal(120)
    wait_until(lambda: "[Integrity sync] Finished" in said.text, 60, "the sync is finished")
    assert_quiet(rig, *rig.nodes)


@pytest.mark.stress
def test_deaths_on_a_master_that_sends_the_same_body_to_several_links_mix_nothing_up(make_rig: MakeRig) -> None:
    rig = make_rig(3, files=300, links=True, overrides=ONE_METHOD)
    *_, node = rig.workers
    rig.start(*(one.name for one in rig.nodes[:3]))
    with stock_worker(rig, node) as stock:
        stock.run(0.5, retry_s=0.5)
        rig.wait_equal(60)
        for seed, process in enumerate(("net", "sync", "pool-1")):
            for worker in rig.workers:
                tell(worker, "slow", SLOW)
            put_noise(rig, LARGE, seed)
            sending = stop_in_the_middle(rig)
            assert any(one == other for one, other in combinations(sending.values(), 2)), sending
            kill(rig, rig.master, process)
            for worker in rig.workers:
                tell(worker, "mend")
            rig.wait_equal(90)
        assert_quiet(rig, *rig.nodes[:3])
        stock.assert_nothing_mixed_up()
        assert b"/queue/cluster/clusterd-" in b" ".join(paths_sent(stock))


def stop_in_the_middle(rig: Rig) -> dict[str, int]:
    """Silences each link when it has carried two chunks of its package, so that none gets ahead of the others. Returns
    the position of each when the last one had come so far: the next chunk is under way."""
    reader = StatusReader(str(rig.master.root))
    links = {worker.name: worker for worker in rig.workers}
    done: dict[str, int] = {}

    def look() -> bool:
        done.clear()
        for sync in reader.read_sync()["syncs"]:
            if sync["step"] != "sending" or sync["total_bytes"] < LARGE:
                continue
            done[sync["peer"]] = sync["done_bytes"]
            if sync["done_bytes"] >= 2 * CHUNK and sync["peer"] in links:
                tell(links.pop(sync["peer"]), "silence")
        return not links

    wait_until(look, 60, "all are in the middle")
    look()
    assert len(done) == len(rig.workers)
    assert max(done.values()) < LARGE
    return done


# ---- going on where it stopped ---------------------------------------------------------------------------------------


def cut_in_the_middle(rig: Rig) -> tuple[int, int]:
    """A new package is half there when the link is cut. Returns how many of its bytes the worker has then, and how many
    bytes the link carries after that until both are equal."""
    (worker,) = rig.workers
    tell(worker, "slow", SLOW)
    put_noise(rig, LARGE)
    wait_until(lambda: arriving(worker) > LARGE // 2, 60, "half of it has come")
    held = arriving(worker)
    tell(worker, "cut")
    before = tell(worker, "carried")
    tell(worker, "mend")
    rig.wait_equal(60)
    return held, tell(worker, "carried") - before


def test_only_the_rest_is_sent_again_when_the_link_was_cut(pair: Rig) -> None:
    held, carried = cut_in_the_middle(pair)
    # An upper bound: what had not arrived while the link was whole (a chunk may have arrived since), and some requests.
    rest = (LARGE - held) * SEALED
    assert rest - CHUNK * SEALED < carried < rest + CHUNK / 5


def test_all_is_sent_again_to_a_worker_that_does_not_resume(make_rig: MakeRig) -> None:
    rig = make_rig(1, links=True, overrides={"clusterd": {"caps": {"resume": False}}})
    rig.start()
    _, carried = cut_in_the_middle(rig)
    assert carried > LARGE * SEALED
