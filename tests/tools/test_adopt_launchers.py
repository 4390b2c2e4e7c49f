"""The launchers of `clusterd adopt`, and which daemon runs afterwards."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from clusterd.adoption import MODULES, State, launcher_text
from clusterd.pidfile import OURS, STOCK, running_daemon
from clusterd.status.status import StatusReader
from tests.fakes.manager import Manager
from tests.supervisor.helpers import until
from tests.tools.adopted import adopt, cutover, fine, states, undo
from tools.cutover import Cutover

pytestmark = pytest.mark.slow


def run(manager: Manager, name: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([manager.bin / name, *arguments], capture_output=True, text=True, timeout=60)


# ---- the launchers ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_launcher_takes_the_flags_that_the_manager_uses(manager: Manager) -> None:
    assert adopt(manager).ok
    done = run(manager, "wazuh-clusterd", "-t")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    manager.configure(kind="boss")
    done = run(manager, "wazuh-clusterd", "-t")
    assert done.returncode == 1
    assert "<node_type>" in done.stderr
    good = manager.root / "etc/good.conf"
    manager.configure(disabled="yes")
    good.write_text((manager.root / "etc/ossec.conf").read_text())
    manager.configure(kind="boss")
    assert run(manager, "wazuh-clusterd", "-t", "-c", str(good)).returncode == 0
    assert "v4.14.1" in run(manager, "wazuh-clusterd", "-V").stdout


@pytest.mark.slow
def test_launcher_of_a_manager_without_a_cluster_ends_quietly(manager: Manager) -> None:
    assert adopt(manager).ok
    manager.configure(disabled="yes", key="")
    done = run(manager, "wazuh-clusterd")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert running_daemon(str(manager.root)) is None
    assert run(manager, "cluster_control", "-l").stderr == "ERROR: Cluster is not running.\n"


def test_launcher_without_its_environment_says_so_and_never_starts_the_stock_daemon(root: Path) -> None:
    manager = Manager(root)
    assert Cutover(str(root), "/opt/gone/bin/python", say=lambda text: None, check=fine).adopt(now=False).ok
    for name in MODULES:
        done = run(manager, name, "-l")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.count("\n") == 1
        cure = done.stderr.split("put the stock file back: ")[1]
        assert "/opt/gone/bin/python cannot be run" in done.stderr
        assert manager.pids("wazuh-clusterd") == []
        subprocess.run(cure, shell=True, check=True)
    assert states(manager) == [State.STOCK] * 2


def test_launcher_heeds_nothing_of_the_callers_environment(manager: Manager, tmp_path: Path) -> None:
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools/__init__.py").write_text("raise SystemExit(77)\n")
    assert adopt(manager).ok
    done = subprocess.run(
        [manager.bin / "wazuh-clusterd", "-t"],
        env={**os.environ, "PYTHONPATH": str(tmp_path), "CLUSTERD_ROOT": "/nowhere", "PYTHONHOME": "/nowhere"},
        cwd=tmp_path,
        timeout=60,
    )
    assert done.returncode == 0


@pytest.mark.parametrize("odd", ["with space", "quote's", 'double"quote', "dollar$(exit 3)`exit 3`"])
def test_names_of_directories_cannot_break_a_launcher(tmp_path: Path, odd: str) -> None:
    root = str(tmp_path / odd)
    text = launcher_text(root, "wazuh-clusterd", str(tmp_path / "gone" / odd / "python"))
    done = subprocess.run(["/bin/sh", "-c", text], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert f"{tmp_path / 'gone' / odd / 'python'} cannot be run" in done.stderr
    echo = tmp_path / odd / "python"
    echo.parent.mkdir()
    echo.write_text('#!/bin/sh\necho "$CLUSTERD_ROOT"\n')
    echo.chmod(0o755)
    text = launcher_text(root, "wazuh-clusterd", str(echo))
    assert subprocess.run(["/bin/sh", "-c", text], capture_output=True, text=True, timeout=60).stdout == f"{root}\n"


# ---- which daemon runs -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_stock_daemon_that_runs_is_left_running_and_named(manager: Manager) -> None:
    assert manager.control("start").returncode == 0
    (pid,) = manager.pids("wazuh-clusterd")
    said: list[str] = []
    assert adopt(manager, said=said).ok
    assert f"(pid {pid}) goes on until the manager is restarted" in said[-1]
    assert manager.pids("wazuh-clusterd") == [pid]
    assert f"The stock wazuh-clusterd runs there (pid {pid})" in StatusReader(str(manager.root)).read()["problem"]
    assert undo(manager).ok
    assert manager.control("stop").returncode == 0
    until(lambda: not manager.pids("wazuh-clusterd"), "it is stopped")


@pytest.mark.slow
def test_the_stock_daemon_runs_again_if_clusterd_does_not_start(manager: Manager, tmp_path: Path) -> None:
    """With --now a cluster daemon runs at the end, whatever fails."""
    before = manager.facts()
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 7\n")
    python.chmod(0o755)
    assert manager.control("start").returncode == 0
    other, first = manager.pids("wazuh-otherd"), manager.pids("wazuh-clusterd")
    said: list[str] = []
    would = cutover(manager, said=said, dry_run=True).adopt(now=True)
    assert (would.ok, said[-1]) == (True, f"would then stop {STOCK} (pid {first[0]}) and start {OURS}")
    assert manager.pids("wazuh-clusterd") == first
    done = Cutover(str(manager.root), str(python), say=said.append, check=fine).adopt(now=True)
    assert not done.ok
    assert "ended with 7" in done.reason
    assert "the stock daemon is back in its place and runs" in done.reason
    assert manager.facts() == before
    running = running_daemon(str(manager.root))
    assert running is not None
    assert [running[0]] != first
    assert manager.pids("wazuh-otherd") == other
    assert manager.control("stop").returncode == 0


@pytest.mark.slow
def test_command_for_programs_is_json_whatever_happens(manager: Manager) -> None:
    (manager.bin / "wazuh-control").chmod(0o770)
    command = [sys.executable, "-m", "tools.cli", "adopt", "--root", str(manager.root), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    found = json.loads(done.stdout)
    assert (done.returncode, found["ok"], found["root"]) == (1, False, str(manager.root))
    assert [one["name"] for one in found["checks"] if not one["ok"]] == ["owner"]
    assert (found["changes"], done.stderr) == ([], "")


@pytest.mark.slow
def test_what_a_started_daemon_says_is_not_in_the_json(manager: Manager) -> None:
    assert adopt(manager).ok
    command = [sys.executable, "-m", "tools.cli", "adopt", "--root", str(manager.root), "--undo", "--now", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    found = json.loads(done.stdout)
    assert (done.returncode, found["ok"]) == (0, True)
    assert [(one["name"], one["does"]) for one in found["changes"]] == [
        ("wazuh-clusterd", "restore"),
        ("cluster_control", "restore"),
    ]
    (pid,) = manager.pids("wazuh-clusterd")
    assert found["notes"] == [f"starting {STOCK}", f"{STOCK} runs (pid {pid})"]
    assert done.stderr == "Starting wazuh-clusterd\n"
    assert manager.control("stop").returncode == 0
