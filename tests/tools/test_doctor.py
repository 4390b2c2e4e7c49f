"""`clusterd doctor`: each fault is planted, and named with its cure; a healthy node has none."""

import json
import os
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from clusterd.config.loading import load
from clusterd.net.dial import Address
from clusterd.settings import MonitorSettings, Settings
from clusterd.status.status import StatusReader
from clusterd.supervisor.privileges import Owner
from tests.campaigns.hooked import hooked
from tests.conftest import MakeRig
from tests.net.harness import CLUSTER, KEY, VERSION, Talker, free_port, wait_until
from tools.cli import cluster as command
from tools.doctor import cluster, files, services, system
from tools.doctor.finding import Finding
from tools.init_node import init_node
from tools.probe import probe
from tools.rig.guard import guarded
from tools.rig.nodes import RigNode, run_program
from tools.rig.peer import exception_json


def node(root: Path, **given: Any) -> Settings:
    """The settings of a new node."""
    wanted = {"node_type": "worker", "name": "w1", "cluster": CLUSTER, "port": None, "bind": "127.0.0.1"} | given
    key = KEY if isinstance(KEY, str) else KEY.decode()
    master = "127.0.0.1" if wanted["node_type"] == "worker" else None
    init_node(str(root), key_file=None, environment_key=key, master=master, **wanted)
    settings = load(str(root)).settings
    assert settings is not None
    return settings


@pytest.fixture
def worker(tmp_path: Path) -> Settings:
    return node(tmp_path / "w")


@pytest.fixture
def master(tmp_path: Path) -> Settings:
    return node(tmp_path / "m", node_type="master", name="m", port=free_port())


def named(found: Iterator[Finding]) -> dict[str, Finding]:
    return {one.name: one for one in found}


# ---- the master's port -----------------------------------------------------------------------------------------------


@pytest.fixture
def port() -> Iterator[Callable[[Callable[[socket.socket], None]], Address]]:
    """Listens on a port and does with the first connection what it is told."""
    servers, threads = [], []

    def listen(serve: Callable[[socket.socket], None]) -> Address:
        server = socket.create_server(("127.0.0.1", 0))
        server.settimeout(30)
        servers.append(server)

        def run() -> None:
            sock, _ = server.accept()
            with sock:
                serve(sock)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        threads.append(thread)
        return Address("127.0.0.1", server.getsockname()[1])

    yield listen
    for server in servers:
        server.close()
    for thread in threads:
        thread.join(30)


def refuse(code: int) -> Callable[[socket.socket], None]:
    def serve(sock: socket.socket) -> None:
        talker = Talker(sock, KEY)
        talker.respond(talker.read(), "err", exception_json(code))

    return serve


def speak_http(sock: socket.socket) -> None:
    sock.recv(65536)
    sock.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")


def hang_up(sock: socket.socket) -> None:
    sock.recv(65536)


def take(sock: socket.socket) -> None:
    talker = Talker(sock, KEY)
    hello = talker.read()
    assert hello.payload == f"w1 {CLUSTER} worker {VERSION}".encode()
    talker.respond(hello, "ok", "Client w1 added")


@pytest.mark.parametrize(
    ("serve", "kind", "name", "text"),
    [
        (take, "ok", "", "takes this node"),
        (hang_up, "key", "wrong key", "another cluster key"),
        (speak_http, "protocol", "not a cluster port", "it speaks HTTP"),
        (refuse(3028), "refused", "duplicate name", 'our node_name is "w1"'),
        (refuse(3030), "refused", "wrong cluster", f'our cluster name is "{CLUSTER}"'),
        (refuse(3031), "refused", "wrong version", f"our version is {VERSION}"),
    ],
)
def test_a_try_at_the_masters_port_says_what_is_wrong(
    worker: Settings,
    port: Callable[[Callable[[socket.socket], None]], Address],
    serve: Callable[[socket.socket], None],
    kind: str,
    name: str,
    text: str,
) -> None:
    found = probe(worker, port(serve), timeout_s=30)
    assert (found.kind, text in found.text) == (kind, True), found
    if name:
        assert cluster._finding(found).name == name


