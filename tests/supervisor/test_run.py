"""The supervisor with real forks and fake children: starts, stops, and everything between."""

import json
import os
import signal
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from clusterd.exits import ExitCode
from clusterd.pidfile import running_pid
from clusterd.supervisor.child import reap_orphans
from clusterd.supervisor.family import Family
from tests.supervisor.conftest import FakeNode, killed_and_back
from tests.supervisor.helpers import until

pytestmark = pytest.mark.slow
CONFIGURATION = (
    f"<ossec_config><cluster><node_name>fake</node_name><key>{'k' * 32}</key><nodes><node>10.0.0.1</node></nodes>"
    "</cluster></ossec_config>"
)


def test_node_serves_with_every_child_ready(node: FakeNode) -> None:
    node.serve()

    assert [node.row(name).state for name in ("supervisor", "net", "sync", "pool-1", "pool-2")] == ["ready"] * 5
    assert node.row("supervisor").pid == node.pid
    assert "INFO: [Cluster] [Supervisor] The node serves: master fake of cluster wazuh, pid" in node.log
    assert {child.pid for child in psutil.Process(node.pid).children()} == {
        node.row(name).pid for name in ("net", "sync", "pool-1", "pool-2")
    }


def test_supervisor_has_one_thread_and_few_descriptors(node: FakeNode) -> None:
    node.serve()
    supervisor = psutil.Process(node.pid)
    descriptors = supervisor.num_fds()

    for _ in range(3):
        killed_and_back(node, "pool-1")

    assert supervisor.num_threads() == 1
    assert supervisor.num_fds() == descriptors


def test_child_inherits_neither_descriptors_of_its_sisters_nor_the_terminal_group(node: FakeNode) -> None:
    node.serve()
    killed_and_back(node, "net")

    pid = node.row("net").pid
    links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
    assert not [link for link in links if "pidfd" in link]
    assert os.getpgid(pid) == pid


def test_stop_ends_net_then_sync_then_pool_and_leaves_nothing(node: FakeNode) -> None:
    node.serve()
    (node.root / "queue/cluster/.clusterd/spool/1-part").write_text("bytes")
    (node.root / "queue/cluster/.clusterd/state/manifest-x").write_text("kept")
    node.signal(signal.SIGTERM)

    assert node.wait() == ExitCode.OK
    terms = [line for line in node.story if line.startswith("term")]
    assert terms[:2] == ["term net", "term sync"]
    assert sorted(terms[2:]) == ["term pool-1", "term pool-2"]
    assert "INFO: [Cluster] [Main] SIGNAL [(15)-(SIGTERM)] received. Exit...\n" in node.log
    assert node.left() == []
    assert (node.root / "queue/cluster/.clusterd/state/manifest-x").read_text() == "kept"


def test_interrupt_says_bye(node: FakeNode) -> None:
    node.serve()
    node.signal(signal.SIGINT)

    assert node.wait() == ExitCode.OK
    assert "INFO: [Cluster] [Main] SIGINT received. Bye!\n" in node.log
    assert node.left() == []


def test_child_that_ignores_sigterm_is_killed_after_its_time(node: FakeNode) -> None:
    node.behave("sync", "deaf")
    node.serve()
    node.signal(signal.SIGTERM)

    assert node.wait() == ExitCode.OK
    assert "Did not end in 0 s and is killed: sync." in node.log
    assert node.story.index("term sync") < node.story.index("term pool-1")
    assert node.left() == []


def test_second_stop_signal_kills_at_once(node: FakeNode) -> None:
    node.behave("net", "deaf")
    node.serve()
    node.signal(signal.SIGTERM)
    until(lambda: "term net" in node.story, "net was asked")
    node.signal(signal.SIGTERM)

    assert node.wait() == ExitCode.OK
    assert node.left() == []


def test_stop_during_the_start_ends_everything(node: FakeNode) -> None:
    node.behave("net", "late")
    node.start()
    until(lambda: "up net 1" in node.story, "net was forked")
    node.signal(signal.SIGTERM)

    assert node.wait() == ExitCode.OK
    assert node.left() == []


def test_the_pool_hears_of_a_reload_before_sync_gives_it_work_by_the_new_settings() -> None:
    told: list[str] = []

    def child(name: str) -> Any:
        return SimpleNamespace(child=SimpleNamespace(send=lambda number: told.append(name)))

    family = Family.__new__(Family)
    family._slots = [child(name) for name in ("net", "sync", "pool-1")]  # as they stop
    family.send_all(signal.SIGHUP)
    assert told == ["pool-1", "sync", "net"]


def test_systemd_hears_the_end_of_every_reload(node: FakeNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A configuration that cannot even be looked at must not leave the unit reloading for ever."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        node.serve()
        serving = systemd.recv(1000)
        assert serving.startswith(b"READY=1\nSTATUS=master fake of cluster wazuh\n")
        (node.root / "etc/ossec.conf").write_text(CONFIGURATION)
        tls = {"enabled": True, "cert": "x" * 300}
        (node.root / "etc/cluster.json").write_text(json.dumps({"clusterd": {"tls": tls}}))
        node.signal(signal.SIGHUP)
        assert systemd.recv(1000).startswith(b"RELOADING=1\n")
        assert systemd.recv(1000) == serving
    assert "The configuration was not reloaded" in node.log


def test_child_that_cannot_start_ends_the_node_with_its_reason(node: FakeNode) -> None:
    node.behave("net", "refuse port 1516 is taken: another program listens there")
    node.start()

    assert node.wait() == ExitCode.COULD_NOT_START
    reason = "net could not start: port 1516 is taken: another program listens there"
    assert node.log.count(reason) == 1
    assert f"ERROR: [Cluster] [Supervisor] The node could not start: {reason}\n" in node.log
    assert (node.root / "stderr").read_text().splitlines()[-1] == f"clusterd: {reason}"
    assert node.left() == []


def test_first_process_of_a_container_waits_for_orphans_and_leaves_its_own_children_alone() -> None:
    """In a process of its own: this one has other children."""
    first = os.fork()
    if first == 0:
        code = 1
        try:
            ours = os.posix_spawn("/bin/sleep", ["sleep", "600"], {})
            orphan = os.posix_spawn("/bin/true", ["true"], {})

            def is_gone() -> bool:
                reap_orphans({ours})
                return not psutil.pid_exists(orphan)

            until(is_gone, "the orphan is waited for")
            os.kill(ours, signal.SIGKILL)
            until(lambda: psutil.Process(ours).status() == psutil.STATUS_ZOMBIE, "it has ended")
            reap_orphans({ours})
            code = 0 if os.waitpid(ours, 0) == (ours, signal.SIGKILL) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(first, 0)[1]) == 0


