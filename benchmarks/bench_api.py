"""The local socket and the distributed API: nodes and health of a master with 50 workers, requests through a worker and
the master, pages of 100,000 agents.

The client is a Python program on the same cores; its own time is in every figure but the echoes': those are asked by a
process of their own (suite/echo_probe.py).
"""

import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.suite.echo_probe import echoes
from tools.rig import workload
from tools.rig.guard import guarded
from tools.rig.nodes import HOST, Rig, RigNode
from tools.rig.peer import LocalClient, StockWorker

KEY = "c98b62a9b6169ac5f67dae55ae4a9088"
WORKERS = 50
AGENTS = 100_000
PAGE = 500
CLIENTS = 8
RATE = 500
SECONDS = 6


@pytest.fixture
def base() -> Iterator[Path]:
    with guarded("bench-") as made:
        yield made


def started(base: Path, workers: int) -> Rig:
    rig = Rig.create(base / "rig", workers, key=KEY)
    workload.generate(rig.master.root)
    (rig.master.root / "etc/client.keys").write_text("")
    rig.start()
    rig.wait_equal(60)
    return rig


def client_of(node: RigNode) -> LocalClient:
    return LocalClient(node.root / "queue/cluster/c-internal.sock")


def request(module: str, qualname: str, arguments: dict[str, Any]) -> str:
    name = qualname.rpartition(".")[2]
    named = {"__name__": name, "__module__": module, "__qualname__": qualname, "__type__": "function"}
    return json.dumps({"f": {"__callable__": named}, "f_kwargs": arguments})


def told(capsys: pytest.CaptureFixture[str], text: str) -> None:
    with capsys.disabled():
        print(f"\n{text}")


def processes_of(rig: Rig) -> list[psutil.Process]:
    """All processes of all nodes."""
    return [psutil.Process(pid) for node in rig.nodes for pid in rig.processes(node.name).values() if pid is not None]


def cpu_s(processes: list[psutil.Process]) -> float:
    """Their CPU time so far: a figure that other work on the machine changes less than any other."""
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def shares(took: list[float]) -> str:
    took = sorted(took)
    return (
        f"p50 {took[len(took) // 2] * 1000:.1f} ms, p99 {took[len(took) * 99 // 100] * 1000:.1f} ms, "
        f"max {took[-1] * 1000:.1f} ms"
    )


@pytest.mark.benchmark(group="a master with 50 workers")
@pytest.mark.parametrize(("command", "payload"), [("get_nodes", "{}"), ("get_health", "null")])
def test_nodes(
    benchmark: BenchmarkFixture, base: Path, capsys: pytest.CaptureFixture[str], command: str, payload: str
) -> None:
    rig = started(base, 0)
    workers = [
        StockWorker((HOST, rig.master.port), KEY, f"worker{n}", base / f"w{n}", cluster="rig") for n in range(WORKERS)
    ]
    try:
        for worker in workers:
            worker.join()
        with client_of(rig.master) as client:
            answer = json.loads(client.ask(command, payload).payload)
            assert len(answer.get("items", answer.get("nodes"))) == WORKERS + 1
            took = []

            def ask() -> None:
                began = time.monotonic()
                client.ask(command, payload)
                took.append(time.monotonic() - began)

            benchmark.pedantic(ask, rounds=500, warmup_rounds=20)
        told(capsys, f"{command} with {WORKERS} workers: {shares(took)}")
    finally:
        for worker in workers:
            worker.close()
        rig.down()


@pytest.mark.benchmark(group="500 requests a second through a worker and its master")
def test_requests(benchmark: BenchmarkFixture, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rig = started(base, 1)
    took: list[float] = []
    began = [0.0]
    processes = processes_of(rig)
    spent = [0.0]
    wanted = request("wazuh.cluster", "get_nodes_info", {})

    def program(number: int, begin: float) -> None:
        with client_of(rig.workers[0]) as client:
            for place in range(number, RATE * SECONDS, CLIENTS):
                time.sleep(max(0.0, begin + place / RATE - time.monotonic()))
                asked = time.monotonic()
                seen = len(client.link.record)
                client.ask("dapi", wanted)
                client.link.wait_for(
                    lambda one: not one.sent and one.is_request and one.command == "dapi_res", 20, after=seen
                )
                took.append(time.monotonic() - asked)

    def run() -> None:
        before = cpu_s(processes)
        began[0] = begin = time.monotonic() + 0.1
        programs = [threading.Thread(target=program, args=(number, begin)) for number in range(CLIENTS)]
        for thread in programs:
            thread.start()
        for thread in programs:
            thread.join()
        spent[0] = cpu_s(processes) - before

    try:
        with echoes(HOST, rig.master.port, "rig", KEY, pause_ms=20) as found:
            benchmark.pedantic(run, rounds=1)
            ended = time.monotonic()
    finally:
        rig.down()
    assert len(took) == RATE * SECONDS
    rate = len(took) / benchmark.stats["min"]
    cost = f"{spent[0] / len(took) * 1000:.2f} ms of CPU each"
    meanwhile = shares([seconds for at, seconds in found.times if began[0] <= at <= ended])
    told(capsys, f"{rate:.0f} requests/s, {cost}: {shares(took)}; echo on the master meanwhile {meanwhile}")


@pytest.mark.benchmark(group="100,000 agents, pages of 500")
def test_pages(benchmark: BenchmarkFixture, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rig = started(base, 0)
    db = sqlite3.connect(rig.master.root / "queue/db/global.db", timeout=30)
    with db:
        db.executemany(
            "insert into agent (id, name, register_ip, date_add, version, os_name, os_platform, node_name, connection_status)"
            " values (?, ?, 'any', 1700000000, 'Wazuh v4.14.1', 'Ubuntu', 'ubuntu', 'worker1', 'active')",
            [(n, f"agent{n}") for n in range(1, AGENTS + 1)],
        )
    db.close()
    took: list[float] = []
    seen: set[str] = set()

    def run() -> None:
        with client_of(rig.master) as client:
            for offset in range(0, AGENTS, PAGE * 10):
                began = time.monotonic()
                client.ask("dapi", request("wazuh.agent", "get_agents", {"offset": offset, "limit": PAGE}))
                answer = json.loads(client.answer_of("dapi_res"))
                took.append(time.monotonic() - began)
                items = answer["__wazuh_result__"]["__object__"]["affected_items"]
                assert len(items) == PAGE
                seen.update(item["id"] for item in items)
                client.link.record.clear()

    try:
        benchmark.pedantic(run, rounds=1)
    finally:
        rig.down()
    assert len(seen) == len(took) * PAGE
    told(capsys, f"a page of {PAGE} of {AGENTS:,} agents: {shares(took)}")
