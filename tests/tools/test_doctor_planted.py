"""`clusterd doctor` on a running cluster: each fault is planted, named with its cure, and gone when the cure was
followed. Faults between two nodes are in test_doctor_joining.py."""

import contextlib
import json
import os
import re
import shutil
import signal
import sqlite3
import ssl
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest

from clusterd.pidfile import running_pid
from tests.net.harness import wait_until
from tests.tools.doctored import certificate
from tests.tools.planted import IS_ROOT, OWNER, Planted, edited, shown
from tools.doctor import cluster
from tools.doctor.finding import Finding
from tools.rig.cluster_json import merged
from tools.rig.nodes import PROJECT

pytestmark = pytest.mark.slow


@pytest.fixture
def apart(nodes: Planted) -> Planted:
    if not nodes.is_apart:
        pytest.skip("no namespaces of our own are allowed here")
    return nodes


as_root = pytest.mark.skipif(not IS_ROOT, reason="only root can run nodes as another user")


def test_healthy_cluster_has_no_finding(nodes: Planted) -> None:
    for node in nodes.rig.nodes:
        done = nodes.rig.command(node, "doctor", timeout_s=120)
        assert shown(done.stdout) == {}
        assert done.returncode == ("FAULT" in done.stdout), done  # one of the checkout


# ---- files -----------------------------------------------------------------------------------------------------------


@as_root
@pytest.mark.parametrize("place", ["etc/rules/closed.xml", "etc/cluster.json"])
def test_file_that_the_node_may_not_read(nodes: Planted, place: str) -> None:
    path = nodes.master.root / place
    path.touch()
    os.chown(path, 0, 0)
    path.chmod(0o600)
    found = nodes.wait_found(nodes.master, "unreadable file")["unreadable file"]
    assert (found.is_fault, found.what) == (True, f"{OWNER} cannot read {path}")
    nodes.run(found.cure)


@as_root
def test_directory_in_which_the_node_may_not_work(nodes: Planted) -> None:
    path = nodes.worker.root / "logs"
    os.chown(path, 0, 0)
    path.chmod(0o700)
    found = nodes.wait_found(nodes.worker, "owner without rights")["owner without rights"]
    assert (found.is_fault, f"user {OWNER} cannot work in {path}" in found.what) == (True, True)
    assert found.cure == "chown, as the text says"
    assert f"give it to {OWNER}" in found.what
    shutil.chown(path, OWNER)


def test_link_that_leads_elsewhere(nodes: Planted, tmp_path: Path) -> None:
    (tmp_path / "elsewhere.xml").write_text("<group name='e'/>")
    link = nodes.master.root / "etc/rules/linked.xml"
    link.symlink_to(tmp_path / "elsewhere.xml")
    found = nodes.wait_found(nodes.master, "linked file", "file left out")
    assert "etc/rules/linked.xml" in found["linked file"].what
    assert "a copy in its place" in found["linked file"].cure
    link.unlink()
    shutil.copy(tmp_path / "elsewhere.xml", link)


def test_file_that_is_mounted(apart: Planted) -> None:
    """The worker writes it in place, which works: a note."""
    there, ours = (node.root / "etc/rules/mounted.xml" for node in (apart.worker, apart.master))
    ours.write_text("<group name='a'/>")
    wait_until(there.exists, "it arrives")
    apart.there('cp "$1" "$1.beside"; mount --bind "$1.beside" "$1"', there)
    ours.write_text("<group name='b'/>")
    found = apart.wait_found(apart.worker, "mounted file", there=True)["mounted file"]
    assert (found.is_fault, str(there) in found.what) == (False, True)
    assert "mount the directory instead" in found.cure
    apart.there('umount "$1"; rm "$1.beside"', there)
    apart.wait_healed(there=True)


# ---- the machine -----------------------------------------------------------------------------------------------------


def test_disk_without_room_or_inodes_or_that_is_read_only(apart: Planted) -> None:
    logs, etc = apart.worker.root / "logs", apart.worker.root / "etc"
    apart.there('mount -t tmpfs -o size=4m,nr_inodes=200,mode=1777 logs "$1"', logs)
    apart.there('cp -a "$1" "$1.kept"; mount -t tmpfs etc "$1"; cp -a "$1.kept/." "$1"; rm -r "$1.kept"', etc)
    try:
        apart.restart(apart.worker)
        apart.wait_healed(there=True)
        apart.there('dd if=/dev/zero of="$1/ballast" bs=4k count=1000', logs)
        found = apart.wait_found(apart.worker, "disk full", there=True)["disk full"]
        assert (found.is_fault, str(logs) in found.what) == (True, True)
        assert "make room" in found.cure
        apart.there('rm "$1/ballast"', logs)
        apart.wait_healed(there=True)
        apart.there('cd "$1"; mkdir ballast; i=0; while touch "ballast/$i"; do i=$((i+1)); done', logs)
        found = apart.wait_found(apart.worker, "inodes used up", there=True)["inodes used up"]
        assert (found.is_fault, str(logs) in found.what) == (True, True)
        assert "remove small files" in found.cure
        apart.there('rm -r "$1/ballast"', logs)
        apart.wait_healed(there=True)
        apart.there('mount -o remount,ro "$1"', etc)
        found = apart.wait_found(apart.worker, "disk read-only", there=True)["disk read-only"]
        assert (found.is_fault, found.what) == (True, f"{etc} is mounted read-only")
        apart.there(found.cure.removeprefix("see dmesg; then "))
        apart.wait_healed(there=True)
    finally:
        apart.there('umount -l "$1" "$2"', logs, etc)
        apart.restart(apart.worker)