def test_a_port_that_says_nothing_or_is_closed_or_has_no_name(
    worker: Settings, port: Callable[[Callable[[socket.socket], None]], Address]
) -> None:
    done = threading.Event()
    silent = port(lambda sock: done.wait(30) and None)  # type: ignore[func-returns-value]
    assert probe(worker, silent, timeout_s=0.2).kind == "time-out"
    done.set()
    assert probe(worker, Address("127.0.0.1", free_port())).kind == "port"
    assert probe(worker, Address("nowhere.invalid", 1516)).kind == "address"


# ---- files and disks -------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can look as another user")
def test_files_that_the_nodes_user_cannot_read_are_named(worker: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = Owner("nobody", 65534, 65534)
    monkeypatch.setattr(files, "owner_of", lambda settings: nobody)
    for path in [Path(worker.root), *Path(worker.root).parents]:
        if path.owner() == "root" and path != Path("/") and not path.stat().st_mode & 1:
            monkeypatch.setattr(files, "tree_problem", lambda root: None)
            path.chmod(path.stat().st_mode | 0o5)
    for directory, _, _ in os.walk(worker.root):
        os.chmod(directory, 0o777)
    rule = Path(worker.root, "etc/rules/local.xml")
    rule.write_text("<group/>")
    rule.chmod(0o600)
    found = named(files.rights(worker))
    assert found["unreadable file"].what == f"nobody cannot read {rule}"
    assert "owner without rights" not in found
    rule.chmod(0o644)
    assert not named(files.rights(worker))


def test_missing_directory_is_a_matter_of_rights(worker: Settings) -> None:
    Path(worker.root, "logs").rmdir()
    assert "logs is missing" in named(files.rights(worker))["owner without rights"].what


def test_mounted_files_are_told_from_directories_and_others(
    worker: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounted = Path(worker.root, "etc/rules/a b.xml")
    mounted.write_text("x")
    lines = [f"1 2 0:1 / {point} rw - tmpfs tmpfs rw" for point in ("/", f"{worker.root}/etc/rules", "/etc/hosts")]
    lines.append(f"1 2 0:1 /x {worker.root}/etc/rules/a\\040b.xml rw - ext4 /dev/sda rw")
    (tmp_path / "mountinfo").write_text("\n".join(lines) + "\n")
    assert files.mounted_files(worker, str(tmp_path / "mountinfo")) == [str(mounted)]
    assert files.mounted_files(worker, str(tmp_path / "none")) == []
    monkeypatch.setattr(files, "mounted_files", lambda settings: [str(mounted)])
    found = named(files.links_and_mounts(worker))["mounted file"]
    assert (str(mounted) in found.what, found.is_fault) == (True, False)


def test_link_that_is_not_followed_is_named(worker: Settings, tmp_path: Path) -> None:
    (tmp_path / "elsewhere.xml").write_text("x")
    Path(worker.root, "etc/rules/linked.xml").symlink_to(tmp_path / "elsewhere.xml")
    assert "linked.xml" in named(files.links_and_mounts(worker))["linked file"].what


def test_full_disk_and_no_inodes_are_named(worker: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path) -> os.statvfs_result:
        #        bsize frsize blocks bfree bavail files ffree favail flag namemax
        return os.statvfs_result((4096, 4096, 1 << 24, 100, 100, 1000, 5, 5, os.ST_RDONLY, 255))

    monkeypatch.setattr(files.os, "statvfs", full)
    assert set(named(files.disks(worker))) == {"disk full", "inodes used up", "disk read-only"}


def certificate(path: Path, ends: datetime) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "m")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(ends - timedelta(days=100))
        .not_valid_after(ends)
        .sign(key, hashes.SHA256())
    )
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM))


@pytest.mark.parametrize(("days", "name"), [(-1, "certificate expired"), (10, "certificate expires soon"), (90, None)])
def test_certificate_is_looked_at(master: Settings, days: int, name: str | None) -> None:
    from msgspec.structs import replace

    api = replace(master.clusterd.api, enabled=True)
    settings = replace(master, clusterd=replace(master.clusterd, api=api))
    certificate(Path(master.root, api.cert), datetime.now(UTC) + timedelta(days=days, hours=1))
    assert list(named(files.certificates(settings))) == ([name] if name else [])


