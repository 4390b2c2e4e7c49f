"""No process keeps anything of what it has done: files, agents' reports, registrations, groups, requests of the API on
both sockets, logins; one kind at a time, then all at once.

What a process holds is asked of itself while nothing goes on (`probe/sitecustomize.py`), before and after: Python's
blocks, the bytes of the C library, SQLite's. That shows a leak of one object an operation within minutes. The size that
the system shows would take hours, because it grows to the bound of what is kept on purpose: pages of SQLite (2 MiB a
connection), free memory (8 MiB a heap), arenas of 1 MiB that fill.

CLUSTERD_STRESS_MINUTES (30), CLUSTERD_STRESS_ENDURANCE_FILES (500), CLUSTERD_STRESS_AGENTS (300),
CLUSTERD_STRESS_KINDS (names of kinds with commas between them, and `all`; without: each in turn)."""

import contextlib
import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import MakeRig
from tests.system.dapi_client import ask
from tests.system.rest import Caller, turn_on
from tools.rig import workload
from tools.rig.agents import Fleet, assign, make_group
from tools.rig.faults import signal_process
from tools.rig.guard import guarded
from tools.rig.nodes import Rig, RigError
from tools.rig.peer import wait_until
from tools.rig.ports import HOST

MINUTES = float(os.environ.get("CLUSTERD_STRESS_MINUTES", "30"))
FILES = int(os.environ.get("CLUSTERD_STRESS_ENDURANCE_FILES", "500"))
AGENTS = int(os.environ.get("CLUSTERD_STRESS_AGENTS", "300"))
KINDS = [name for name in os.environ.get("CLUSTERD_STRESS_KINDS", "").split(",") if name]
WINDOWS = 2
"""A leak grows in each window. A step that comes once is printed, and the next window decides: the interpreter's table
of interned strings doubles now and then (961,184 and 1,922,416 bytes), mostly by names of temporary files."""
WARM_UP_SHARE = 0.4
"""Share of the time of each kind: caches, pools of threads and connections, and tables grow to their size."""
QUIET_S = 12.0
"""Time without load before a look: a round of everything that a node does by itself."""
FULL_WALK_S = 15
SLACK_BLOCKS = 1000
SLACK_BYTES = 256 * 1024
"""How much two quiet moments may differ, however long the run is."""
BLOCKS_A_FILE = 12
"""Pool processes keep rows of the shards and of the manifest with which they have worked, and those vary."""
BLOCKS_AN_OPERATION = 0.01
BYTES_AN_OPERATION = 1.0
"""That is 1 KB for each 1,000 operations."""
SQLITE_BYTES = 24 << 20
LIMIT_BYTES = 600_000_000
"""Anonymous memory of all processes of a master; memory shared with the supervisor counts for each."""
PROBE = Path(__file__).parent / "probe"

pytestmark = [pytest.mark.stress, pytest.mark.timeout(MINUTES * 60 + 1800)]
Process = tuple[str, str]


class Held(NamedTuple):
    """The same, by one process."""

    blocks: int
    bytes: int
    sqlite: int


