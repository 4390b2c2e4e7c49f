"""First and repeated manifest: seconds of the master's own scan, taken from its log."""

import statistics
from pathlib import Path
from typing import Any

from benchmarks.suite import trees
from benchmarks.suite.bench import CLUSTERD, START_TIMEOUT_S, Bench, intervals
from benchmarks.suite.cluster import SCANNED, Cluster, Implementation, JobFailed
from benchmarks.suite.results import Row

SCAN_INTERVAL_S = 0.3
LOG_RESOLUTION_S = 0.0005
"""The log has milliseconds: 0.000 s is counted as half of one."""


def run(bench: Bench) -> None:
    """The trees of the design document, and one of large files."""
    sizes = [(2000, 0)] if bench.is_quick else [(20_000, 0), (1000, 1 << 20)]
    for files, exact in sizes:
        stage = bench.flat(files, exact) if exact else bench.lognormal(files)
        count, total = trees.size_of(stage)
        size = f"{count} files, {total / 1e6:.0f} MB"
        for implementation in bench.implementations:
            _measure(bench, implementation, stage, size, count, total)
        if exact:
            bench.drop(stage)


def _measure(bench: Bench, implementation: Implementation, stage: Path, size: str, count: int, total: int) -> None:
    name = implementation.name
    firsts: list[float] = []
    full_walk = intervals(scan_s=SCAN_INTERVAL_S, watch=False)
    with bench.cluster(implementation, full_walk) as cluster:
        trees.move(stage, cluster.master.root)
        try:
            for _ in range(2 if bench.is_quick else 3):
                cluster.forget(cluster.master)
                seconds, repeats = _scans(cluster, count, 4)
                firsts.append(seconds)
            figures: dict[str, float] = {"seconds": min(firsts)}
            if limit := bench.limits.get("blake2b_all_cores_mb_s"):
                figures["share_of_blake2b_limit"] = total / 1e6 / min(firsts) / limit
            bench.add(Row("first manifest", size, name, figures, keys=("seconds",)))
            figures = {"seconds": statistics.median(repeats)}
            bench.add(Row("repeat manifest", size, name, figures, "full walk" if _is_ours(name) else "", ("seconds",)))
            if _is_ours(name):
                cluster.configure(intervals(scan_s=SCAN_INTERVAL_S))
                _, repeats = _scans(cluster, count, 4)
                figures = {"seconds": statistics.median(repeats)}
                bench.add(Row("repeat manifest", size, name, figures, "with events", ("seconds",)))
        finally:
            trees.move(cluster.master.root, stage)


def _scans(cluster: Cluster, count: int, more: int) -> tuple[float, list[float]]:
    """Seconds of the first scan after a start, and of `more` that follow."""
    cluster.start(cluster.master)
    try:
        log = cluster.log(cluster.master)
        found = [_seconds(log.wait(SCANNED, START_TIMEOUT_S)[1], count) for _ in range(1 + more)]
    finally:
        cluster.stop()
    return found[0], found[1:]


def _seconds(match: Any, count: int) -> float:
    if int(match[2]) != count:
        raise JobFailed(f"the master counts {match[2]} files of {count}")
    return max(float(match[1]), LOG_RESOLUTION_S)


def _is_ours(name: str) -> bool:
    return name == CLUSTERD.name