def test_node_that_is_never_ready_gives_up_and_names_the_late_process(node: FakeNode) -> None:
    node.behave("pool-2", "late")
    node.start(start_s=0.5)

    assert node.wait() == ExitCode.COULD_NOT_START
    assert "pool-2" in (node.root / "stderr").read_text().splitlines()[-1]
    assert node.left() == []


def test_killed_supervisor_takes_its_children_along(node: FakeNode) -> None:
    node.serve()
    children = [node.row(name).pid for name in ("net", "sync", "pool-1", "pool-2")]
    os.kill(children[1], signal.SIGSTOP)
    node.signal(signal.SIGKILL)
    node.wait()

    until(lambda: not any(psutil.pid_exists(pid) for pid in children), "no child is left")


def test_start_after_a_kill_cleans_what_was_left(node: FakeNode) -> None:
    node.serve()
    node.signal(signal.SIGKILL)
    killed = node.pid
    node.wait()
    cluster = node.root / "queue/cluster"
    (cluster / "c-internal.sock").write_text("stale")
    (cluster / "worker1" / "old").mkdir(parents=True)
    (cluster / ".clusterd/spool/3-package").write_text("stale")
    (node.root / "logs/cluster.log").unlink()
    (node.root / "outside").mkdir()
    (node.root / "outside/file").write_text("mine")
    (cluster / "link").symlink_to(node.root / "outside")

    node.serve()

    assert (
        f"WARNING: [Cluster] [Supervisor] An earlier clusterd was not stopped; removed wazuh-clusterd-{killed}.pid."
        in (node.log)
    )
    assert [path.name for path in cluster.iterdir()] == [".clusterd"]
    assert list((cluster / ".clusterd/spool").iterdir()) == []
    assert stat.S_IMODE((node.root / "var/run/clusterd").stat().st_mode) == 0o700
    assert (node.root / "outside/file").read_text() == "mine"


def test_second_start_names_the_pid_and_disturbs_nothing(node: FakeNode, make_node: Callable[[], FakeNode]) -> None:
    node.serve()
    board = Path(node.root, "var/run/clusterd/board").stat().st_ino
    second = make_node()
    second.root = node.root
    second.start()

    assert second.wait() == ExitCode.ALREADY_RUNNING
    assert f"clusterd: clusterd is already running with pid {node.pid}" in (node.root / "stderr").read_text()
    assert Path(node.root, "var/run/clusterd/board").stat().st_ino == board
    assert node.row("net").incarnation == 1


def test_node_whose_pid_file_is_removed_is_found_all_the_same(node: FakeNode) -> None:
    """A script that clears var/run must not make room for a second node."""
    node.serve()
    (node.root / f"var/run/wazuh-clusterd-{node.pid}.pid").unlink()
    until(lambda: running_pid(str(node.root)) == node.pid, "the file is there again")
    line = f"WARNING: [Cluster] [Supervisor] Another program has removed {node.root}/var/run/wazuh-"
    until(lambda: line in node.log, "its log says so, a moment later")
    killed_and_back(node, "sync")
    node.signal(signal.SIGTERM)
    assert node.wait() == ExitCode.OK
    assert node.left() == []


def test_restart_right_after_a_kill_works(node: FakeNode) -> None:
    for _ in range(3):
        node.serve()
        node.signal(signal.SIGKILL)
        node.wait()
        (node.root / "logs/cluster.log").unlink()


def test_lines_below_error_never_say_error(node: FakeNode) -> None:
    node.serve()
    killed_and_back(node, "net")
    node.signal(signal.SIGTERM)
    node.wait()

    for line in node.log.splitlines():
        if "ERROR:" not in line:
            assert "error" not in line.lower()
            assert "traceback" not in line.lower()


def test_a_deposed_master_serves_no_node_even_if_net_could_not_write_it_down(node: FakeNode) -> None:
    """A full disk must not keep the node a master."""
    node.behave("net", "deposed 7")
    node.start()
    until(lambda: "The role of this node is former master (leads no more, term 7 exists" in node.log, "another role")
    until(lambda: "The node serves: former master" in node.log, "it serves again")
    until(lambda: [line for line in node.story if line.startswith("up net")] == ["up net 1", "up net 2"], "it stays so")
    assert not (node.root / "queue/cluster/.clusterd/role.json").exists()


def test_a_reload_asked_for_while_the_role_changes_is_done_afterwards(node: FakeNode) -> None:
    """The supervisor takes the signal while it waits for the children of the old role."""
    node.behave("net", "deposed 7")
    node.behave("sync", "deaf")  # the change takes the time after which it is killed
    node.start()
    until(lambda: "term sync" in node.story, "the children of the old role are being ended")
    node.signal(signal.SIGHUP)
    until(lambda: "The configuration was" in node.log, "the files are read again", 20)
