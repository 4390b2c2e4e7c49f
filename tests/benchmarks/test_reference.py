"""The plain reference speaks the protocol: with itself, and with clusterd in both roles."""

import contextlib
import random
from collections.abc import Iterator

import pytest

from benchmarks.reference.package import pack_metadata
from benchmarks.reference.tree import scan
from benchmarks.suite.cluster import APPLIED, CLUSTERD, REFERENCE, SCANNED, Cluster, Implementation, JobFailed
from benchmarks.suite.job_checks import Skipped, simulated
from tools.rig import workload
from tools.rig.compare import compare
from tools.rig.guard import guarded
from tools.rig.peer import wait_until

pytestmark = [pytest.mark.slow]
FAST = {
    "intervals": {
        "worker": {"sync_integrity": 0.3, "connection_retry": 0.2},
        "master": {"recalculate_integrity": 0.4},
    }
}


@contextlib.contextmanager
def cluster_of(master: Implementation, worker: Implementation) -> Iterator[Cluster]:
    with guarded("reference-") as base, Cluster(master, base / "c", FAST, workers=1, of_workers=worker) as cluster:
        workload.generate(cluster.master.root, agents=20, groups=3)
        yield cluster


@pytest.mark.parametrize(
    ("master", "worker"),
    [(REFERENCE, REFERENCE), (CLUSTERD, REFERENCE), (REFERENCE, CLUSTERD)],
    ids=lambda one: one.name,
)
def test_reference_converges_and_follows_changes(master: Implementation, worker: Implementation) -> None:
    with cluster_of(master, worker) as cluster:
        cluster.start(*cluster.nodes)
        roots = cluster.master.root, cluster.workers[0].root
        cluster.log(cluster.master).wait(SCANNED, 20)
        cluster.log(cluster.workers[0]).wait(APPLIED, 20)
        wait_until(lambda: compare(*roots).is_equal, 60, "the worker has all files")
        workload.change(roots[0], seed=1, edit=2, add=2, delete=2)
        for done in workload.tamper(roots[1], seed=1):
            if done.kind == "edit":
                (roots[1] / done.path).touch()  # the reference, as stock, sees no change that keeps the time
        wait_until(lambda: compare(*roots).is_equal, 60, "changes and tampering are undone")


def test_reference_sends_a_file_in_several_chunks() -> None:
    with cluster_of(REFERENCE, REFERENCE) as cluster:
        large = cluster.master.root / "etc/lists/large"
        large.write_bytes(b"|@@//@@|".join(random.Random(n).randbytes(3_000_000) for n in range(4)))
        cluster.start(*cluster.nodes)
        cluster.log(cluster.workers[0]).wait(APPLIED, 20)
        assert compare(cluster.master.root, cluster.workers[0].root).is_equal


def test_simulated_workers_find_a_master_equal_and_know_when_it_has_no_digests() -> None:
    with cluster_of(REFERENCE, REFERENCE) as cluster:
        package = cluster.base / "metadata"
        pack_metadata(package, scan(cluster.master.root, {}), 1)
        cluster.start(cluster.master)
        cluster.log(cluster.master).wait(SCANNED, 20)
        with simulated("stock", 3, cluster.port, str(package)) as ask:
            assert ask(checks=7, concurrency=2)["checks"] == 7
            done = ask(seconds=0.5, interval_s=0.2, keepalive_s=0.1)
            assert done["checks"] >= 3
            assert done["keepalives"] >= 3
        with pytest.raises(Skipped, match="digest"), simulated("digest", 1, cluster.port, "0" * 32):
            pass
        pack_metadata(package, {}, 1)
        with simulated("stock", 1, cluster.port, str(package)) as ask, pytest.raises(JobFailed, match="ended"):
            ask(checks=1, concurrency=1)
