"""Events on a full disk, for test_full_disk.py: in a mount namespace of their own, where a small tmpfs replaces
a directory of one node. `python -m tests.system.disk_stories` reads their names, one a line, and answers each with a
line of JSON: what failed, or an empty text."""

import contextlib
import json
import os
import random
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clusterd.pidfile import running_pid
from tests.conftest import MakeRig, rigs
from tools.rig.nodes import Rig
from tools.rig.peer import wait_until
from tools.rig.wdb_client import authd

OWN = "queue/cluster/.clusterd"
LONG_S = 60.0
MIB = 1024 * 1024


@contextlib.contextmanager
def small_disk(directory: Path, mib: int) -> Iterator[Path]:
    """A tmpfs of that size, which belongs to the directory's owner."""
    directory.mkdir(parents=True, exist_ok=True)
    owner = directory.parent.stat()
    options = f"size={mib}m,mode=770,uid={owner.st_uid},gid={owner.st_gid}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(directory)], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def fill(disk: Path) -> Path:
    """Fills the disk to the last byte. Returns the file that fills it."""
    path = disk / "filler"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        with contextlib.suppress(OSError):
            while True:
                os.write(fd, bytes(4096))
    finally:
        os.close(fd)
    return path


def seen(rig: Rig, name: str) -> dict[str, Any]:
    found: dict[str, Any] = rig.status(name)[name]
    return found


def lines(rig: Rig, name: str, text: str) -> int:
    return (rig.node(name).root / "logs/cluster.log").read_text(errors="replace").count(text)


def master_cannot_look(make_rig: MakeRig) -> None:
    """There is no room for the manifest: the master says so, counts no worker as equal, and sends the change once there
    is room."""
    rig = make_rig(1, files=20)
    with small_disk(rig.master.root / OWN, 16) as disk:
        rig.start()
        rig.wait_equal(LONG_S)
        name, worker = rig.master.name, rig.workers[0].name
        filler = fill(disk)
        (rig.master.root / "etc/rules/new.xml").write_text("<!-- new -->")

        def is_told() -> bool:
            status = seen(rig, name)
            result = status["results"][worker]
            return bool(status["problems"]) and result["result"] != "equal" and result["lag_s"] is not None

        wait_until(is_told, LONG_S, "status tells of the full disk")
        assert "No space left" in " ".join(seen(rig, name)["problems"].values())
        filler.unlink()
        rig.wait_equal(LONG_S)
        assert (rig.workers[0].root / "etc/rules/new.xml").exists()
        wait_until(lambda: not seen(rig, name)["problems"], LONG_S, "the trouble is over")
        wait_until(lambda: seen(rig, name)["results"][worker]["result"] == "equal", LONG_S, "the worker is equal")
        assert seen(rig, name)["results"][worker]["lag_s"] is None
        assert lines(rig, name, "cannot be looked at, changes are not carried") == 1
        assert not rig.down()


def worker_keeps_its_reserve(make_rig: MakeRig) -> None:
    """Only the reserve is left: a small rule still arrives; a large file is refused and reported, and arrives once
    there is room."""
    rig = make_rig(1, files=20)
    worker = rig.workers[0]
    with small_disk(worker.root / OWN, 32) as disk:
        rig.start()
        rig.wait_equal(LONG_S)
        filler = disk / "filler"
        filler.write_bytes(bytes(26 * MIB))  # 8 MiB are reserved
        wait_until(lambda: seen(rig, worker.name)["problems"].get("disk"), LONG_S, "status tells of the disk")
        (rig.master.root / "etc/rules/small.xml").write_text("<!-- small -->")
        rig.wait_equal(LONG_S)
        (rig.master.root / "etc/lists/large").write_bytes(random.Random(1).randbytes(5 * MIB))
        refused = "Files and messages of other nodes are refused"
        waits = f"room of {worker.name}"
        wait_until(lambda: waits in seen(rig, rig.master.name)["problems"], LONG_S, "the master says what waits")
        spool = seen(rig, worker.name)["spool"]
        assert spool["disk_free"] < spool["disk_reserve"] == 8 * MIB
        assert lines(rig, worker.name, refused) == 1
        assert not (worker.root / "etc/lists/large").exists()
        filler.unlink()
        rig.wait_equal(LONG_S)
        wait_until(lambda: not seen(rig, worker.name)["problems"], LONG_S, "it is over")
        assert lines(rig, worker.name, refused) == 1
        assert not rig.down()


