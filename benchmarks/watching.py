"""What journal and monitoring port cost the master: `python -m benchmarks.watching [idle|fanout] [PAIRS]`, about ten
minutes in all.

Both off and both on in turn, each first in every second pair. Idle: 50 simulated workers at stock's intervals, 100,000
files. Fan-out: ten new workers fetch 20,000 files at once. The CPU of the master's processes by name; of the fan-out
also its time and the echoes meanwhile. The journal's own process is `monitor`.
"""

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.suite import trees
from benchmarks.suite.bench import START_TIMEOUT_S, Bench, intervals, must_equal
from benchmarks.suite.cluster import APPLIED, CHECKING, CLUSTER, CLUSTERD, KEY, SCANNED, WAITING, Cluster
from benchmarks.suite.echo_probe import echoes
from benchmarks.suite.job_checks import simulated
from benchmarks.suite.processes import cpu_s
from tools.rig.guard import end_in_order, guarded
from tools.rig.ports import HOST, free_port

WORKERS = 50
FILES = 100_000
IDLE_S = 45.0
FETCHING = 10
FETCHED = 20_000
WARM_S = 12.0


def settings(watched: bool, **own: float) -> dict[str, Any]:
    found = intervals(**own)
    monitor = {"enabled": True, "port": free_port()} if watched else {"enabled": False}
    found["clusterd"] |= {"monitor": monitor, "journal": {"enabled": watched}}
    return found


def by_name(cluster: Cluster) -> dict[str, float]:
    """Returns the CPU seconds so far of the master's processes."""
    found: dict[str, float] = {}
    for pid in cluster.pids(cluster.master):
        try:
            name = Path(f"/proc/{pid}/comm").read_text().strip()
        except FileNotFoundError:
            continue
        found[name] = found.get(name, 0.0) + cpu_s([pid])
    return found


def idle(bench: Bench, watched: bool) -> dict[str, float]:
    """Returns per cent of a core by process."""
    stage = bench.flat(FILES, 256)
    with bench.cluster(CLUSTERD, settings(watched)) as cluster:
        trees.move(stage, cluster.master.root)
        try:
            digest = trees.content_digest_of(cluster.master.root)
            cluster.start(cluster.master)
            cluster.log(cluster.master).wait(SCANNED, START_TIMEOUT_S)
            with simulated("digest", WORKERS, cluster.port, digest) as ask:
                ask(seconds=WARM_S, interval_s=9, keepalive_s=60)
                before = by_name(cluster)
                ask(seconds=IDLE_S, interval_s=9, keepalive_s=60)
                after = by_name(cluster)
        finally:
            cluster.stop()
            trees.move(cluster.master.root, stage)
    return {name: 100 * (used - before.get(name, 0.0)) / IDLE_S for name, used in after.items()}


def fan_out(bench: Bench, watched: bool) -> dict[str, float]:
    """Returns CPU seconds by process, `seconds`, and the echoes' figures."""
    stage = bench.lognormal(FETCHED)
    with bench.cluster(CLUSTERD, settings(watched, retry_s=0.1), workers=FETCHING) as cluster:
        for worker in cluster.workers:
            own = {"intervals": {"worker": {"connection_retry": 0.1}}, "clusterd": {"monitor": {"enabled": False}}}
            (worker.root / "etc/cluster.json").write_text(json.dumps(own))
        trees.move(stage, cluster.master.root)
        try:
            cluster.start(*cluster.workers)
            for worker in cluster.workers:
                cluster.log(worker).wait(WAITING, START_TIMEOUT_S)
            cluster.start(cluster.master)
            with echoes(HOST, cluster.port, CLUSTER, KEY) as found:
                log = cluster.log(cluster.master)
                log.wait(SCANNED, START_TIMEOUT_S)
                began, _ = log.wait(CHECKING, START_TIMEOUT_S)
                before = by_name(cluster)
                ended = max(cluster.log(worker).wait(APPLIED, START_TIMEOUT_S)[0] for worker in cluster.workers)
                time.sleep(2)  # what is written behind counts
                after = by_name(cluster)
            must_equal(cluster.master.root, [worker.root for worker in cluster.workers])
        finally:
            cluster.stop()
            trees.move(cluster.master.root, stage)
    used = {name: value - before.get(name, 0.0) for name, value in after.items()}
    return used | {"seconds": ended - began, **found.figures(began, ended)}


def main(what: str, pairs: int) -> None:
    with guarded("bench-", "/dev/shm") as base:
        bench = Bench(base, is_quick=False)
        for name, job in (("idle", idle), ("fanout", fan_out)):
            if what not in (name, "all"):
                continue
            found: dict[bool, list[dict[str, float]]] = {False: [], True: []}
            for pair in range(pairs):
                # What runs second finds caches and trees as the first has left them.
                for watched in (False, True) if pair % 2 == 0 else (True, False):
                    figures = job(bench, watched)
                    skipped = ("seconds", "echo_p50_ms", "echo_p99_ms", "echo_max_ms")
                    figures["all"] = sum(value for key, value in figures.items() if key not in skipped)
                    found[watched].append(figures)
                    print(name, "on " if watched else "off", {key: round(value, 3) for key, value in figures.items()})
            for key in found[True][0]:
                off, on = ([one.get(key, 0.0) for one in found[watched]] for watched in (False, True))
                print(f"{name:7}{key:14} off {statistics.median(off):8.3f}  on {statistics.median(on):8.3f}")


if __name__ == "__main__":
    words = sys.argv[1:]
    end_in_order()
    main(words[0] if words else "all", int(words[1]) if len(words) > 1 else 3)
