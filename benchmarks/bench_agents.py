"""Agents: state of 50,000 up, 100,000 group assignments down to five workers, steady state, registration through a
worker.

All nodes share the machine's cores. The databases are filled before the clock starts; the measured work goes through
the sockets and the cluster, and is checked at the end.
"""

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from tools.rig import workload
from tools.rig.guard import guarded
from tools.rig.nodes import Rig, RigError, RigNode
from tools.rig.peer import wait_until
from tools.rig.wdb_client import WdbClient, authd

KEY = "c98b62a9b6169ac5f67dae55ae4a9088"
REPORTED = 50_000
ASSIGNED = 100_000
REGISTERED = 10_000
CLIENTS = 50
STEADY_S = 30
MakeRig = Callable[..., Rig]
COLUMNS = {
    "os_name": "Ubuntu",
    "os_version": "22.04.3 LTS",
    "os_major": "22",
    "os_minor": "04",
    "os_codename": "Jammy Jellyfish",
    "os_platform": "ubuntu",
    "os_uname": "Linux |host |5.15.0-91-generic |#101-Ubuntu SMP |x86_64",
    "os_arch": "x86_64",
    "version": "Wazuh v4.14.1",
    "config_sum": "ab73af41699f13fdd81903b5f23d8d00",
    "merged_sum": "4a8724b20dee0124ff9656783c490c4e",
    "manager_host": "manager",
    "ip": "10.0.0.7",
    "connection_status": "active",
    "group_config_status": "synced",
}


@pytest.fixture
def make_rig() -> Iterator[MakeRig]:
    with guarded("bench-") as base:
        yield from _rigs(base)


def _rigs(base: Path) -> Iterator[MakeRig]:
    made: list[Rig] = []

    def make(workers: int, intervals: dict[str, Any]) -> Rig:
        rig = Rig.create(base / "rig", workers, key=KEY, overrides={"intervals": intervals})
        made.append(rig)
        workload.generate(rig.master.root)
        (rig.master.root / "etc/client.keys").write_text("")
        for name in ("linux", "web"):
            (rig.master.root / "etc/shared" / name).mkdir(exist_ok=True)
            (rig.master.root / "etc/shared" / name / "agent.conf").write_text("<agent_config></agent_config>\n")
        rig.start()
        rig.wait_equal(60)
        return rig

    try:
        yield make
    finally:
        problems = [problem for rig in made for problem in rig.down()]
    assert not problems


def fill(node: RigNode, count: int) -> None:
    """Writes agents directly into the file."""
    db = sqlite3.connect(node.root / "queue/db/global.db", timeout=30)
    with db:
        db.executemany(
            'insert into agent (id, name, register_ip, internal_key, date_add, "group")'
            " values (?, ?, 'any', 'key', 1700000000, null)",
            [(n, f"agent{n}") for n in range(1, count + 1)],
        )
    db.close()


def heard_of(node: RigNode, ids: list[int], *, everything: bool) -> None:
    """Writes what these agents would have reported to this worker: everything, or a keepalive."""
    db = sqlite3.connect(node.root / "queue/db/global.db", timeout=30)
    with db:
        if everything:
            columns = ", ".join(f"{name} = :{name}" for name in COLUMNS)
            db.executemany(
                f"update agent set {columns}, node_name = :node, last_keepalive = 1700000000, sync_status = 'syncreq'"
                " where id = :id",
                [COLUMNS | {"node": node.name, "id": one} for one in ids],
            )
            db.executemany(
                "insert or replace into labels values (?, 'env', 'production')", [(one,) for one in ids if one % 5 == 0]
            )
        else:
            db.executemany("update agent set sync_status = 'syncreq_keepalive' where id = ?", [(one,) for one in ids])
        db.executemany(
            "insert into clusterd_event values (?, 1, '') on conflict (id) do update set at = at + 1",
            [(n,) for n in ids],
        )
    db.close()


def told(capsys: pytest.CaptureFixture[str], text: str) -> None:
    with capsys.disabled():
        print(f"\n{text}")


def net_of(rig: Rig) -> str:
    found = {name: facts["net"] for name, facts in rig.status().items()}
    longest = max(facts["work_max_ms"] for facts in found.values())
    times = sum(facts["work_over_5ms"] for facts in found.values())
    return f"longest work on a net loop {longest:.1f} ms, over 5 ms {times} times"


