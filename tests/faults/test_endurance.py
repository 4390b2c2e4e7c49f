"""Memory of every process stays flat under all kinds of load at once: files, agents' reports, registrations, groups, requests of
the API on both sockets, logins.

CLUSTERD_STRESS_MINUTES (30), CLUSTERD_STRESS_ENDURANCE_FILES (2000), CLUSTERD_STRESS_AGENTS (300)."""

import os
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median

import pytest

from tests.conftest import MakeRig
from tests.system.rest import Caller, turn_on
from tests.system.test_api import ask
from tools.rig import workload
from tools.rig.agents import Fleet, assign, make_group
from tools.rig.nodes import HOST, Rig

MINUTES = float(os.environ.get("CLUSTERD_STRESS_MINUTES", "30"))
FILES = int(os.environ.get("CLUSTERD_STRESS_ENDURANCE_FILES", "2000"))
AGENTS = int(os.environ.get("CLUSTERD_STRESS_AGENTS", "300"))
SAMPLE_S = 5.0
WARM_UP_SHARE = 0.4
"""Of the time: caches of SQLite (2 MiB a connection), statements and digests fill."""
GROWTH_KB_PER_MINUTE = 1.0
ONE_STEP_KB = 1024.0
"""Python takes memory in arenas of 1 MiB; one more at any time is no growth. It is allowed once, however long the run is."""
LIMIT_BYTES = 150_000_000

pytestmark = [pytest.mark.stress, pytest.mark.timeout(MINUTES * 60 + 900)]
Samples = dict[tuple[str, str], list[tuple[float, float]]]
"""Of each process of each node: minutes and KB."""


def test_memory_of_every_process_stays_flat_under_all_kinds_of_load(
    make_rig: MakeRig, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = {"clusterd": {"api": {"host": HOST, "login_attempts": 1_000_000}}}
    rig = make_rig(2, files=FILES, size=10_450, scale=0.3, overrides=overrides)
    (rig.master.root / "etc/client.keys").write_text("")
    turn_on(rig)
    rig.start()
    rig.wait_equal(120, pause_s=1)
    fleet = Fleet(rig)
    assert fleet.add(AGENTS, through=rig.master, prefix="agent", groups="default", clients=8).failures == {}
    make_group(rig, "shop")
    fleet.wait_known()
    stop, broken = threading.Event(), list[BaseException]()
    rounds: dict[str, int] = defaultdict(int)

    def forever(name: str, work: Callable[[int], None], pause_s: float) -> threading.Thread:
        def run() -> None:
            try:
                while not stop.is_set():
                    rounds[name] += 1
                    work(rounds[name])
                    stop.wait(pause_s)
            except BaseException as failure:
                broken.append(failure)
                stop.set()

        thread = threading.Thread(target=run, name=name)
        thread.start()
        return thread

    threads = [
        forever("files", lambda number: change_files(rig, number), 2.0),
        forever("reports", lambda number: report(fleet, number, stop), 0.0),
        forever("registrations", lambda number: register(rig, number), 1.0),
        forever("groups", lambda number: give_groups(rig, fleet, number), 2.0),
        forever("requests", lambda number: request(rig, number), 0.2),
        forever("logins", lambda number: log_in(rig, number), 1.0),
    ]
    samples: Samples = defaultdict(list)
    began = time.monotonic()
    try:
        while (minutes := (time.monotonic() - began) / 60) < MINUTES and not stop.is_set():
            sample(rig, minutes, samples)
            stop.wait(SAMPLE_S)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert broken == []
    rig.wait_equal(120, pause_s=1)
    found = {process: slope_of(points) for process, points in samples.items()}
    with capsys.disabled():
        print(f"\n{MINUTES:g} min; rounds: {dict(rounds)}")
        for (node, name), (kb_per_minute, minutes, low, high) in sorted(found.items()):
            print(
                f"{node[-1]} {name:10s} {kb_per_minute:+8.1f} KB/min over {minutes:.1f} min, {low:.0f} to {high:.0f} KB"
            )
    grown = {
        process: kb_per_minute
        for process, (kb_per_minute, minutes, _, _) in found.items()
        if kb_per_minute * minutes > GROWTH_KB_PER_MINUTE * minutes + ONE_STEP_KB
    }
    assert grown == {}
    total = sum(points[-1][1] for (node, _), points in samples.items() if node == "rig_manager_1")
    assert total * 1024 < LIMIT_BYTES


def sample(rig: Rig, minutes: float, samples: Samples) -> None:
    for node in rig.nodes:
        for name, pid in rig.processes(node.name).items():
            if pid is not None:
                samples[node.name, name].append((minutes, anonymous_kb(pid)))


def anonymous_kb(pid: int) -> float:
    """Memory of its own that a process has touched. Not USS: a page that was shared since the fork and that another process has
    written to meanwhile (Python counts references in it) is this one's alone from then on, and looks like growth."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return float(line.split()[1])
    raise ValueError(f"process {pid} has no memory")


def slope_of(points: list[tuple[float, float]]) -> tuple[float, float, float, float]:
    """KB a minute after the warm-up (the median slope of all pairs, which single peaks do not move), the minutes, and the least and
    the most KB seen in them."""
    after = points[0][0] + WARM_UP_SHARE * (points[-1][0] - points[0][0])
    late = [point for point in points if point[0] >= after]
    assert len(late) >= 10, "the run was too short"
    gap = len(late) // 3
    slopes = [(two[1] - one[1]) / (two[0] - one[0]) for number, one in enumerate(late) for two in late[number + gap :]]
    sizes = [size for _, size in late]
    return median(slopes), late[-1][0] - late[0][0], min(sizes), max(sizes)


# ---- the load ----------------------------------------------------------------------------------------------------------


def change_files(rig: Rig, number: int) -> None:
    workload.change(rig.master.root, seed=number, edit=20, add=5, delete=5)
    if number % 5 == 0:
        workload.tamper(rig.workers[number % 2].root, seed=number)


def report(fleet: Fleet, number: int, stop: threading.Event) -> None:
    fleet.report(seconds=10, rate=100, changes=0.2, connections=2, seed=number, stop=stop)


def register(rig: Rig, number: int) -> None:
    """One agent comes, through any node, and goes again."""
    guests = Fleet(rig)
    node = rig.nodes[number % len(rig.nodes)]
    assert guests.add(1, through=node, prefix=f"guest{number}-", groups="default", clients=1).failures == {}
    guests.remove(list(guests.agents))


def give_groups(rig: Rig, fleet: Fleet, number: int) -> None:
    chosen = random.Random(number).sample(sorted(fleet.agents), min(20, len(fleet.agents)))
    assign(rig, "shop", {one: fleet.agents[one] for one in chosen}, mode="append" if number % 2 else "remove")


def request(rig: Rig, number: int) -> None:
    node = rig.nodes[number % len(rig.nodes)]
    functions = (
        ("wazuh.cluster", "get_nodes_info"),
        ("wazuh.agent", "get_agents"),
        ("wazuh.cluster", "get_status_json"),
    )
    assert "__wazuh_result__" in ask(node, *functions[number % 3], request_type="local_master")


def log_in(rig: Rig, number: int) -> None:
    node = rig.nodes[number % len(rig.nodes)]
    with Caller(node, password="a wrong password" if number % 5 == 0 else "correct horse battery") as caller:
        if number % 5 == 0:
            assert caller.login().status_code == 401
        else:
            assert caller.get("/agents?limit=20")["error"] == 0
