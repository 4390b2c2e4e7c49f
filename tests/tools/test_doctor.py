"""`clusterd doctor`: findings about the master's port, files, disks and the machine."""

import contextlib
import os
import resource
import shutil
import socket
import sqlite3
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from clusterd.net.dial import Address
from clusterd.settings import MonitorSettings, Settings, Tls
from clusterd.supervisor.privileges import Owner
from tests.election.certificates import Authority
from tests.net.harness import CLUSTER, KEY, VERSION, Talker, wait_until
from tests.tools.doctored import certificate, named
from tools.doctor import cluster, files, system
from tools.probe import probe
from tools.rig.peer import exception_json
from tools.rig.ports import free_port


@pytest.fixture
def port() -> Iterator[Callable[[Callable[[socket.socket], None]], Address]]:
    """Listens on a port and treats the first connection as the test says."""
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


# ---- the master's port -----------------------------------------------------------------------------------------------


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


def test_a_port_that_is_silent_or_closed_or_whose_name_does_not_resolve(
    worker: Settings, port: Callable[[Callable[[socket.socket], None]], Address]
) -> None:
    done = threading.Event()
    silent = port(lambda sock: done.wait(30) and None)  # type: ignore[func-returns-value]
    assert probe(worker, silent, timeout_s=0.2).kind == "silent"
    done.set()
    assert probe(worker, Address("127.0.0.1", free_port())).kind == "port"
    assert probe(worker, Address("nowhere.invalid", 1516)).kind == "address"
    assert probe(worker, Address("127.255.255.255", 1516)).kind == "route"  # a broadcast: no TCP goes there
    assert "(localhost is " in probe(worker, Address("localhost", free_port())).text


def test_port_to_which_no_packet_comes_through_is_a_firewall(worker: Settings) -> None:
    """As behind a packet filter, SYN is not answered: two connections fill the line of those that wait."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server, contextlib.ExitStack() as waiting:
        for _ in range(2):
            sock = waiting.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(server.getsockname())
        found = probe(worker, Address("127.0.0.1", server.getsockname()[1]), timeout_s=0.2)
    assert (found.kind, "a firewall" in found.text) == ("time-out", True)


def test_http_server_that_waits_for_a_line_is_named(worker: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hello is no line: most servers say nothing to it, as a master that hangs. `doctor` then asks in HTTP."""
    monkeypatch.setattr("tools.probe.random.getrandbits", lambda bits: 0x0A0A0A)  # as any hello may have it
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            for _ in range(2):
                sock, _ = server.accept()
                with sock, sock.makefile("rb") as lines:
                    if next((line for line in lines if line.startswith(b"GET ")), b""):
                        sock.sendall(b"HTTP/1.0 404 Not Found\r\n\r\n")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        found = probe(worker, Address("127.0.0.1", server.getsockname()[1]), timeout_s=2)
        thread.join(30)
    assert (found.kind, "it speaks HTTP" in found.text) == ("protocol", True)


def test_silent_master_behind_tls_is_no_wrong_port(worker: Settings, tmp_path: Path) -> None:
    """As behind a balancer that ends TLS itself and has no master: the handshake is good, and nothing follows."""
    cert, key = Authority(tmp_path, "a").issue("m", "127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    settings = msgspec.structs.replace(
        worker, clusterd=msgspec.structs.replace(worker.clusterd, tls=Tls(enabled=True, verify=False))
    )
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)

        def serve() -> None:
            sock, _ = server.accept()
            with context.wrap_socket(sock, server_side=True):
                with contextlib.suppress(OSError):  # there is none
                    other, _ = server.accept()
                    with other:
                        other.recv(1024)
                        other.sendall(b"\x15\x03\x03\x00\x02\x02\x46")  # an alert, as of balancers in Go
                done.wait(30)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        found = probe(settings, Address("127.0.0.1", server.getsockname()[1]), timeout_s=1)
        server.shutdown(socket.SHUT_RDWR)
        done.set()
        thread.join(30)
    assert (found.kind, "does not answer hello" in found.text) == ("silent", True), found


def test_certificate_that_this_worker_does_not_accept_is_no_matter_of_switching_tls_on(
    worker: Settings, tmp_path: Path
) -> None:
    cert, key = Authority(tmp_path, "theirs").issue("m", "127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    tls = Tls(enabled=True, ca=str(Authority(tmp_path, "ours").ca))
    settings = msgspec.structs.replace(worker, clusterd=msgspec.structs.replace(worker.clusterd, tls=tls))
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)

        def serve() -> None:
            sock, _ = server.accept()
            with contextlib.suppress(OSError), context.wrap_socket(sock, server_side=True):
                pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        found = probe(settings, Address("127.0.0.1", server.getsockname()[1]))
        thread.join(30)
    assert (found.kind, "is not accepted here: " in found.text) == ("certificate", True), found
    assert "server_name" in cluster._finding(found).cure


