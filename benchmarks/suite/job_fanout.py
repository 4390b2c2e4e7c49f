"""Fresh workers fetch everything at once, then changes are sent to all of them: real nodes in both roles.

The clock starts when the master begins with the first worker's check. By then its first scan is complete, and all
workers run and have failed to connect at least once, so the start of processes and the scan are not measured. Measured
are the checks, the comparison, packing, sending, unpacking, and putting in place, until the last worker reports that it
has finished. Workers try to connect every 0.1 s, so that their first checks come together, after 9 s or when the master
calls; everything else is as in stock.
"""

import time
from pathlib import Path

from benchmarks.suite import trees
from benchmarks.suite.bench import START_TIMEOUT_S, Bench, intervals, must_equal
from benchmarks.suite.cluster import APPLIED, CHECKING, CLUSTER, KEY, SCANNED, WAITING, Cluster, JobFailed
from benchmarks.suite.echo_probe import cpu_of_one, echoes, percentile
from benchmarks.suite.processes import Peak, cpu_s, memory_mb, peak_of
from benchmarks.suite.results import Row
from tools.rig.ports import HOST

FAN_OUT = "fan-out"
FURTHER = "each further worker"
MEMORY = "memory of the master in a fan-out"
MEMORY_FURTHER = "memory of each further worker"
CHANGE = "change to all workers"
TOGETHER = intervals(retry_s=0.1)
POLL_S = 0.002
SETTLE_S = 1.0
MAX_CHANGES = 40
LONGEST_S = 60.0


def run(bench: Bench) -> None:
    stage = bench.lognormal(2000 if bench.is_quick else 20_000)
    files, _ = trees.size_of(stage)
    counts = [1, 3] if bench.is_quick else [1, 2, 5, 10]
    for implementation in bench.implementations:
        costs: dict[int, dict[str, float]] = {}
        for count in counts:
            with bench.cluster(implementation, TOGETHER, workers=count) as cluster:
                trees.move(stage, cluster.master.root)
                try:
                    costs[count] = figures = _fan_out(cluster)
                    size = f"{files} files, {count} workers"
                    keys = ("seconds", "master_cpu_s")
                    bench.add(Row(FAN_OUT, size, implementation.name, figures, keys=keys))
                    if count == counts[-1]:
                        _changes(bench, cluster, f"{files} files, {count} workers")
                finally:
                    cluster.stop()
                    trees.move(cluster.master.root, stage)
        first, last = costs[counts[0]], costs[counts[-1]]
        further = counts[-1] - counts[0]
        row = Row(FURTHER, f"{files} files, 1 to {counts[-1]} workers", implementation.name)
        share = (last["master_cpu_s"] - first["master_cpu_s"]) / further / first["master_cpu_s"]
        row.figures = {"cpu_share_of_first": share}
        bench.add(row)


def _fan_out(cluster: Cluster) -> dict[str, float]:
    """Raises JobFailed when a worker does not end equal."""
    _make_workers_wait(cluster)
    cluster.start(cluster.master)
    with echoes(HOST, cluster.port, CLUSTER, KEY) as found:
        log = cluster.log(cluster.master)
        log.wait(SCANNED, START_TIMEOUT_S)
        pids = cluster.pids(cluster.master)
        began, _ = log.wait(CHECKING, START_TIMEOUT_S)
        before = cpu_s(pids)
        ended = max(cluster.log(worker).wait(APPLIED, START_TIMEOUT_S)[0] for worker in cluster.workers)
        used = cpu_s(pids) - before
    must_equal(cluster.master.root, [worker.root for worker in cluster.workers])
    asked = sum(1 for at, _ in found.times if began <= at <= ended)
    used -= asked * cpu_of_one(pids, HOST, cluster.port, CLUSTER, KEY)
    return {"seconds": ended - began, "master_cpu_s": used, **found.figures(began, ended)}


def run_memory(bench: Bench) -> None:
    """Does the same once more with one worker and with many, and looks only at the master's memory."""
    stage = bench.lognormal(2000 if bench.is_quick else 20_000)
    files, _ = trees.size_of(stage)
    counts = (1, 3) if bench.is_quick else (1, 10)
    for implementation in bench.implementations:
        highest = []
        for count in counts:
            with bench.cluster(implementation, TOGETHER, workers=count) as cluster:
                trees.move(stage, cluster.master.root)
                try:
                    peak, at_rest = _memory(cluster)
                finally:
                    cluster.stop()
                    trees.move(cluster.master.root, stage)
            highest.append(peak.uss)
            figures = {"peak_uss_mb": peak.uss, "peak_pss_mb": peak.pss, "uss_mb": at_rest[0], "pss_mb": at_rest[1]}
            bench.add(Row(MEMORY, f"{files} files, {count} workers", implementation.name, figures))
        row = Row(MEMORY_FURTHER, f"{files} files, 1 to {counts[1]} workers", implementation.name)
        row.figures = {"peak_uss_mb": (highest[1] - highest[0]) / (counts[1] - counts[0])}
        bench.add(row)


def _memory(cluster: Cluster) -> tuple[Peak, tuple[float, float]]:
    """The master's peak from its start to the end of the fan-out, and (USS, PSS) in MB a moment later."""
    _make_workers_wait(cluster)
    cluster.start(cluster.master)
    assert cluster.master.process
    with peak_of(cluster.master.process.pid) as peak:
        for worker in cluster.workers:
            cluster.log(worker).wait(APPLIED, START_TIMEOUT_S)
    time.sleep(SETTLE_S)
    return peak, memory_mb(cluster.pids(cluster.master))


def _make_workers_wait(cluster: Cluster) -> None:
    """Starts the workers, and lets each of them find that there is no master yet."""
    cluster.start(*cluster.workers)
    for worker in cluster.workers:
        cluster.log(worker).wait(WAITING, START_TIMEOUT_S)


def _changes(bench: Bench, cluster: Cluster, size: str) -> None:
    """Edits on the master, at stock's own intervals, one after the other: each until all workers have it."""
    times: list[float] = []
    budget = time.monotonic() + (5 if bench.is_quick else 35)
    while len(times) < MAX_CHANGES and (not times or time.monotonic() < budget):
        times.append(_one_change(cluster, len(times)))
    times.sort()
    figures = {
        "p50_ms": percentile(times, 0.5) * 1000,
        "p99_ms": percentile(times, 0.99) * 1000,
        "changes": float(len(times)),
    }
    bench.add(Row(CHANGE, size, cluster.master.implementation.name, figures, keys=("p50_ms",)))


def _one_change(cluster: Cluster, number: int) -> float:
    """An editor's way to save: beside, then renamed. Seconds until the last worker has it; raises JobFailed."""
    name = f"etc/rules/changed_{number % 5}.xml"
    content = trees.token(number + time.time_ns())
    path = cluster.master.root / name
    beside = path.with_name(f".{path.name}.swp")
    beside.write_bytes(content)
    beside.rename(path)
    began = time.monotonic()
    missing = {worker.root / name for worker in cluster.workers}
    while missing:
        missing = {one for one in missing if not _holds(one, content)}
        if time.monotonic() - began > LONGEST_S:
            raise JobFailed(f"{len(missing)} workers do not have a change after {LONGEST_S:g} s")
        time.sleep(POLL_S)
    return time.monotonic() - began


def _holds(path: Path, content: bytes) -> bool:
    try:
        return path.read_bytes() == content
    except FileNotFoundError:
        return False