def test_damaged_or_locked_database_is_named(master: Settings) -> None:
    path = Path(master.root, "queue/db/global.db")
    assert not named(files.databases(master))
    with sqlite3.connect(path) as database:
        database.execute("create table agent (id integer)")
    database.close()
    assert not named(files.databases(master))
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("pragma locking_mode = exclusive")
    holder.execute("begin exclusive")
    assert "store locked" in named(files.databases(master))
    holder.close()
    path.write_bytes(b"this is no database" * 1000)
    assert "database damaged" in named(files.databases(master))


# ---- the machine -----------------------------------------------------------------------------------------------------


def test_limits_of_the_machine_are_named(master: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "low").write_text("3\n")
    monkeypatch.setattr(system, "WATCHES", str(tmp_path / "low"))
    monkeypatch.setattr(system, "INSTANCES", str(tmp_path / "low"))
    monkeypatch.setattr(system, "_descriptors", lambda root: 64)
    found = list(system.limits(master))
    assert [one.name for one in found][:3] == ["inotify limit", "inotify limit", "low ulimit"]


def test_hidden_processes_of_others_are_a_note(master: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system.os, "access", lambda path, mode: True)
    assert "/proc hidden" not in named(system.limits(master))
    monkeypatch.setattr(system.os, "access", lambda path, mode: False)
    assert not named(system.limits(master))["/proc hidden"].is_fault


def test_taken_monitoring_port_is_a_note(master: Settings) -> None:
    own = msgspec.structs.replace(master.clusterd, monitor=MonitorSettings(port=free_port()))
    master = msgspec.structs.replace(master, clusterd=own)
    assert "monitoring port taken" not in named(system.processes(master))
    with socket.create_server(("127.0.0.1", own.monitor.port)):
        found = named(system.processes(master))["monitoring port taken"]
    assert (found.is_fault, str(own.monitor.port) in found.what) == (False, True)
    assert "clusterd.monitor.port" in found.cure


def test_taken_port_is_named_with_its_program(master: Settings) -> None:
    assert "port taken" not in named(system.processes(master))
    with socket.create_server(("127.0.0.1", master.cluster.port)):
        what = named(system.processes(master))["port taken"].what
    assert "Address already in use" in what


def test_stale_pid_file_and_stock_daemon_are_named(master: Settings) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    Path(master.root, f"var/run/wazuh-clusterd-{gone.pid}.pid").touch()
    found = named(system.processes(master))
    assert not found["stale pid file"].is_fault
    script = Path(master.root, "framework/scripts/wazuh-clusterd.py")
    script.parent.mkdir(parents=True)
    script.write_text("import sys; sys.stdin.read()")
    stock = subprocess.Popen([sys.executable, str(script)], stdin=subprocess.PIPE)
    try:
        wait_until(lambda: "stock daemon runs beside" in named(system.processes(master)), "it is found")
    finally:
        assert stock.stdin is not None
        stock.stdin.close()
        stock.wait(30)


# ---- what the node says ----------------------------------------------------------------------------------------------


def status(**given: Any) -> dict[str, Any]:
    healthy: dict[str, Any] = {
        "running": True,
        "root": "/var/ossec",
        "problem": "",
        "problems": {},
        "peers": [],
        "manifest": {"files": 8},
        "agents": {"problem": None},
        "node": {"name": "m", "type": "master"},
        "workers": [],
        "refused": [],
        "results": {},
        "left_out": {},
        "clocks": {},
        "framework": {"state": "absent", "reason": "no framework is installed", "mode": "auto", "helpers": []},
    }
    return healthy | given


def refused(reason: str) -> dict[str, Any]:
    return {"refused": [{"name": "w3", "address": "10.0.0.7", "reason": reason}]}


def row(**given: Any) -> dict[str, Any]:
    return {"result": "equal", "detail": "", "lag_s": None, "problems": {}} | given