def test_master_with_tls_where_this_worker_has_none_is_no_matter_of_keys(worker: Settings, tmp_path: Path) -> None:
    cert, key = Authority(tmp_path, "a").issue("m", "127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)

        def serve() -> None:
            for _ in range(2):
                sock, _ = server.accept()
                with contextlib.suppress(OSError), context.wrap_socket(sock, server_side=True):
                    pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        found = probe(worker, Address("127.0.0.1", server.getsockname()[1]))
        thread.join(30)
    assert (found.kind, "speaks TLS, and clusterd.tls is off on this node" in found.text) == ("tls", True), found


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
    Path(worker.root, "etc/ossec.conf").chmod(0o644)
    for relative in ("etc/rules/local.xml", "etc/cluster.json"):  # the latter is read again at a reload
        path = Path(worker.root, relative)
        path.write_text("{}")
        path.chmod(0o600)
        found = named(files.rights(worker))
        assert found["unreadable file"].what == f"nobody cannot read {path}"
        assert "owner without rights" not in found
        path.chmod(0o644)
        assert not named(files.rights(worker))


def test_missing_directory_is_a_matter_of_rights(worker: Settings) -> None:
    Path(worker.root, "logs").rmdir()
    found = named(files.rights(worker))["owner without rights"]
    assert ("logs is missing" in found.what, "install -d" in found.cure) == (True, True)


def test_mounted_files_are_distinguished_from_directories_and_others(
    worker: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounted = Path(worker.root, "etc/rules/a b.xml")
    mounted.write_text("x")
    lines = [f"1 2 0:1 / {point} rw - tmpfs tmpfs rw" for point in ("/", f"{worker.root}/etc/rules", "/etc/hosts")]
    lines += [f"1 2 0:1 /x {worker.root}/etc/rules/a\\040b.xml rw - ext4 /dev/sda rw", "1 2 0:1 / /\udcff rw - x x rw"]
    (tmp_path / "mountinfo").write_text("\n".join(lines) + "\n", errors="surrogateescape")
    assert files.mounted_files(worker, str(tmp_path / "mountinfo")) == [str(mounted)]
    assert files.mounted_files(worker, str(tmp_path / "none")) == []
    monkeypatch.setattr(files, "mounted_files", lambda settings: [str(mounted)])
    found = named(files.links_and_mounts(worker))["mounted file"]
    assert (str(mounted) in found.what, found.is_fault) == (True, False)


def test_link_that_is_not_followed_is_named(worker: Settings, tmp_path: Path) -> None:
    (tmp_path / "elsewhere.xml").write_text("x")
    Path(worker.root, "etc/rules/linked.xml").symlink_to(tmp_path / "elsewhere.xml")
    assert "linked.xml" in named(files.links_and_mounts(worker))["linked file"].what


#       bsize frsize blocks bfree bavail files ffree favail flag namemax
FULL = (4096, 4096, 1 << 24, 100, 100, 1000, 5, 5, 0, 255)


def test_full_disk_and_no_inodes_are_named(worker: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files.os, "statvfs", lambda path: os.statvfs_result(FULL))
    assert [one.name for one in files.disks(worker)] == ["disk full", "inodes used up"]


def test_read_only_disk_is_named_once_for_each_mount(worker: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its paths are named with it, and the cure names what can be mounted again: the mount point."""
    monkeypatch.setattr(files.os, "statvfs", lambda path: os.statvfs_result((*FULL[:8], os.ST_RDONLY, 255)))
    points = {"logs": f"{worker.root}/logs"}
    monkeypatch.setattr(files, "mount_of", lambda path: points.get(path.name, "/the disk"))
    found = {one.cure: one.what for one in files.disks(worker) if one.name == "disk read-only"}
    others = ", ".join(f"{worker.root}/{place}" for place in ("queue/cluster", "etc", "queue/db"))
    assert found == {
        "see dmesg; then mount -o remount,rw '/the disk'": f"/the disk is mounted read-only, and with it {others}",
        f"see dmesg; then mount -o remount,rw {worker.root}/logs": f"{worker.root}/logs is mounted read-only",
    }


def test_mount_of_a_path_is_the_nearest_one_above_it(tmp_path: Path) -> None:
    (tmp_path / "a b/logs").mkdir(parents=True)
    (tmp_path / "linked").symlink_to("a b/logs")
    points = ("/", f"{tmp_path}/a\\040b", f"{tmp_path}/a\\040b/log")
    (tmp_path / "mountinfo").write_text("".join(f"1 2 0:1 / {point} rw - ext4 /dev/sda rw\n" for point in points))
    for path, point in ((tmp_path / "linked", f"{tmp_path}/a b"), (tmp_path, "/")):
        assert files.mount_of(path, str(tmp_path / "mountinfo")) == point
    assert files.mount_of(tmp_path, str(tmp_path / "none")) == str(tmp_path)


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
    assert not named(files.databases(master, is_in_use=True))  # by the node, for a moment
    holder.close()
    path.write_bytes(b"this is no database" * 1000)
    assert "database damaged" in named(files.databases(master))
    assert "database damaged" in named(files.databases(master, is_in_use=True))
    odd = Path(master.root, "a%41?b#c")
    (odd / "queue/db").mkdir(parents=True)
    path.rename(odd / "queue/db/global.db")
    assert "database damaged" in named(files.databases(msgspec.structs.replace(master, root=str(odd))))
    path.mkdir()
    assert named(files.databases(master))["store cannot be used"].what == f"{path} is no file"


# ---- the machine -----------------------------------------------------------------------------------------------------


def test_look_of_another_user_leaves_no_files_beside_the_database(
    master: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would be that user's, and the node could not open its database."""
    path = Path(master.root, "queue/db/global.db")
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("pragma journal_mode = wal")
        database.execute("create table agent (id integer)")
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert not named(files.databases(master))
    assert [one.name for one in path.parent.iterdir()] == [path.name]
    path.write_bytes(b"this is no database" * 1000)
    assert "database damaged" in named(files.databases(master))


def test_database_on_a_full_disk_is_not_called_damaged(master: Settings, tmp_path: Path) -> None:
    """As after a node that was killed: SQLite goes through what is in the -wal, and has no room for it."""
    path = Path(master.root, "queue/db/global.db")
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(tmp_path / "a")) as database:
        database.execute("pragma journal_mode = wal")
        database.execute("create table agent (id integer)")
        database.commit()
        shutil.copy(tmp_path / "a", path)
        shutil.copy(tmp_path / "a-wal", f"{path}-wal")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        found = list(files.databases(master))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [(one.name, "renew" in one.cure) for one in found] == [("store cannot be used", False)], found


def test_limits_of_the_machine_are_named(master: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("fs/inotify/max_user_", 100_000), ("user/max_inotify_", 3)):  # as in a container
        (tmp_path / name).parent.mkdir(parents=True)
        for kind in ("watches", "instances"):
            (tmp_path / f"{name}{kind}").write_text(f"{value}\n")
    monkeypatch.setattr(system, "SYSCTLS", str(tmp_path))
    monkeypatch.setattr(system, "_descriptors", lambda root: 64)
    found = list(system.limits(master))
    assert [one.name for one in found][:3] == ["inotify limit", "inotify limit", "low ulimit"]
    assert [one.cure.split("=")[0] for one in found[:2]] == [
        "sysctl user.max_inotify_watches",
        "sysctl user.max_inotify_instances",
    ]


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


def test_taken_port_of_the_rest_api_is_a_fault(master: Settings) -> None:
    api = msgspec.structs.replace(master.clusterd.api, enabled=True, host="127.0.0.1", port=free_port())
    master = msgspec.structs.replace(master, clusterd=msgspec.structs.replace(master.clusterd, api=api))
    assert "REST API port taken" not in named(system.processes(master))
    with socket.create_server(("127.0.0.1", api.port)):
        found = named(system.processes(master))["REST API port taken"]
    assert (found.is_fault, str(api.port) in found.what) == (True, True)


def test_taken_port_is_named_with_its_program(master: Settings) -> None:
    assert "port taken" not in named(system.processes(master))
    with socket.create_server(("127.0.0.1", master.cluster.port)):
        what = named(system.processes(master))["port taken"].what
    assert "Address already in use" in what


def test_stale_pid_file_and_stock_daemon_are_named(master: Settings) -> None:
    gone = subprocess.Popen(["true"])
    Path(master.root, f"var/run/wazuh-clusterd-{gone.pid}.pid").touch()
    os.waitid(os.P_PID, gone.pid, os.WEXITED | os.WNOWAIT)
    assert "stale pid file" in named(system.processes(master))  # a zombie: who started it has not collected it yet
    gone.wait()
    found = named(system.processes(master))
    assert not found["stale pid file"].is_fault
    not_running = {"running": False, "root": master.root, "problem": "clusterd is not running at X."}
    assert named(cluster.node(not_running))["not running"].is_fault
    assert not named(cluster.node(not_running | {"root": "/nowhere"}))["not running"].is_fault
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