def test_too_few_watches_or_instances(apart: Planted) -> None:
    limit, instances = (f"/proc/sys/user/max_inotify_{what}" for what in ("watches", "instances"))
    apart.there(f"echo 3 >{limit}")
    try:
        apart.restart(apart.worker)
        found = apart.wait_found(apart.worker, "inotify limit", "files are not watched", there=True)
        assert "user.max_inotify_watches is 3, this node watches" in found["inotify limit"].what
        assert found["inotify limit"].is_fault
        cure = re.fullmatch(r"sysctl user\.max_inotify_watches=(\d+); clusterd reload", found["inotify limit"].cure)
        assert cure is not None
        assert found["files are not watched"].cure == "as the text says, then: clusterd reload"
        apart.there(f"echo {cure[1]} >{limit}")
        assert apart.rig.command(apart.worker, "reload", timeout_s=120).returncode == 0
        apart.wait_healed(there=True)
        apart.there(f"echo 1 >{instances}")
        few = apart.wait_found(apart.worker, "inotify limit", there=True)["inotify limit"]
        assert (few.is_fault, few.what) == (True, "user.max_inotify_instances is 1")
        assert few.cure == "sysctl user.max_inotify_instances=128; clusterd reload"
    finally:
        apart.there(f"echo 1000000 >{limit}; echo 128 >{instances}")


def test_too_few_open_files(nodes: Planted) -> None:
    """As when it was started from a shell with that limit."""
    pid = running_pid(str(nodes.worker.root))
    assert pid is not None
    psutil.Process(pid).rlimit(psutil.RLIMIT_NOFILE, (100, 100))
    found = nodes.wait_found(nodes.worker, "low ulimit")["low ulimit"]
    assert (found.is_fault, "may open 100 files" in found.what) == (True, True)
    assert re.search(r"LimitNOFILE=\d+ in the unit, or ulimit -n \d+ before start", found.cure)
    nodes.restart(nodes.worker)


@as_root
def test_processes_of_others_are_hidden(nodes: Planted) -> None:
    """The node's user does not see them; root, who asks, does."""
    unshare = shutil.which("unshare")
    script = 'mount -t proc -o hidepid=2 proc /proc && exec "$@"'
    line = ["sh", "-ec", script, "sh", sys.executable, "-m", "tools.entry", "--root", str(nodes.worker.root), "doctor"]
    if unshare is None or subprocess.run([unshare, "-m", "sh", "-c", script, "sh", "true"], check=False).returncode:
        pytest.skip("no mount of /proc is allowed here")
    done = subprocess.run([unshare, "-m", *line], capture_output=True, text=True, timeout=300, cwd=PROJECT, check=False)
    assert "note   /proc hidden: other users' processes are hidden" in done.stdout, done
    assert "SupplementaryGroups= of the unit" in done.stdout


def test_stock_daemon_beside(nodes: Planted) -> None:
    script = nodes.worker.root / "framework/scripts/wazuh-clusterd.py"
    script.parent.mkdir(parents=True)
    script.write_text("import sys; sys.stdin.read()")
    with subprocess.Popen([sys.executable, str(script)], stdin=subprocess.PIPE) as stock:
        found = nodes.wait_found(nodes.worker, "stock daemon runs beside")["stock daemon runs beside"]
        assert (found.is_fault, f"with pid {stock.pid}" in found.what) == (True, True)
        nodes.run(re.search(r"or (kill \d+);", found.cure)[1])  # type: ignore[index]
        assert stock.wait(60) == -signal.SIGTERM
    shutil.rmtree(script.parent.parent)


def test_certificate_of_the_api_that_has_expired(nodes: Planted) -> None:
    node = nodes.other
    api = json.loads((node.root / "etc/cluster.json").read_text())["clusterd"]["api"]
    cert, key = (node.root / f"etc/clusterd-api.{end}" for end in ("crt", "key"))
    certificate(cert, datetime.now(UTC) - timedelta(days=1), key)
    found = nodes.wait_found(node, "certificate expired")["certificate expired"]
    assert (found.is_fault, f"{cert} (REST API) was good until" in found.what) == (True, True)
    assert found.cure == "remove it with its key, then: clusterd api enable; clusterd reload"
    cert.unlink()
    key.unlink()
    for words in (("api", "enable"), ("reload",)):
        assert nodes.rig.command(node, *words, timeout_s=120).returncode == 0

    def served() -> str:
        return ssl.get_server_certificate(("127.0.0.1", api["port"]), timeout=60)

    wait_until(lambda: served().strip() == cert.read_text().strip(), "new connections get the new one")