class Load:
    """Kinds of operations that are repeated until they are stopped, with their numbers."""

    def __init__(self, kinds: dict[str, tuple[Callable[[int], int], float]]) -> None:
        """Each name with a function that does one or more operations and returns how many, and a pause in seconds."""
        self._kinds = kinds
        self._numbers: Counter[str] = Counter()
        self.done: Counter[str] = Counter()
        self.failures: list[BaseException] = []

    @property
    def names(self) -> list[str]:
        return list(self._kinds)

    def run(self, names: list[str], seconds: float) -> int:
        """Runs these kinds at the same time; returns how many operations they did."""
        stop, before = threading.Event(), self.done.total()

        def repeat(name: str) -> None:
            work, pause_s = self._kinds[name]
            until = time.monotonic() + seconds
            try:
                while time.monotonic() < until and not stop.wait(pause_s):
                    self._numbers[name] += 1
                    self.done[name] += work(self._numbers[name])
            except BaseException as failure:
                self.failures.append(failure)
                stop.set()

        threads = [threading.Thread(target=repeat, args=(name,), name=name) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return self.done.total() - before


class Probe:
    """Asks all processes of a rig how much they hold."""

    def __init__(self, rig: Rig, place: Path) -> None:
        self._rig = rig
        self._place = place
        self._turn = -1

    def look(self) -> dict[Process, Held]:
        self._rig.wait_equal(120, pause_s=1)
        time.sleep(QUIET_S)
        self._turn += 1
        return {process: self._ask(pid) for process, pid in self._processes().items()}

    def _processes(self) -> dict[Process, int]:
        found = {}
        for node in self._rig.nodes:
            for name, pid in self._rig.processes(node.name).items():
                if pid is not None and name != "supervisor":  # it takes its signals one by one, and has no data
                    found[node.name, name] = pid
        return found

    def _ask(self, pid: int) -> Held:
        path = self._place / f"{pid}.{self._turn}"
        signal_process(pid, signal.SIGRTMIN)
        wait_until(path.exists, 60, f"process {pid} says what it holds")
        return Held(**json.loads(path.read_text()))


@contextlib.contextmanager
def probed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Rigs that are started in the block can be asked. Yields where they write it."""
    with guarded("probe-") as place:
        place.chmod(0o777)  # nodes that were started as root are another user's
        monkeypatch.setenv("CLUSTERD_PROBE", str(place))
        monkeypatch.setenv("PYTHONPATH", str(PROBE))
        # Freed blocks that threads keep for themselves count as allocated, up to 200 KB for each thread.
        monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0")
        yield place


def test_no_process_keeps_anything_of_what_it_has_done(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with probed(monkeypatch) as place:
        overrides = {
            # pool-0 confirms early: what it keeps of the files belongs to the warm-up.
            "clusterd": {"api": {"host": HOST, "login_attempts": 1_000_000}, "full_walk": FULL_WALK_S}
        }
        rig = make_rig(2, files=FILES, size=10_450, scale=0.3, overrides=overrides)
        (rig.master.root / "etc/client.keys").write_text("")
        turn_on(rig)
        rig.start()
        rig.wait_equal(120, pause_s=1)
        fleet = Fleet(rig)
        assert fleet.add(AGENTS, through=rig.master, prefix="agent", groups="default", clients=8).failures == {}
        make_group(rig, "shop")
        fleet.wait_known()
        load = Load(
            {
                "files": (lambda number: change_files(rig, number), 1.0),
                "reports": (lambda number: report(fleet, number), 0.0),
                "registrations": (lambda number: register(rig, number), 0.0),
                "groups": (lambda number: give_groups(rig, fleet, number), 0.5),
                "requests": (lambda number: request(rig, number), 0.0),
                "logins": (lambda number: log_in(rig, number), 0.0),
            }
        )
        probe = Probe(rig, place)
        probe.look()  # the first one makes what looking needs
        leaks = []
        turns = [load.names if name == "all" else [name] for name in KINDS or [*load.names, "all"]]
        seconds = MINUTES * 60 / len(turns)
        with capsys.disabled():
            print()
            for names in turns:
                load.run(names, seconds * WARM_UP_SHARE)
                before = probe.look()
                for _ in range(WINDOWS):
                    operations = load.run(names, seconds * (1 - WARM_UP_SHARE))
                    assert load.failures == []
                    after = probe.look()
                    found = grown(names[0] if len(names) == 1 else "all", operations, before, after)
                    if not found:
                        break
                    before = after
                leaks += found
            print(f"{MINUTES:g} min, {dict(load.done)}")
        assert leaks == []
        pids = [pid for pid in rig.processes(rig.master.name).values() if pid]
        assert sum(map(anonymous_kb, pids)) * 1024 < LIMIT_BYTES


def grown(
    what: str, operations: int, before: dict[Process, Held], after: dict[Process, Held]
) -> list[tuple[object, ...]]:
    """Prints how much more each process holds than before; returns those above the bounds."""
    assert after.keys() == before.keys()
    print(f"{what}: {operations} operations; more blocks and bytes than before:")
    found: list[tuple[object, ...]] = []
    for process, held in sorted(after.items()):
        blocks, size = held.blocks - before[process].blocks, held.bytes - before[process].bytes
        print(f"  {process[0][-1]} {process[1]:7s} {blocks:+6d} {size:+8d}, SQLite {held.sqlite // 1024} KB")
        kept = BLOCKS_A_FILE * FILES if process[1].startswith("pool") else 0
        if (
            blocks > SLACK_BLOCKS + kept + operations * BLOCKS_AN_OPERATION
            or size > SLACK_BYTES + operations * BYTES_AN_OPERATION
            or held.sqlite > SQLITE_BYTES
        ):
            found.append((what, process, blocks, size, held.sqlite))
    return found


def anonymous_kb(pid: int) -> float:
    """Returns memory that a process has touched itself or shares with the supervisor. Not USS: a page that was shared
    since the fork and that another process has written to (Python counts references in it) is this one's alone from
    then on."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return float(line.split()[1])
    raise ValueError(f"process {pid} has no memory")


# ---- the load: each returns how many operations it was ---------------------------------------------------------------


def change_files(rig: Rig, number: int) -> int:
    workload.change(rig.master.root, seed=number, edit=20, add=5, delete=5)
    if number % 5 == 0:
        workload.tamper(rig.workers[number % 2].root, seed=number)
    return 30


def report(fleet: Fleet, number: int) -> int:
    return fleet.report(seconds=5, rate=400, changes=0.2, connections=2, seed=number).done


def register(rig: Rig, number: int) -> int:
    """Registers an agent through any node and removes it. Tries again where authd hangs up on a client that is slow on
    a busy machine."""
    guests = Fleet(rig)
    node = rig.nodes[number % len(rig.nodes)]
    try:
        failures = guests.add(1, through=node, prefix=f"guest{number}-", groups="default", clients=1).failures
    except RigError:
        return 0
    guests.remove(list(guests.agents))
    return 2 if not failures else 0


def give_groups(rig: Rig, fleet: Fleet, number: int) -> int:
    chosen = random.Random(number).sample(sorted(fleet.agents), min(20, len(fleet.agents)))
    assign(rig, "shop", {one: fleet.agents[one] for one in chosen}, mode="append" if number % 2 else "remove")
    return len(chosen)


def request(rig: Rig, number: int) -> int:
    node = rig.nodes[number % len(rig.nodes)]
    functions = (
        ("wazuh.cluster", "get_nodes_info"),
        ("wazuh.agent", "get_agents"),
        ("wazuh.cluster", "get_status_json"),
    )
    assert "__wazuh_result__" in ask(node, *functions[number % 3], request_type="local_master")
    return 1


def log_in(rig: Rig, number: int) -> int:
    node = rig.nodes[number % len(rig.nodes)]
    with Caller(node, password="a wrong password" if number % 5 == 0 else "correct horse battery") as caller:
        if number % 5 == 0:
            assert caller.login().status_code == 401
        else:
            assert caller.get("/agents?limit=20")["error"] == 0
    return 1
