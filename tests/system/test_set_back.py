"""A master comes back from an old snapshot of its disk: it takes nothing back on other nodes, and its operator decides
what counts."""

import shutil
import sqlite3
import subprocess
from pathlib import Path

import pytest

from clusterd.rundir import REPLICA_FILE
from tests.system.test_election import ids
from tests.system.test_promote import PATIENCE_S, is_ready, is_worker_of, leads, port_of, run, status
from tests.system.test_promote import rig as rig  # the fixture
from tests.system.test_replica import ha, register
from tools.rig.nodes import Rig, RigNode
from tools.rig.peer import wait_until

pytestmark = pytest.mark.slow
NEWER = "etc/rules/newer.xml"


def copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-a", f"{source}/.", str(target)], check=True)


def grow_old(candidate: RigNode) -> None:
    """What this candidate, which does not run, was told counts as told long ago."""
    db = sqlite3.connect(candidate.root / REPLICA_FILE)
    with db:
        db.execute(
            "insert or replace into clusterd_replica select 'old', value from clusterd_replica where name = ?",
            ("settled",),
        )
    db.close()


@pytest.mark.parametrize("decision", ["what the candidate has", "what the master has"])
def test_master_from_an_old_snapshot_takes_nothing_back_before_its_operator_decides(rig: Rig, decision: str) -> None:
    master, candidate, plain = rig.master, *rig.workers
    rig.start()
    wait_until(lambda: is_ready(rig, candidate), PATIENCE_S, "a candidate that may lead")
    first = register(master, "first")
    assert rig.stop() == []
    snapshot = rig.directory / "snapshot"
    snapshot.mkdir()
    try:
        copy(master.root, snapshot)
        rig.start()
        wait_until(lambda: is_ready(rig, candidate), PATIENCE_S, "a candidate that may lead")
        (master.root / NEWER).write_text("<group name='newer,'></group>\n")
        second = register(master, "second")
        rig.wait_equal(PATIENCE_S)
        wait_until(lambda: is_ready(rig, candidate), PATIENCE_S, "everything at the candidate")
        assert rig.stop() == []
        grow_old(candidate)
        shutil.rmtree(master.root)
        master.root.mkdir()
        copy(snapshot, master.root)
    finally:
        shutil.rmtree(snapshot)
    rig.start()
    wait_until(lambda: "disk was set back" in str(status(rig, master)["problem"]), PATIENCE_S, "a master that waits")
    done = rig.command(master, "status", timeout_s=60)
    assert done.returncode == 11, done.stdout
    assert f"that {candidate.name} has of this term are not here" in " ".join(done.stdout.split())
    assert not (master.root / NEWER).exists()
    for node in (candidate, plain):
        assert (node.root / NEWER).exists(), "nothing was taken back"
        assert second in ids(node)

    if decision == "what the candidate has":
        assert run(rig, candidate, "promote", "--old-master-is-down")["ok"]
        assert run(rig, master, "demote", "--master", f"127.0.0.1:{port_of(candidate)}")["ok"]
        wait_until(lambda: leads(rig, candidate, 2), PATIENCE_S, "all nodes at the candidate")
        wait_until(lambda: second in ids(master) and (master.root / NEWER).exists(), PATIENCE_S, "all of it here, too")
        assert is_worker_of(rig, master, port_of(candidate))
        assert register(master, "third") > second > first
        return
    options = ("--old-master-is-down", "--without-agents", "--unchecked-files")
    assert run(rig, master, "promote", *options)["ok"]
    wait_until(lambda: leads(rig, master, 2), PATIENCE_S, "all nodes at the master")
    rig.wait_equal(PATIENCE_S)
    assert not (candidate.root / NEWER).exists()
    wait_until(lambda: is_ready(rig, candidate), PATIENCE_S, "the candidate follows")
    assert ha(rig, candidate)["digest_equal"] is not False
    assert second not in ids(plain)