@pytest.mark.benchmark(group="agent-info, 50,000 agents of two workers")
@pytest.mark.parametrize("everything", [True, False], ids=["everything", "keepalives"])
def test_reports(
    benchmark: BenchmarkFixture, make_rig: MakeRig, capsys: pytest.CaptureFixture[str], everything: bool
) -> None:
    rig = make_rig(2, {"worker": {"sync_agent_info": 0.2}, "master": {"agent_group_start_delay": 100_000}})
    for node in rig.nodes:
        fill(node, REPORTED)
    parts = [[n for n in range(1, REPORTED + 1) if n % 2 == side] for side in range(2)]
    threads = [
        threading.Thread(target=heard_of, args=(node, part), kwargs={"everything": everything})
        for node, part in zip(rig.workers, parts, strict=True)
    ]
    with WdbClient(rig.master.root) as master:

        def until_merged() -> None:
            wait_until(
                lambda: (
                    master.rows("select count(*) as n from agent where connection_status = 'active' and id > 0")
                    == [{"n": REPORTED}]
                ),
                120,
                "all agents are in the master's database",
            )

        def write() -> None:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        benchmark.pedantic(until_merged, setup=write, rounds=1)
        if everything:
            nodes = master.rows("select node_name, count(*) as n from agent where id > 0 group by 1 order by 1")
            assert [row["n"] for row in nodes] == [REPORTED // 2] * 2
    rate = REPORTED / benchmark.stats["min"]
    told(capsys, f"{rate:,.0f} agents/s merged on the master; {net_of(rig)}")


@pytest.mark.benchmark(group="agent-groups, 100,000 agents, five workers")
def test_assignments(benchmark: BenchmarkFixture, make_rig: MakeRig, capsys: pytest.CaptureFixture[str]) -> None:
    fast = {"agent_group_start_delay": 0.5, "sync_agent_groups": 0.5}
    rig = make_rig(5, {"master": fast, "worker": {"timeout_agent_groups": 120}})
    for node in rig.nodes:
        fill(node, ASSIGNED)
    items = [
        {"id": n, "name": f"agent{n}", "groups": ["default", "linux", "web"] if n % 2 else ["default"]}
        for n in range(1, ASSIGNED + 1)
    ]
    with WdbClient(rig.master.root) as master:
        workers = [WdbClient(worker.root) for worker in rig.workers]

        def assign() -> None:
            for start in range(0, ASSIGNED, 700):
                master.set_groups("override", items[start : start + 700], "syncreq")
            wanted = master.group_hash()
            wait_until(lambda: all(worker.group_hash() == wanted for worker in workers), 200, "equal hashes")

        benchmark.pedantic(assign, rounds=1)
        assert workers[0].rows("select count(*) as n from belongs") == [{"n": ASSIGNED * 2}]
        waits = "select count(*) as n from agent where group_sync_status = 'syncreq'"
        wait_until(lambda: master.rows(waits) == [{"n": 0}], 60, "handed out")
        began = time.monotonic()
        for _ in range(20):
            master.group_hash()
        hash_ms = (time.monotonic() - began) / 20 * 1000
        for worker in workers:
            worker.close()
    told(capsys, f"checksum over 100,000 agents {hash_ms:.1f} ms; {net_of(rig)}")


def cpu_s(rig: Rig) -> dict[str, float]:
    """Returns the CPU seconds that each node has used so far."""
    used = {}
    for name, facts in rig.status().items():
        times = [psutil.Process(one["pid"]).cpu_times() for one in facts["processes"] if one["pid"]]
        used[name] = sum(one.user + one.system for one in times)
    return used


@pytest.mark.benchmark(group="steady state, 50,000 agents")
def test_steady_state(benchmark: BenchmarkFixture, make_rig: MakeRig, capsys: pytest.CaptureFixture[str]) -> None:
    """Changes 1 % of the agents every 10 s, at the usual intervals."""
    rig = make_rig(2, {"master": {"agent_group_start_delay": 0.5}})
    for node in rig.nodes:
        fill(node, REPORTED)
    clients = [WdbClient(worker.root) for worker in rig.workers]

    def live() -> None:
        ends = time.monotonic() + STEADY_S
        n = 0
        while time.monotonic() < ends:
            agent_id = n % REPORTED + 1
            data = {name: value for name, value in COLUMNS.items() if name != "ip"}
            data |= {"id": agent_id, "sync_status": "syncreq", "node_name": rig.workers[n % 2].name}
            clients[n % 2].command("global update-agent-data " + json.dumps(data))
            n += 1
            time.sleep(10 / (REPORTED / 100))

    before = cpu_s(rig)
    benchmark.pedantic(live, rounds=1)
    after = cpu_s(rig)
    used = ", ".join(f"{name} {(after[name] - before[name]) / STEADY_S * 100:.1f} %" for name in before)
    for client in clients:
        client.close()
    wait_until(
        lambda: all(
            facts["agents"]["to_report"] == 0
            for name, facts in rig.status(*(node.name for node in rig.workers)).items()
            if facts["agents"]
        ),
        30,
        "all is reported",
    )
    told(capsys, f"CPU of one core: {used}; {net_of(rig)}")


@pytest.mark.benchmark(group="registration through a worker")
def test_registrations(benchmark: BenchmarkFixture, make_rig: MakeRig, capsys: pytest.CaptureFixture[str]) -> None:
    rig = make_rig(2, {})
    worker = rig.workers[0].root
    numbers = iter(range(REGISTERED))
    lock = threading.Lock()
    answers: list[Any] = []
    took: list[float] = []

    def client() -> None:
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            began = time.monotonic()
            answers.append(authd(worker, {"function": "add", "arguments": {"name": f"web-{number}", "ip": "any"}}))
            took.append(time.monotonic() - began)

    def register() -> None:
        threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    benchmark.pedantic(register, rounds=1)
    assert {answer["error"] for answer in answers} == {0}
    assert len({answer["data"]["id"] for answer in answers}) == REGISTERED
    lines = (rig.master.root / "etc/client.keys").read_text().splitlines()
    assert len(lines) == len({line.split(" ")[1] for line in lines}) == REGISTERED
    try:
        keys_s = f"keys on all nodes {rig.wait_equal(60):.1f} s later"
    except RigError as late:
        pytest.fail(str(late))
    took.sort()
    rate = REGISTERED / benchmark.stats["min"]
    told(
        capsys,
        f"{rate:.0f} registrations/s, median {took[len(took) // 2] * 1000:.0f} ms, p99 "
        f"{took[len(took) * 99 // 100] * 1000:.0f} ms; {keys_s}; {net_of(rig)}",
    )
