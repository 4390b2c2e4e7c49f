"""`clusterd` and `wazuh-clusterd` as an operator types them: what they do, print and return."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clusterd.exits import ExitCode
from tests.conftest import MakeRig, rigs
from tests.system.new_lines import NewLines
from tests.warm import WARM
from tools.rig.faults import signal_process
from tools.rig.nodes import MARK, Rig, RigNode, run_program
from tools.rig.peer import wait_until
from tools.rig.ports import HOST

pytestmark = pytest.mark.slow

Done = subprocess.CompletedProcess[str]
STATUS_KEYS = {
    "verdict",
    "build",
    "framework",
    "log_level",
    "workers",
    "refused",
    "ha",
    "lease",
    "running",
    "problem",
    "problems",
    "at",
    "started_at",
    "root",
    "node",
    "processes",
    "net",
    "slabs",
    "spool",
    "peers",
} | {
    "manifest",
    "syncs",
    "results",
    "agents",
    "store",
    "api",
    "journal",
    "jobs",
    "monitor_url",
    "left_out",
    "left_behind",
    "clocks",
}


@pytest.fixture
def rig(make_rig: MakeRig) -> Rig:
    return make_rig(1)


@pytest.fixture(scope="module")
def pair() -> Iterator[Rig]:
    """A running master and worker, for tests that leave them as they are."""
    with rigs() as make:
        made = make(1)
        made.start()
        made.wait_equal(60)
        yield made


@contextlib.contextmanager
def changed_settings(rig: Rig) -> Iterator[None]:
    """Afterwards the master's files have what they had, and it knows."""
    paths = [rig.master.root / "etc" / name for name in ("cluster.json", "ossec.conf", "local_internal_options.conf")]
    before = {path: path.read_bytes() for path in paths if path.exists()}
    try:
        yield
    finally:
        for path in paths:
            path.unlink(missing_ok=True)
        for path, content in before.items():
            path.write_bytes(content)
        assert clusterd(rig, "reload").returncode == ExitCode.OK


def clusterd(rig: Rig, *arguments: str, node: RigNode | None = None) -> Done:
    return rig.command(node or rig.master, *arguments, timeout_s=60)


STOCK = (sys.executable, "-m", "tools.wazuh_clusterd")


def of_stock(rig: Rig) -> dict[str, str]:
    """`wazuh-clusterd` knows its root from the environment only."""
    return os.environ | {"CLUSTERD_ROOT": str(rig.master.root), MARK: str(rig.directory)}


def stock(rig: Rig, *arguments: str) -> Done:
    return WARM.capture([*STOCK, *arguments], of_stock(rig))


def status(rig: Rig, node: RigNode | None = None) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(clusterd(rig, "status", "--json", node=node).stdout)
    return found


def set_conf(node: RigNode, tag: str, value: str) -> None:
    path = node.root / "etc/ossec.conf"
    path.write_text(re.sub(f"<{tag}>.*</{tag}>", f"<{tag}>{value}</{tag}>", path.read_text()))


# ---- start and stop --------------------------------------------------------------------------------------------------


def test_start_returns_when_the_node_serves_and_stop_when_it_is_gone(rig: Rig) -> None:
    rig.run = run_program  # no fork of it (tests/warm.py)
    done = clusterd(rig, "start")
    assert (done.returncode, done.stderr) == (ExitCode.OK, "")
    found = status(rig)
    pids = {process["name"]: process["pid"] for process in found["processes"]}
    assert done.stdout == f"clusterd runs (pid {pids['supervisor']}).\n"
    assert (rig.master.root / f"var/run/wazuh-clusterd-{pids['supervisor']}.pid").exists()
    assert clusterd(rig, "stop").returncode == ExitCode.OK
    assert not rig.running()
    assert not [path for path in (rig.master.root / "var/run").rglob("*") if not path.is_dir()]
    again = clusterd(rig, "stop")
    assert (again.returncode, again.stdout) == (ExitCode.OK, f"clusterd is not running at {rig.master.root}.\n")


def test_second_start_names_the_running_daemon(pair: Rig) -> None:
    pid = next(process["pid"] for process in status(pair)["processes"] if process["name"] == "supervisor")
    done = clusterd(pair, "start")
    assert (done.returncode, done.stderr) == (
        ExitCode.ALREADY_RUNNING,
        f"clusterd: clusterd is already running with pid {pid}\n",
    )


def test_disabled_cluster_is_a_reason_not_to_start(rig: Rig) -> None:
    set_conf(rig.master, "disabled", "yes")
    done = clusterd(rig, "start")
    assert done.returncode == ExitCode.COULD_NOT_START
    assert "disabled" in done.stderr
    assert not rig.running()


def test_port_in_use_is_a_reason_not_to_start(rig: Rig) -> None:
    with socket.create_server((HOST, rig.master.port)):
        done = clusterd(rig, "start")
    assert done.returncode == ExitCode.COULD_NOT_START
    assert str(rig.master.port) in done.stderr
    assert "Traceback" not in done.stderr


