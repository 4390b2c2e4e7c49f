"""A master and two workers become and stay equal, whatever is changed, tampered with, killed or cut off."""

import contextlib
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from clusterd.role import ROLE_FILE
from clusterd.rundir import REPLICA_FILE
from clusterd.status.status import StatusReader
from clusterd.store import schema
from clusterd.store.change_log import TRIGGER
from hashing.atomic import temporary_name
from tests.campaigns.frame import Changed
from tests.conftest import MakeRig, rigs
from tools.rig import workload
from tools.rig.faults import signal_process, tell_link
from tools.rig.nodes import Rig
from tools.rig.peer import LocalClient, wait_until

pytestmark = pytest.mark.slow

RULESET = Path(__file__).resolve().parents[3] / "shared" / "data" / "ruleset-4.14.1.tar.xz"


@pytest.fixture(scope="module")
def trio() -> Iterator[Rig]:
    """A master and two workers that are equal, for tests that leave them equal and let nothing fail."""
    with rigs() as make:
        rig = make()
        rig.start()
        rig.wait_equal(60)
        yield rig


def test_changes_and_tampering_heal_on_every_worker(trio: Rig) -> None:
    rig = trio
    for seed in range(3):
        workload.change(rig.master.root, seed=seed, edit=3, add=3, delete=3)
        rig.wait_equal(60)
        workload.tamper(rig.workers[seed % 2].root, seed=seed)
        rig.wait_equal(60)
    for node in rig.nodes:
        lines = (node.root / "logs/cluster.log").read_text().splitlines()
        bad = [line for line in lines if " ERROR: " in line or "error" in line.lower() or "traceback" in line.lower()]
        assert not bad, node.name


def test_removed_group_disappears_and_emptied_item_directories_stay(trio: Rig) -> None:
    rig = trio
    shutil.rmtree(rig.master.root / "etc/shared/linux")
    for path in (p for p in (rig.master.root / "etc/decoders").rglob("*") if p.is_file()):
        path.unlink()
    rig.wait_equal(60)
    groups = [worker.root / "etc/shared/linux" for worker in rig.workers]
    wait_until(lambda: not any(path.exists() for path in groups), 60, "the directories go after their files")
    for worker in rig.workers:
        assert (worker.root / "etc/decoders").is_dir()


def test_cluster_without_ha_has_no_part_of_it(trio: Rig) -> None:
    for node in trio.nodes:
        assert {"net", "sync", "election"} & {*trio.processes(node.name)} == {"net", "sync"}
        assert not (node.root / ROLE_FILE).exists(), "a term was told"
        assert not (node.root / REPLICA_FILE).exists()
        with contextlib.closing(schema.connect(str(node.root), readonly=True)) as db:
            made = [name for (name,) in db.execute("select name from sqlite_master")]
        assert not [name for name in made if name.startswith(("clusterd_change", TRIGGER))]


@pytest.fixture(scope="module")
def pair() -> Iterator[Rig]:
    """A master and a worker that are equal, for tests that leave them equal."""
    with rigs() as make:
        rig = make(1)
        rig.start()
        rig.wait_equal(60)
        yield rig


@pytest.mark.parametrize("process", ["net", "sync", "pool-1"])
@pytest.mark.parametrize("number", [1, 2])
def test_killed_process_comes_back_and_the_cluster_heals(pair: Rig, process: str, number: int) -> None:
    rig = pair
    node = rig.nodes[number - 1].name
    before = rig.processes(node)
    pid = before[process]
    assert pid is not None
    signal_process(pid, signal.SIGKILL)
    workload.change(rig.master.root, seed=pid)
    wait_until(lambda: rig.processes(node).get(process) not in (None, pid), 60, f"{process} of {node} is back")
    rig.wait_equal(60)
    after = rig.processes(node)
    assert {name for name in before if before[name] == after[name]} == set(before) - {process}


def test_killed_supervisor_takes_its_children_with_it(pair: Rig) -> None:
    rig = pair
    pids = rig.processes("rig_manager_2")
    supervisor = pids["supervisor"]
    assert supervisor is not None
    signal_process(supervisor, signal.SIGKILL)
    wait_until(lambda: not {p.pid for p in rig.running()} & set(pids.values()), 60, "the children end")
    workload.change(rig.master.root, seed=1)
    rig.start("rig_manager_2")
    rig.wait_equal(60)


def test_temporary_files_of_a_killed_application_are_removed(make_rig: MakeRig) -> None:
    rig = make_rig(1)
    worker = rig.workers[0]
    dead = subprocess.Popen(["true"])
    dead.wait()
    left = [
        worker.root / "etc/rules" / temporary_name("left.xml", "plan0011223344556677-0"),
        worker.root / "etc/shared/default" / temporary_name("left.xml", f"pid{dead.pid}-0011223344556677"),
        worker.root / "etc/.clusterd-0011223344556677.tmp",  # as earlier versions named them
    ]
    kept = worker.root / "etc/rules/operators_own.tmp"
    for path in (*left, kept):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("half a rul")
    rig.start()
    rig.wait_equal(60)
    assert not any(path.exists() for path in left)
    assert kept.exists()
    assert "Removed 3 temporary files of an unfinished sync." in (worker.root / "logs/cluster.log").read_text()


@pytest.fixture(scope="module")
def linked() -> Iterator[Rig]:
    """A master and two workers behind links."""
    quick = {"intervals": {"communication": {"timeout_cluster_request": 3}, "worker": {"keep_alive": 2}}}
    with rigs() as make:
        rig = make(links=True, overrides=quick)
        rig.start()
        yield rig