@pytest.mark.parametrize(
    ("facts", "name"),
    [
        ({"workers": [{"name": "w2", "state": "lost", "lost_s": 55.0, "address": "10.0.0.8"}]}, "worker lost"),
        (refused('cluster name "wazu", ours is "wazuh"'), "wrong cluster"),
        (refused("version 4.14.0, ours is 4.14.1"), "wrong version"),
        (refused("the node at 10.0.0.9 is connected under this name: give one of them another"), "duplicate name"),
        (refused("what it sends is not sealed with our key: compare <key>"), "wrong key"),
        ({"results": {"w1": row(lag_s=300.0, detail="disk full")}}, "worker behind"),
        ({"results": {"w1": row(problems={"etc/rules/a.xml": "is too large"})}}, "file not sent"),
        ({"problems": {"store": "the database cannot be read"}}, "database damaged"),
        ({"agents": {"problem": "no answer within 0.8 s"}}, "store locked"),
        ({"manifest": {"failure": "etc/rules: Permission denied"}}, "scan fails"),
        ({"manifest": {"withheld": 40}}, "deletions wait"),
        ({"peers": None, "problem": "no answer"}, "node does not answer"),
    ],
)
def test_each_fault_that_a_running_node_knows_is_named(facts: dict[str, Any], name: str, tmp_path: Path) -> None:
    shown = status(**facts)
    found = [*cluster.node(shown), *(cluster.workers(str(tmp_path), shown) if shown["peers"] is not None else ())]
    assert [one.name for one in found if one.is_fault] == [name]
    assert all(one.cure for one in found)


def test_other_keys_of_a_worker_that_is_behind_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        cluster.syncing, "difference", lambda root, name: {"missing": [], "shared": ["etc/client.keys"], "extra": []}
    )
    found = named(cluster.workers(str(tmp_path), status(results={"w1": row(lag_s=300.0)})))
    assert set(found) == {"worker behind", "keys differ"}


def test_healthy_node_has_no_fault() -> None:
    assert list(cluster.node(status())) == []
    assert list(cluster.workers("/nowhere", status(results={"w1": row()}))) == []


# ---- the command -----------------------------------------------------------------------------------------------------


def test_check_config_connect_tries_what_only_a_try_shows(worker: Settings, master: Settings) -> None:
    def check(settings: Settings) -> Any:
        return CliRunner().invoke(command, ["--root", settings.root, "check-config", "--connect"])

    assert check(master).exit_code == 0
    conf = Path(worker.root, "etc/ossec.conf")
    conf.write_text(conf.read_text().replace("<port>1516<", f"<port>{free_port()}<"))
    done = check(worker)
    assert done.exit_code == 1
    assert "closed port: 127.0.0.1:" in done.output
    assert "The configuration is good." not in done.output


def test_command_names_faults_and_its_code_says_whether_there_are_any(master: Settings) -> None:
    run = CliRunner().invoke(command, ["--root", master.root, "doctor", "--json"])
    rows = {one["name"]: one for one in json.loads(run.output)}
    assert not rows["not running"]["is_fault"]
    conf = Path(master.root, "etc/ossec.conf")
    conf.write_text(conf.read_text().replace("<key>", "<key>x"))
    run = CliRunner().invoke(command, ["--root", master.root, "doctor"])
    assert run.exit_code == 1
    assert "FAULT  short key" in run.output


# ---- what nodes tell each other --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("why", "cure"),
    [
        ("[Errno 16] is a mount point: only who mounted it can remove it", "unmount etc/rules/a.xml on w1"),
        ("is a link that leads out of its directory", "clusterd.link_targets"),
        ("[Errno 13] Permission denied", "give etc/rules/a.xml and its directory to the user"),
        ("[Errno 28] No space left on device", "make room on the disk of w1"),
        ("[Errno 30] Read-only file system", "mount -o remount,rw"),
        ("something new", "look at etc/rules/a.xml on w1"),
    ],
)
def test_file_that_a_node_leaves_out_is_named_with_its_reason(why: str, cure: str) -> None:
    left_out = {"w1": {"count": 9, "files": {"etc/rules/a.xml": why}, "at": 1.0}}
    found = list(cluster.left_out(status(left_out=left_out)))
    assert [one.name for one in found] == ["file left out"] * 2
    assert found[0].what == f"etc/rules/a.xml on w1: {why}"
    assert cure in found[0].cure
    assert found[1].what == "4 more files on w1"
    of_worker = status(node={"name": "w2", "type": "worker"}, left_out=left_out)
    assert list(cluster.left_out(of_worker)) == []