def test_restart_gives_a_new_supervisor_and_bad_configuration_keeps_the_old_one(rig: Rig) -> None:
    rig.start("master")
    rig.run = run_program
    before = rig.processes("master")
    assert clusterd(rig, "restart").returncode == ExitCode.OK
    after = rig.processes("master")
    assert not set(before.values()) & set(after.values())
    set_conf(rig.master, "port", "none")
    done = clusterd(rig, "restart")
    assert done.returncode == ExitCode.BAD_CONFIGURATION
    assert "<port>" in done.stderr
    assert rig.processes("master") == after


def test_foreground_logs_to_stderr_and_ends_with_a_signal(rig: Rig) -> None:
    line = [*rig.program, "--root", str(rig.master.root), "start", "-f", "-d"]
    environment = os.environ | {MARK: str(rig.directory)}
    with subprocess.Popen(line, env=environment, stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: bool(status(rig)["running"]) and not status(rig)["problem"], 60, "the node serves")
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "[Supervisor] The node serves" in said
    assert " DEBUG: " in said
    assert not rig.running()


# ---- configuration ---------------------------------------------------------------------------------------------------


def test_check_config_shows_all_mistakes_with_their_place(rig: Rig) -> None:
    assert clusterd(rig, "check-config").returncode == ExitCode.OK
    set_conf(rig.master, "port", "99999")
    set_conf(rig.master, "node_type", "boss")
    (rig.master.root / "etc/cluster.json").write_text('{"intervals": {"worker": {"keep_alive": "x"}}, "nonsense": 1}')
    done = clusterd(rig, "check-config")
    assert done.returncode == ExitCode.BAD_CONFIGURATION
    said = done.stdout + done.stderr
    for place in ("<port>", "<node_type>", "intervals.worker.keep_alive", "nonsense"):
        assert place in said
    assert "line " in said


def test_reload_changes_the_log_level_of_all_processes_at_once(pair: Rig) -> None:
    master, lines = pair.master, NewLines(pair.master)
    before = pair.processes("master")
    assert status(pair)["node"]["needs_restart"] == []
    with changed_settings(pair):
        assert " DEBUG: " not in lines.text
        (master.root / "etc/local_internal_options.conf").write_text("wazuh_clusterd.debug=2\n")
        done = clusterd(pair, "reload")
        assert (done.returncode, done.stdout) == (ExitCode.OK, "The configuration was reloaded.\n")
        wait_until(lambda: " DEBUG: [Worker rig_manager_2] [Integrity check] " in lines.text, 60, "lines of sync")
        wait_until(lambda: " DEBUG: [Worker rig_manager_2] [Main] Command received: " in lines.text, 60, "lines of net")
        assert pair.processes("master") == before
        set_conf(master, "hidden", "yes")
        done = clusterd(pair, "reload")
        assert done.stdout == "The configuration was reloaded. These changes wait for a restart: <hidden>.\n"
        assert status(pair)["node"]["needs_restart"] == ["<hidden>"]


def test_reload_with_mistakes_changes_nothing(pair: Rig) -> None:
    with changed_settings(pair):
        (pair.master.root / "etc/cluster.json").write_text("{")
        done = clusterd(pair, "reload")
        assert done.returncode == ExitCode.BAD_CONFIGURATION
        assert "line 1" in done.stderr
        assert status(pair)["running"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["frobnicate"],
        ["start", "--bogus"],
        ["status", "--json", "extra"],
        ["init", "--type", "boss"],
        ["init", "--type", "worker", "--name", "x"],
    ],
)
def test_wrong_usage_has_its_own_code(pair: Rig, arguments: list[str]) -> None:
    done = clusterd(pair, *arguments)
    assert done.returncode == ExitCode.USAGE
    assert done.stderr.startswith("Usage: ")


# ---- status ----------------------------------------------------------------------------------------------------------


def test_status_of_a_running_node_has_all_its_keys(pair: Rig) -> None:
    rig = pair
    for node in rig.nodes:
        wait_until(lambda node=node: bool(status(rig, node)["peers"]), 60, "both know each other")  # type: ignore[misc]
        found = status(rig, node)
        assert set(found) == STATUS_KEYS
        assert found["node"]["type"] == node.kind
        assert found["build"]["build"] == found["build"]["installed"]
        keys = {"name", "pid", "incarnation", "state", "class", "silent_s", "cpu_percent", "uss_bytes", "restarts"}
        keys.add("log_lines_lost")
        assert set(found["processes"][0]) == keys
        assert [process["state"] for process in found["processes"]] == ["ready"] * 8
        classes = {process["name"]: process["class"] for process in found["processes"]}
        assert classes["pool-0"] == "background"
        assert (classes["net"], classes["sync"], classes["pool-1"]) == ("prompt", "normal", "compute")
        assert found["peers"][0]["program"] == "clusterd"
        shown = clusterd(rig, "status", node=node)
        assert shown.returncode == ExitCode.OK
        for word in (node.name, "pool-1", found["manifest"]["root_digest"][:16], "127.0.0.1"):
            assert word in shown.stdout
    archive = rig.master.root / "support.tar.gz"
    done = clusterd(rig, "support", "-o", str(archive))
    assert done.returncode == ExitCode.OK, done.stderr
    with tarfile.open(archive) as parts:
        (name,) = (name for name in parts.getnames() if name.endswith("/stacks.txt"))
        stacks = parts.extractfile(name)
        assert stacks is not None
        text = stacks.read().decode()
    assert text.count("Current thread") >= 6, text  # net, sync, store and three of the pool say what they do, and go on
    assert [process["state"] for process in status(rig)["processes"]] == ["ready"] * 8