@pytest.mark.parametrize("command", ["cut", "silence"])
def test_cut_link_works_again_when_it_is_repaired(linked: Rig, command: str) -> None:
    rig = linked
    wait_until(rig.are_connected, 60, "the workers are connected")
    rig.wait_equal(60)
    control = rig.workers[0].link_control
    assert control is not None
    tell_link(control, command)  # type: ignore[arg-type]
    workload.change(rig.master.root, seed=len(command), add=3)
    wait_until(lambda: rig.compare()["rig_manager_3"].is_equal, 60, "the other worker is not held up")
    assert not rig.compare()["rig_manager_2"].is_equal
    tell_link(control, "mend")
    rig.wait_equal(60)


def test_reader_never_sees_a_torn_file(pair: Rig) -> None:
    """The master swaps a file between two contents; a reader on the worker sees one or the other, never a mixture."""
    rig = pair
    contents = [bytes([letter]) * 3_000_000 for letter in b"ab"]
    source, target = rig.master.root / "etc/lists/swapped", rig.workers[0].root / "etc/lists/swapped"
    source.write_bytes(contents[0])
    rig.wait_equal(60)
    torn: list[int] = []
    looks = [0]
    stop = threading.Event()
    changed = Changed()

    def poll() -> None:
        while not stop.wait(0.001):
            found = changed.read(target)
            looks[0] += 1
            if found is not None and found[1] not in contents:
                torn.append(len(found[1]))

    reader = threading.Thread(target=poll)
    reader.start()
    try:
        for number in range(1, 5):
            beside = source.with_suffix(".tmp")
            beside.write_bytes(contents[number % 2])
            beside.replace(source)
            rig.wait_equal(60)
    finally:
        stop.set()
        reader.join()
    assert not torn
    assert looks[0] > 20


def test_idle_cluster_moves_no_file_and_logs_only_the_periodic_lines(make_rig: MakeRig) -> None:
    rig = make_rig(1)
    rig.start()
    rig.wait_equal(60)
    master_log, worker_log = (node.root / "logs/cluster.log" for node in rig.nodes)
    wait_until(
        lambda: "Sync not required." in (worker_log.read_text().splitlines() or [""])[-1],
        60,
        "a check without differences",
    )
    starts = [path.stat().st_size for path in (master_log, worker_log)]
    times = {p: p.stat().st_mtime_ns for p in (rig.workers[0].root / "etc").rglob("*")}
    rounds = 4
    wait_until(lambda: worker_log.read_text()[starts[1] :].count("Sync not required.") >= rounds, 60, "idle rounds")
    periodic = {
        "Master": r"\[Local (integrity|agent-groups)\] ",
        "Worker rig_manager_2": r"\[(Integrity check|Agent-info sync|Keep Alive)\] |\[Main\] Successful response",
    }
    for path, start in zip((master_log, worker_log), starts, strict=True):
        whole_lines, _, _ = path.read_text()[start:].rpartition("\n")
        for line in whole_lines.splitlines():
            tag, rest = re.findall(r"INFO: \[([^]]*)\] (.*)", line)[0]
            assert re.match(periodic[tag], rest), line
    assert times == {p: p.stat().st_mtime_ns for p in (rig.workers[0].root / "etc").rglob("*")}


def test_many_files_reach_two_workers_while_the_master_stays_quick(make_rig: MakeRig) -> None:
    """2,000 files. The master answers local echoes all the time; none waits until net or sync have computed for long.
    The load of the machine does not count; benchmarks measure the time."""
    rig = make_rig(2, files=2000, size=10000)
    rig.start("master")
    pids = rig.processes("master")
    loops = [psutil.Process(pids[name]) for name in ("net", "sync")]
    computed: list[float] = []
    answered_in_sync = 0
    stop = threading.Event()
    reader = StatusReader(str(rig.master.root))

    def spent() -> float:
        return sum(times.user + times.system for times in (loop.cpu_times() for loop in loops))

    def echo() -> None:
        nonlocal answered_in_sync
        with LocalClient(rig.master.root / "queue/cluster/c-internal.sock") as client:
            while not stop.wait(0.03):
                before = spent()
                assert client.ask("echo-c", b"keepalive").command == b"ok-m"
                computed.append(spent() - before)
                answered_in_sync += bool(reader.read_sync()["syncs"])

    thread = threading.Thread(target=echo)
    thread.start()
    try:
        rig.start("rig_manager_2", "rig_manager_3")
        rig.wait_equal(60, pause_s=0.5)
    finally:
        stop.set()
        thread.join()
    assert answered_in_sync > 5
    assert max(computed) < 0.5


@pytest.mark.shared
def test_real_ruleset_arrives_byte_identical(make_rig: MakeRig, tmp_path: Path) -> None:
    if not RULESET.exists():
        pytest.skip(f"{RULESET} is not there")
    import tarfile

    with tarfile.open(RULESET) as archive:
        archive.extractall(tmp_path, filter="data")
    rig = make_rig(tree=tmp_path)
    # The store would write a merged.mg for a group without files, sooner or later.
    group = rig.master.root / "etc/shared/default/agent.conf"
    group.parent.mkdir(parents=True, exist_ok=True)
    group.write_text("<agent_config/>\n")
    rig.start()
    rig.wait_equal(60)
    assert [one.equal for one in rig.compare().values()] == [371, 371]