def test_certificate_of_the_cluster_port_that_has_expired(nodes: Planted, tmp_path: Path) -> None:
    """In the files of the master only: what a worker says of it is in test_doctor.py."""
    cert, key = tmp_path / "m.crt", nodes.other.root / "etc/clusterd-api.key"
    certificate(cert, datetime.now(UTC) - timedelta(days=1), key)
    tls = {"clusterd": {"tls": {"enabled": True, "cert": str(cert), "key": str(key)}}}
    own = nodes.master.root / "etc/cluster.json"
    with edited(own, lambda text: json.dumps(merged(json.loads(text), tls))):
        found = nodes.wait_found(nodes.master, "certificate expired")["certificate expired"]
        assert (found.is_fault, f"{cert} (cluster port) was good until" in found.what) == (True, True)
        assert found.cure == "put a new one there and restart the node"
        certificate(cert, datetime.now(UTC) + timedelta(days=90), key)
        assert "certificate expired" not in nodes.doctor(nodes.master)


# ---- the agent database ----------------------------------------------------------------------------------------------


def test_database_that_another_program_has_locked(nodes: Planted) -> None:
    path = nodes.other.root / "queue/db/global.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=60)) as holder:
        holder.execute("begin exclusive")
        found = nodes.wait_found(nodes.other, "store locked")["store locked"]
        assert (found.is_fault, f"lsof {path} names who has it open" in found.cure) == (True, True)
        holder.execute("rollback")


def test_database_that_is_damaged(nodes: Planted, tmp_path: Path) -> None:
    path, copy = nodes.other.root / "queue/db/global.db", tmp_path / "backup.db"
    assert nodes.rig.command(nodes.other, "store", "backup", str(copy), timeout_s=120).returncode == 0
    # Of a running node: in a page that it may not read for weeks.
    with contextlib.closing(sqlite3.connect(path, timeout=60)) as database:
        database.execute("pragma wal_checkpoint(truncate)").fetchone()
        (number,) = database.execute("select rootpage from sqlite_schema where name = 'metadata'").fetchone()
        (size,) = database.execute("pragma page_size").fetchone()
    with path.open("r+b") as file:
        file.seek((number - 1) * size)
        file.write(b"\xff" * size)
    found = nodes.doctor(nodes.other)["database damaged"]
    assert (found.is_fault, str(path) in found.what) == (True, True)
    assert nodes.rig.stop(nodes.other.name) == []
    with path.open("r+b") as file:
        file.write(b"\xff" * 8192)
    assert nodes.doctor(nodes.other)["database damaged"].is_fault
    nodes.rig.start(nodes.other.name)
    found = nodes.wait_found(nodes.other, "database damaged")["database damaged"]
    assert (found.is_fault, "put a backup of queue/db/global.db in its place" in found.cure) == (True, True)
    shutil.copyfile(copy, path)


# ---- workers ---------------------------------------------------------------------------------------------------------


def test_worker_that_is_stopped(nodes: Planted) -> None:
    nodes.rig.stop(nodes.worker.name)
    found = nodes.wait_found(nodes.master, "worker lost")["worker lost"]
    assert (found.is_fault, f"{nodes.worker.name} (127.0.0.1) is LOST" in found.what) == (True, True)
    assert found.cure == f"start it there, or: clusterd forget {nodes.worker.name}"
    there = nodes.doctor(nodes.worker)["not running"]
    assert (there.is_fault, there.cure) == (False, f"clusterd --root {nodes.worker.root} start")
    nodes.rig.start(nodes.worker.name)


@as_root
def test_worker_that_is_behind_and_whose_keys_differ(nodes: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "LAG_S", 0.5)
    keys, closed, name = nodes.master.root / "etc/client.keys", nodes.worker.root / "etc", nodes.worker.name
    os.chown(closed, 0, 0)
    closed.chmod(0o755)
    keys.write_text(f"001 !gone any {'a' * 64}\n")
    found: dict[str, Finding] = {}

    def is_alone() -> bool:
        """Whether only this worker is behind: on a busy machine the other one needs a second, too."""
        found.update(nodes.wait_found(nodes.master, "worker behind", "keys differ", "file left out"))
        return f"{name} has been behind for" in found["worker behind"].what

    try:
        wait_until(is_alone, f"{name} is behind")
        assert all(one.is_fault for one in found.values())
        assert found["worker behind"].cure == f"clusterd diff {name}; its log says why"
        assert f"end what keeps {name} behind, as above" in found["keys differ"].cure
        assert found["file left out"].what == f"etc/client.keys on {name}: [Errno 13] Permission denied"
        assert "give etc/client.keys and its directory to the user that the node runs as" in found["file left out"].cure
    finally:
        shutil.chown(closed, OWNER)
