"""An adopted manager at work: its control script drives a real node, and the rest of the manager does not notice."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clusterd.pidfile import OURS, STOCK, running_daemon
from tests.fakes.manager import OTHER, Manager
from tests.supervisor.helpers import until
from tests.warm import WARM
from tools.rig.guard import MARK, guarded
from tools.rig.nodes import PROGRAM

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

Done = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def manager() -> Iterator[Manager]:
    with guarded("adopt-") as base:
        before = os.environ.get(MARK)
        os.environ[MARK] = str(base)
        made = Manager(base / "m")
        yield made
        made.control("stop")
        os.environ.pop(MARK)
        if before is not None:
            os.environ[MARK] = before


def clusterd(manager: Manager, *arguments: str) -> Done:
    return WARM.capture([*PROGRAM, "--root", str(manager.root), *arguments], os.environ, 600)


def running(manager: Manager) -> tuple[int, str]:
    found = running_daemon(str(manager.root))
    assert found is not None
    return found


def status(manager: Manager) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(clusterd(manager, "status", "--json").stdout)
    return found


def log(manager: Manager) -> str:
    path: Path = manager.root / "logs/cluster.log"
    return path.read_text() if path.exists() else ""


def test_a_day_of_an_adopted_manager(manager: Manager) -> None:
    stock = manager.facts()
    assert manager.control("start").returncode == 0
    (other,) = manager.pids(OTHER)
    assert running(manager)[1] == STOCK

    # the cluster daemon alone is swapped
    done = clusterd(manager, "adopt", "--now")
    assert done.returncode == 0, done.stdout + done.stderr
    pid, program = running(manager)
    assert program == OURS
    assert f"clusterd runs (pid {pid})" in done.stdout
    assert manager.pids("wazuh-clusterd") == [pid]
    assert manager.pids(OTHER) == [other]
    assert manager.control("status").stdout.splitlines() == ["wazuh-clusterd is running...", f"{OTHER} is running..."]
    assert "The node serves: master m of cluster x" in log(manager)

    # what people and programs of the manager use works on it
    assert [row["name"] for row in status(manager)["processes"] if row["state"] != "ready"] == []
    words = subprocess.run([manager.bin / "cluster_control", "-l"], capture_output=True, text=True, timeout=60)
    assert words.stdout.splitlines()[1].split() == ["m", "master", "4.14.1", "127.0.0.1"]
    with open(f"/proc/{pid}/cmdline") as file:
        assert "wazuh_clusterd" in file.read()

    # a package upgrade while it runs
    manager.install("2")
    assert "a package has put the stock" in status(manager)["problems"]["adoption"]
    assert clusterd(manager, "adopt").returncode == 0
    assert "adoption" not in status(manager)["problems"]
    assert running(manager) == (pid, OURS)

    # the manager's own restart, and its stop
    assert manager.control("restart").returncode == 0
    again, program = running(manager)
    assert (program, again != pid) == (OURS, True)
    assert manager.control("stop").returncode == 0
    until(lambda: running_daemon(str(manager.root)) is None, "nothing runs")
    assert manager.control("status").returncode == 1
    assert manager.control("start").returncode == 0
    assert running(manager)[1] == OURS
    (other,) = manager.pids(OTHER)

    # a configuration with mistakes: the manager does not start, as with the stock daemon
    manager.configure(kind="boss")
    refused = manager.control("start")
    assert refused.returncode == 1
    assert "<node_type>" in refused.stdout
    assert "wazuh-clusterd: Configuration error" in refused.stdout
    manager.configure()

    # and back
    done = clusterd(manager, "adopt", "--undo", "--now")
    assert done.returncode == 0, done.stdout + done.stderr
    assert running(manager)[1] == STOCK
    assert manager.pids(OTHER) == [other]
    now = manager.facts()
    assert set(now) == set(stock)
    assert [facts[1:] for facts in now.values()] == [facts[1:] for facts in stock.values()]
    assert b"build 2" in now["wazuh-clusterd"][0]
    assert list((manager.root / "var/run").glob("clusterd*")) == []
    assert manager.control("stop").returncode == 0