def read_only_for_a_while(make_rig: MakeRig) -> None:
    """The master's spool turns read-only at any moment of a sync, as on a failing disk. Files that cannot be removed or
    written then end nothing, and all workers are equal once it is writable again."""
    rig = make_rig(2, files=20)
    with small_disk(rig.master.root / OWN, 64) as disk:
        rig.start()
        rig.wait_equal(LONG_S)
        for number, moment_s in enumerate((0.0, 0.05, 0.1, 0.2, 0.4, 0.8)):
            content = random.Random(number).randbytes(MIB)
            (rig.master.root / f"etc/lists/{number}").write_bytes(content)
            time.sleep(moment_s)  # the moment of the fault, nothing is waited for
            with read_only(disk):
                (rig.master.root / f"etc/rules/{number}.xml").write_text(f"<!-- {number} -->")
                wait_until(lambda: seen(rig, rig.master.name)["problems"], LONG_S, "status tells of it")
        rig.wait_equal(LONG_S)
        wait_until(lambda: not seen(rig, rig.master.name)["problems"], LONG_S, "all troubles are over")
        wait_until(
            lambda: {row["result"] for row in seen(rig, rig.master.name)["results"].values()} == {"equal"},
            LONG_S,
            "both workers are equal",
        )
        assert all(row["restarts"] == 0 for row in seen(rig, rig.master.name)["processes"])
        assert not rig.down()


@contextlib.contextmanager
def read_only(disk: Path) -> Iterator[None]:
    """While a file is open for writing the system refuses to remount, so the story tries again."""

    def remounted(how: str) -> bool:
        done = subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], capture_output=True, check=False)
        return done.returncode == 0

    wait_until(lambda: remounted("ro"), LONG_S, "no file is open for writing")
    try:
        yield
    finally:
        wait_until(lambda: remounted("rw"), LONG_S, "it is writable again")


def restart_leaves_the_node(make_rig: MakeRig) -> None:
    """A restart needs room that is not there: the node is not even stopped, and is once there is room."""
    rig = make_rig(0)
    with small_disk(rig.master.root / "var/run", 1) as disk:
        rig.start()
        before = running_pid(str(rig.master.root))
        filler = fill(disk)
        done = rig.command(rig.master, "restart", timeout_s=120)
        assert (done.returncode, "make room first. The node was left as it is" in done.stderr) == (3, True), done
        assert running_pid(str(rig.master.root)) == before
        filler.unlink()
        done = rig.command(rig.master, "restart", timeout_s=120)
        assert done.returncode == 0, done
        assert running_pid(str(rig.master.root)) not in (None, before)
        assert not list(disk.glob(".clusterd-pid-*"))  # what held the room
        assert not rig.down()


def candidate_has_no_room(make_rig: MakeRig) -> None:
    """A candidate cannot write what it is told: it confirms nothing, the master registers agents without it, once it
    has waited, and says so. Room alone mends it, and the replica is whole."""
    rig = make_rig(1, overrides={"clusterd": {"ha": {"replica": True, "synchronous_timeout": 1}}})
    (rig.master.root / "etc/client.keys").write_text("")
    name, worker = rig.master.name, rig.workers[0]

    def of(node: str) -> dict[str, Any]:
        found: dict[str, Any] = seen(rig, node)["ha"] or {}
        return found

    def add(agent: str) -> None:
        answer = authd(rig.master.root, {"function": "add", "arguments": {"name": agent, "ip": "any"}}, LONG_S)
        assert answer["error"] == 0, answer

    with small_disk(worker.root / OWN / "replica", 4) as disk:
        rig.start()
        wait_until(lambda: of(name).get("registrations") == "synchronous", LONG_S, "a candidate that confirms")
        filler = fill(disk)
        for number in range(200):  # until the pages that its journal has are used up
            add(f"full-{number}")
            if of(name)["registrations"] == "asynchronous":
                break
        assert of(name)["registrations"] == "asynchronous"
        assert "without a candidate" in " ".join((rig.master.root / "logs/cluster.log").read_text().split())
        wait_until(lambda: "full" in str(of(worker.name)["problem"]), LONG_S, "the candidate says why")
        assert not of(worker.name)["connected"]
        filler.unlink()
        wait_until(lambda: of(name)["registrations"] == "synchronous", LONG_S, "it confirms again")
        add("with-room")
        wait_until(lambda: of(worker.name)["lag"] == 0, LONG_S, "it has everything")
        assert of(worker.name)["digest_equal"] is not False
        assert of(worker.name)["greatest_id"] == of(name)["greatest_id"]
        wait_until(lambda: not of(worker.name)["problem"], LONG_S, "the trouble is over")
        assert not rig.down()


STORIES = {
    story.__name__: story
    for story in (
        master_cannot_look,
        worker_keeps_its_reserve,
        read_only_for_a_while,
        restart_leaves_the_node,
        candidate_has_no_room,
    )
}


def main() -> None:
    for line in sys.stdin:
        failed = ""
        try:
            with rigs() as make:
                STORIES[line.strip()](make)
        except Exception:
            failed = traceback.format_exc()
        print(json.dumps(failed), flush=True)


if __name__ == "__main__":
    main()