def test_worker_says_why_its_master_is_away_and_what_it_answered(rig: Rig) -> None:
    worker = rig.workers[0]
    done = clusterd(rig, "start", "--wait-master", "0.5", node=worker)
    assert (done.returncode, done.stdout.count("\n"), done.stderr.count("\n")) == (ExitCode.OK, 1, 1), done.stderr
    assert re.match(r"clusterd: (The master is not connected|the master has not answered yet)", done.stderr)
    wait_until(lambda: "refused" in status(rig, worker)["problem"], 60, "the reason")
    assert "The master is not connected: " in " ".join(clusterd(rig, "status", node=worker).stdout.split())
    assert clusterd(rig, "stop", node=worker).returncode == clusterd(rig, "start").returncode == ExitCode.OK
    done = clusterd(rig, "start", "--wait-master", "50", node=worker)
    assert (done.returncode, done.stderr) == (ExitCode.OK, "")
    assert re.fullmatch(rf"clusterd runs .*\nConnected to the master at {re.escape(HOST)}:\d+\.\n", done.stdout)


def test_status_answers_while_processes_are_dead(pair: Rig) -> None:
    """Frozen processes do not answer; the rest of the status is shown all the same."""
    rig = pair
    pids = rig.processes("master")
    for name in ("sync", "net"):
        pid = pids[name]
        assert pid
        signal_process(pid, signal.SIGSTOP)
    try:
        found = status(rig)
    finally:
        for name in ("sync", "net"):
            signal_process(pids[name] or 0, signal.SIGCONT)
    assert found["running"]
    assert "does not answer" in found["problem"]
    assert {process["name"]: process["pid"] for process in found["processes"]} == pids


def test_status_of_a_stopped_node(rig: Rig) -> None:
    done = clusterd(rig, "status", "--json")
    assert done.returncode == ExitCode.NOT_RUNNING
    assert json.loads(done.stdout)["running"] is False
    done = clusterd(rig, "status")
    assert done.returncode == ExitCode.NOT_RUNNING
    assert done.stdout.startswith("DOWN  clusterd is not running at ")


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Programs that the test starts react to SIGINT, even where the suite runs in the background and has inherited that
    it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_watch_goes_on_until_interrupted(pair: Rig) -> None:
    line = [*pair.program, "--root", str(pair.master.root), "status", "--watch", "--json"]
    environment = os.environ | {MARK: str(pair.directory)}
    with subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        seen = [json.loads(process.stdout.readline()) for _ in range(2)]
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert seen[1]["at"] > seen[0]["at"]
    assert "Traceback" not in said


# ---- the stock daemon's command line ---------------------------------------------------------------------------------


def test_stock_flags_start_the_same_daemon(rig: Rig) -> None:
    assert re.search(r"v4\.14\.1", stock(rig, "-V").stdout)
    assert stock(rig, "-t").returncode == 0
    done = subprocess.run([*STOCK, "-r", "-d"], env=of_stock(rig), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert status(rig)["running"]
    assert stock(rig).returncode == 1
    assert clusterd(rig, "stop").returncode == ExitCode.OK


def test_stock_flags_refuse_bad_configuration_and_accept_a_disabled_cluster(rig: Rig) -> None:
    set_conf(rig.master, "disabled", "yes")
    done = stock(rig)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert stock(rig, "-t").returncode == 0
    assert not rig.running()
    set_conf(rig.master, "disabled", "no")
    set_conf(rig.master, "node_type", "boss")
    done = stock(rig, "-t")
    assert done.returncode == 1
    assert "<node_type>" in done.stderr


def test_stock_flag_for_another_configuration_file(rig: Rig, tmp_path: Path) -> None:
    good = rig.master.root / "etc/ossec.conf"
    other = rig.master.root / "etc/other.conf"
    other.write_text(good.read_text().replace("rig_manager_1", "elsewhere"))
    assert stock(rig, "-c", str(other)).returncode == 0
    assert status(rig)["node"]["name"] == "elsewhere"
    assert clusterd(rig, "stop").returncode == ExitCode.OK
