"""The master's cost of a check that finds nothing: simulated workers, by number of workers and number of files."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.reference.package import pack_metadata
from benchmarks.reference.tree import scan
from benchmarks.suite import trees
from benchmarks.suite.bench import CLUSTERD, NEVER_S, START_TIMEOUT_S, Bench, intervals
from benchmarks.suite.cluster import CLUSTER, KEY, SCANNED, Cluster, Implementation, JobFailed
from benchmarks.suite.echo_probe import cpu_of_one, echoes
from benchmarks.suite.processes import cpu_s
from benchmarks.suite.results import Row
from tools.rig.ports import HOST

FILE_BYTES = 256
IDLE_S = 1.0
STOCK_CHECKS = 30
"""Full checks in one measurement, at most: each is tens of milliseconds of the master's CPU, and of ours."""
PER_CHECK = "idle check"
IDLE = "idle cluster at stock intervals"


class Skipped(Exception):
    """This kind of check is impossible with this master."""


def run(bench: Bench) -> None:
    """Workers 1 to 200 at one number of files, then files 1,000 to 200,000 with ten workers, then an idle large
    cluster."""
    if bench.is_quick:
        plan = {1000: [1, 10], 5000: [10]}
        many = 5000, 50, 6.0
    else:
        plan = {1000: [10], 20_000: [1, 10, 50, 200], 100_000: [10], 200_000: [10]}
        many = 100_000, 200, 30.0
    for files, workers in plan.items():
        stage = bench.flat(files, FILE_BYTES)
        for implementation in bench.implementations:
            _one_master(bench, implementation, stage, files, workers, many if files == many[0] else None)
        if not bench.is_quick:
            bench.drop(stage)


def _one_master(
    bench: Bench,
    implementation: Implementation,
    stage: Path,
    files: int,
    workers: list[int],
    many: tuple[int, int, float] | None,
) -> None:
    """One number of files: the master scans once, then only answers."""
    with bench.cluster(implementation, intervals(scan_s=NEVER_S)) as cluster:
        trees.move(stage, cluster.master.root)
        try:
            package = cluster.base / "metadata"
            pack_metadata(package, scan(cluster.master.root, {}), 1)
            digest = trees.content_digest_of(cluster.master.root)
            cluster.start(cluster.master)
            cluster.log(cluster.master).wait(SCANNED, START_TIMEOUT_S)
            for kind in ("digest", "stock"):
                for count in workers:
                    _per_check(bench, cluster, kind, count, files, digest if kind == "digest" else str(package))
            if many:
                cluster.stop()
                cluster.configure(intervals())
                cluster.start(cluster.master)
                cluster.log(cluster.master).wait(SCANNED, START_TIMEOUT_S)
                _idle(bench, cluster, *many, digest, str(package))
        finally:
            cluster.stop()
            trees.move(cluster.master.root, stage)


def _per_check(bench: Bench, cluster: Cluster, kind: str, count: int, files: int, content: str) -> None:
    name = cluster.master.implementation.name
    variant = _variant(name, kind)
    if variant is None:
        return
    size = f"{files} files, {count} workers"
    checks = (100 if bench.is_quick else 400) if kind == "digest" else min(max(count, 10), STOCK_CHECKS)
    try:
        with simulated(kind, count, cluster.port, content) as ask:
            pids = cluster.pids(cluster.master)
            ask(checks=min(checks, count), concurrency=8)  # what is done once for each worker does not count
            at_rest = _cpu_while(pids, lambda: time.sleep(IDLE_S))[0] / IDLE_S
            echo_s = cpu_of_one(pids, HOST, cluster.port, CLUSTER, KEY)
            with echoes(HOST, cluster.port, CLUSTER, KEY) as found:
                began = time.monotonic()
                used, done = _cpu_while(pids, lambda: ask(checks=checks, concurrency=8))
                ended = time.monotonic()
    except (Skipped, JobFailed) as reason:
        bench.add(Row(PER_CHECK, size, name, variant=variant, skipped=_why(name, reason)))
        return
    asked = sum(1 for at, _ in found.times if began <= at <= ended)
    spent = used - at_rest * done["seconds"] - echo_s * asked
    figures = {"cpu_ms": max(spent, 0.0) / done["checks"] * 1000, **found.figures(began, ended)}
    bench.add(Row(PER_CHECK, size, name, figures, variant, ("cpu_ms",)))


def _idle(bench: Bench, cluster: Cluster, files: int, count: int, seconds: float, digest: str, package: str) -> None:
    """Everybody checks every 9 s, as stock does; keepalives six times as often, to see enough of them."""
    name = cluster.master.implementation.name
    size = f"{files} files, {count} workers"
    kind = "digest" if name == CLUSTERD.name else "stock"
    try:
        with simulated(kind, count, cluster.port, digest if kind == "digest" else package) as ask:
            pids = cluster.pids(cluster.master)
            used, done = _cpu_while(pids, lambda: ask(seconds=seconds, interval_s=9, keepalive_s=10))
    except (Skipped, JobFailed) as reason:
        bench.add(Row(IDLE, size, name, variant=_variant(name, kind) or "", skipped=_why(name, reason)))
        return
    figures = {
        "cores": used / seconds,
        "checks": done["checks"],
        "keepalive_p99_ms": done["keepalive_p99_ms"],
        "keepalive_max_ms": done["keepalive_max_ms"],
    }
    bench.add(Row(IDLE, size, name, figures, _variant(name, kind) or "", ("cores",)))


def _why(name: str, reason: Skipped | JobFailed) -> str:
    """Returns why a row has no figures. Raises JobFailed if our own implementation failed; that another one does not
    keep up is a result."""
    if isinstance(reason, Skipped):
        return str(reason)
    if name == CLUSTERD.name:
        raise reason
    return "does not keep up: " + (str(reason).strip().splitlines() or ["no reason given"])[-1]


def _variant(name: str, kind: str) -> str | None:
    """Returns the name of a row; None: this implementation is not measured this way."""
    if name == CLUSTERD.name:
        return "digest" if kind == "digest" else "stock worker"
    return "" if kind == "stock" else None


@contextlib.contextmanager
def simulated(kind: str, count: int, port: int, content: str) -> Iterator[Any]:
    """Simulated workers that have joined; the value is a function that has them do something and returns what they
    tell.

    Raises Skipped, JobFailed."""
    line = [sys.executable, "-m", "benchmarks.suite.simulated", kind, str(count), HOST, str(port), CLUSTER, content]
    with subprocess.Popen(
        line,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"CLUSTERD_KEY": KEY},
    ) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr

        def said() -> str:
            assert process.stdout
            assert process.stderr
            text = process.stdout.readline().strip()
            if not text:
                raise JobFailed(f"the simulated workers ended: {process.stderr.read()[-500:]}")
            if text.startswith("skip "):
                raise Skipped(text[5:])
            return text

        def ask(**what: float) -> Any:
            assert process.stdin
            process.stdin.write(json.dumps(what) + "\n")
            process.stdin.flush()
            return json.loads(said())

        try:
            said()
            yield ask
            process.stdin.close()
            process.wait(30)
        finally:
            process.kill()


def _cpu_while(pids: list[int], work: Any) -> tuple[float, Any]:
    """Returns the CPU seconds that these processes use meanwhile, and the result of `work`."""
    before = cpu_s(pids)
    done = work()
    return cpu_s(pids) - before, done
