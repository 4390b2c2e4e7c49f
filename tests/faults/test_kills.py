"""Processes are killed at random moments while 20,000 files go to two fresh workers."""

import contextlib
import os
import random
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest

from tests.campaigns.frame import Changed
from tests.conftest import MakeRig
from tests.ipc.processes import named_memory
from tools.rig.faults import signal_process
from tools.rig.nodes import Rig, RigNode
from tools.rig.peer import wait_until

FILES = int(os.environ.get("CLUSTERD_STRESS_FILES", "20000"))
KILLS = int(os.environ.get("CLUSTERD_STRESS_KILLS", "50"))
KILLS_PER_SYNC = 5
SYNC_S = 8.0
SEED = int(os.environ.get("CLUSTERD_STRESS_SEED", "1"))


class Swapped:
    """A file of the master that changes between two contents, and a reader on each worker that must never see a
    mixture."""

    def __init__(self, rig: Rig) -> None:
        self._contents = [bytes([letter]) * 3_000_000 for letter in b"ab"]
        self._source = rig.master.root / "etc/lists/swapped"
        self._targets = [node.root / "etc/lists/swapped" for node in rig.workers]
        self._turn = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self._changed = Changed()
        self.reads = 0
        self.torn: list[tuple[Path, int]] = []
        self.swap()

    def swap(self) -> None:
        self._turn += 1
        beside = self._source.with_name("swapped.tmp")
        beside.write_bytes(self._contents[self._turn % 2])
        beside.replace(self._source)

    def _read(self) -> None:
        while not self._stop.wait(0.02):
            for path in self._targets:
                with contextlib.suppress(FileNotFoundError):  # taken away by the test itself
                    found = self._changed.read(path)
                    self.reads += 1
                    if found is not None and found[1] not in self._contents:
                        self.torn.append((path, len(found[1])))

    def __enter__(self) -> "Swapped":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def make_fresh(node: RigNode) -> None:
    """Removes everything that was ever synced to a worker, like a replaced disk."""
    for path in ("etc/shared", "etc/rules", "etc/decoders", "etc/lists", "var/multigroups"):
        for entry in (node.root / path).iterdir():
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)  # the node is at work on it and may be quicker
            else:
                entry.unlink(missing_ok=True)


def kill_one(rig: Rig, rng: random.Random) -> str:
    node = rng.choice(rig.nodes)
    alive = [(name, pid) for name, pid in rig.processes(node.name).items() if pid and name != "supervisor"]
    name, pid = rng.choice(alive)
    with contextlib.suppress(ProcessLookupError):
        signal_process(pid, signal.SIGKILL)
    return f"{node.name} {name}"


def all_slabs_free(rig: Rig) -> bool:
    return all(
        slabs["free"] == slabs["total"] > 0
        for facts in rig.status().values()
        for slabs in facts.get("slabs", {"": {"free": 0, "total": 1}}).values()
    )


@pytest.mark.slow
def test_killed_children_never_stop_a_sync(make_rig: MakeRig, capsys: pytest.CaptureFixture[str]) -> None:
    """`-m stress` does all of it; otherwise there are a tenth of the kills with a twentieth of the files."""
    run_kills(make_rig, capsys, files=FILES // 20, kills=KILLS // 10, sync_s=2.0)


@pytest.mark.stress
@pytest.mark.timeout(3600)
def test_fifty_killed_children_never_stop_a_sync(make_rig: MakeRig, capsys: pytest.CaptureFixture[str]) -> None:
    run_kills(make_rig, capsys, files=FILES, kills=KILLS, sync_s=SYNC_S)


def run_kills(make_rig: MakeRig, capsys: pytest.CaptureFixture[str], *, files: int, kills: int, sync_s: float) -> None:
    rng = random.Random(SEED)
    rig = make_rig(2, files=files, size=10_450)
    with Swapped(rig) as swapped:
        rig.start()
        rig.wait_equal(120, pause_s=0.5)
        for done in range(0, kills, KILLS_PER_SYNC):
            for node in rig.workers:
                make_fresh(node)
            swapped.swap()
            began, killed = time.monotonic(), []
            for moment in sorted(rng.uniform(0, sync_s) for _ in range(KILLS_PER_SYNC)):
                wait_until(lambda at=began + moment: time.monotonic() >= at, sync_s + 1, "the moment of the next kill")
                killed.append(kill_one(rig, rng))
            took = rig.wait_equal(180, pause_s=0.5)
            with capsys.disabled():
                print(
                    f"\n{done + KILLS_PER_SYNC} kills: equal {took:.1f} s after {', '.join(killed)}", end="", flush=True
                )
        wait_until(lambda: all_slabs_free(rig), 60, "every slab is free")
        assert swapped.reads > 20
        assert not swapped.torn
    assert not [name for process in rig.running() for name in named_memory(process.pid)]
    assert not rig.stop()
    assert not rig.running()
    left = [path for node in rig.nodes for path in (node.root / "var/run").rglob("*") if not path.is_dir()]
    assert not left
