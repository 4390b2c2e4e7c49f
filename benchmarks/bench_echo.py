"""How quickly a master answers `echo-c` on a connection of its own: idle, and while two fresh workers fetch 20,000
files."""

import json
import statistics
import subprocess
import sys
from collections.abc import Iterator

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.echo_client import ask, dial
from tools.rig import workload
from tools.rig.guard import guarded
from tools.rig.nodes import Rig, RigNode
from tools.rig.peer import wait_until

FILES = 20_000
MEAN_BYTES = 10_450
CLUSTER = "rig"
KEY = "c98b62a9b6169ac5f67dae55ae4a9088"


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    """A started master with 20,000 files, and two workers without files that do not run yet."""
    monkeypatch.setenv("CLUSTERD_KEY", KEY)
    with guarded("bench-") as base:
        made = Rig.create(base / "rig", 2, key=KEY, links=False, scale=0.1)
        try:
            workload.generate(made.master.root, files=FILES, size=MEAN_BYTES)
            made.start("master")
            yield made
        finally:
            problems = made.down()
    assert not problems


def has_synced(node: RigNode) -> bool:
    """Taken from the node's log, because comparing the trees would use the CPU time that is measured."""
    return "[Integrity sync] Finished" in (node.root / "logs/cluster.log").read_text()


@pytest.mark.benchmark(group="echo-c", min_rounds=200)
def test_idle_master(benchmark: BenchmarkFixture, rig: Rig) -> None:
    sock, frame = dial("127.0.0.1", rig.master.port, CLUSTER)
    with sock:
        benchmark(ask, sock, frame)


@pytest.mark.benchmark(group="first sync of two workers")
def test_during_a_first_sync(benchmark: BenchmarkFixture, rig: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    line = [sys.executable, "-m", "benchmarks.echo_client", "127.0.0.1", str(rig.master.port), CLUSTER, "2"]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout
        assert client.stdout.readline() == "ready\n"

        def sync() -> None:
            rig.start(*(node.name for node in rig.workers))
            wait_until(
                lambda: all(has_synced(node) for node in rig.workers), 120, "both workers have applied a package"
            )

        benchmark.pedantic(sync, rounds=1)
        said, _ = client.communicate("")
    assert all(found.is_equal for found in rig.compare().values())
    times = sorted(json.loads(said))
    assert len(times) > 500
    figures = {
        "p50": statistics.median(times) * 1000,
        "p99": times[len(times) * 99 // 100] * 1000,
        "max": times[-1] * 1000,
    }
    benchmark.extra_info |= {f"echo_{name}_ms": round(value, 3) for name, value in figures.items()}
    with capsys.disabled():
        print("\necho-c meanwhile:", ", ".join(f"{name} {value:.2f} ms" for name, value in figures.items()))