def test_clock_difference_names_both_clocks() -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC).timestamp()
    row = {"offset_s": -95.0, "off_by_s": 0.01, "at": at}
    found = named(cluster.clocks(status(clocks={"w1": row, "w2": row | {"offset_s": 1.5}})))
    assert found["clock difference"].what == (
        "the clock of w1 is 95 s behind this node's: 03:02:30 UTC there, 03:04:05 UTC here"
    )
    assert len(found) == 1


@pytest.mark.slow
def test_clock_difference_of_two_nodes_is_found_on_both(make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = make_rig(1, run=run_program)
    rig.start(rig.master.name)
    (worker,) = rig.workers

    def found(node: RigNode) -> Finding | None:
        return named(cluster.clocks(StatusReader(str(node.root)).read())).get("clock difference")

    with guarded("hook-") as place, hooked(monkeypatch, place) as page:
        page.shift_clock(-95)
        rig.start(worker.name)
        wait_until(lambda: found(rig.master) and found(worker), "both have compared their clocks")
        on_master, on_worker = found(rig.master), found(worker)
        assert on_master is not None
        assert on_worker is not None
        assert f"the clock of {worker.name} is 95 s behind this node's" in on_master.what
        assert "is 95 s ahead of this node's" in on_worker.what
        rig.stop(worker.name)


READY = {"state": "ready", "reason": None, "version": "4.14.1", "missing": {}, "mode": "auto", "helpers": []}


@pytest.mark.parametrize(
    ("mode", "facts", "name", "is_fault"),
    [
        ("on", {"state": "absent", "reason": "x"}, "framework not found", True),
        ("auto", {"state": "absent", "reason": "x"}, None, False),
        ("auto", {"state": "failed", "reason": "it ends at once"}, "framework fails", True),
        ("auto", {"version": "4.13.0"}, "framework of another version", True),
        ("auto", {"version": "v4.14.1"}, None, False),
        ("auto", {"missing": {"wazuh.agent.get_agents": "ImportError"}}, "framework lacks functions", False),
        ("auto", {}, None, False),
        ("off", {"state": "off"}, None, False),
    ],
)
def test_framework_that_is_missing_or_fails_is_named(
    worker: Settings, mode: Any, facts: dict[str, Any], name: str | None, is_fault: bool
) -> None:
    from msgspec.structs import replace

    own = replace(worker.clusterd, framework=replace(worker.clusterd.framework, mode=mode))
    found = list(services.framework(replace(worker, clusterd=own), status(framework=READY | facts)))
    assert [(one.name, one.is_fault) for one in found] == ([(name, is_fault)] if name else [])


def test_framework_is_looked_for_where_the_node_does_not_run(worker: Settings) -> None:
    Path(worker.root, "framework").mkdir()
    (found,) = services.framework(worker, status(running=False))
    assert (found.name, found.is_fault) == ("framework not found", False)
    assert "is not there" in found.what


@pytest.mark.parametrize(
    ("nodes", "is_fault"),
    [({}, True), ({"m": {"never_connected": 2}}, False), ({"m": {"never_connected": 1, "active": 1}}, None)],
)
def test_keys_without_agents_are_named(master: Settings, nodes: dict[str, Any], is_fault: bool | None) -> None:
    shown = status(agents={"problem": None, "nodes": nodes})
    Path(master.root, "etc/client.keys").write_text(f"001 a any {'a' * 64}\n002 b any {'b' * 64}\n")
    found = list(services.registrations(master, shown))
    assert [one.is_fault for one in found] == ([] if is_fault is None else [is_fault])
    assert [one.name for one in found] == ([] if is_fault is None else ["registration without agents"])
    Path(master.root, "etc/client.keys").write_text("")
    assert not list(services.registrations(master, shown))
