"""`cluster_control` to the letter (dapi.md 7), and `clusterd control` with the same facts."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from clusterd import pidfile
from clusterd.config import loading
from clusterd.errors import ClusterError, ConfigurationError
from clusterd.status.control import NotAnswering
from tests.conftest import rigs
from tests.warm import WARM
from tools import cli_control, cluster_control, membership, questions, watching
from tools.cli_control import health_view, nodes_view
from tools.cluster_tables import agents_table, duration, health_long, health_summary, nodes_table
from tools.drawing import Styled
from tools.rig.nodes import Rig, RigNode
from tools.rig.peer import wait_until
from tools.rig.wdb_client import authd

NODES = {
    "items": [
        {"name": "master-node", "type": "master", "version": "4.14.1", "ip": "10.0.0.11"},
        {"name": "worker1", "type": "worker", "version": "4.14.1", "ip": "10.0.0.12"},
        {"name": "worker2", "type": "worker", "version": "4.14.1", "ip": "10.0.0.13"},
    ],
    "totalItems": 3,
}
AGENTS = [
    {"id": "000", "name": "wazuh-master", "ip": "127.0.0.1", "status": "active", "version": "Wazuh v4.14.1",
     "node_name": "master-node"},
    {"id": "001", "name": "web-frontend-01", "ip": "10.0.10.21", "status": "active", "version": "Wazuh v4.14.1",
     "node_name": "worker1"},
    {"id": "002", "name": "db01", "ip": "10.0.10.35", "status": "disconnected", "version": "Wazuh v4.12.0",
     "node_name": "worker2"},
    {"id": "003", "name": "laptop-7", "ip": "any", "status": "never_connected"},
]  # fmt: skip
NEVER = {"date_start_master": "n/a", "date_end_master": "n/a"}


def dated(start: str, end: str, **more: Any) -> dict[str, Any]:
    return {"date_start_master": f"2025-11-23T{start}Z", "date_end_master": f"2025-11-23T{end}Z"} | more


HEALTH = {
    "n_connected_nodes": 2,
    "nodes": {
        "worker1": {
            "info": {**NODES["items"][1], "n_active_agents": 41},  # type: ignore[index]
            "status": {
                "sync_integrity_free": True,
                "last_check_integrity": dated("10:15:02.118340", "10:15:02.204877"),
                "last_sync_integrity": dated(
                    "09:58:11.004512", "09:58:11.731903", total_files={"missing": 4, "extra": 0, "shared": 1}
                ),
                "sync_agent_info_free": True,
                "last_sync_agentinfo": dated("10:15:05.300114", "10:15:05.318290", n_synced_chunks=3),
                "last_sync_agentgroup": {
                    "date_start": "2025-11-23T10:15:04.551020Z",
                    "date_end": "n/a",
                    "n_synced_chunks": 0,
                },
                "last_sync_full_agentgroup": {
                    "date_start": "2025-11-23T09:58:45.002118Z",
                    "date_end": "2025-11-23T09:58:45.040771Z",
                    "n_synced_chunks": 1,
                },
                "last_keep_alive": "2025-11-23T10:14:31.770204Z",
            },
        },
        "worker2": {
            "info": {**NODES["items"][2], "n_active_agents": 0},  # type: ignore[index]
            "status": {
                "sync_integrity_free": True,
                "last_check_integrity": dated("10:15:00.000100", "10:15:00.000300"),
                "last_sync_integrity": NEVER
                | {"total_files": {"missing": 0, "shared": 0, "extra": 0, "extra_valid": 0}},
                "sync_agent_info_free": True,
                "last_sync_agentinfo": NEVER | {"n_synced_chunks": 0},
                "last_sync_agentgroup": {"date_start": "n/a", "date_end": "n/a", "n_synced_chunks": 0},
                "last_sync_full_agentgroup": {"date_start": "n/a", "date_end": "n/a", "n_synced_chunks": 0},
                "last_keep_alive": "2025-11-23T10:14:52.901377Z",
            },
        },
        "master-node": {"info": {**NODES["items"][0], "n_active_agents": 3}},  # type: ignore[index]
    },
}

# ---- the documented layout -------------------------------------------------------------------------------------------


def test_nodes_are_printed_as_documented() -> None:
    assert nodes_table(NODES).split("\n") == [
        "NAME         TYPE    VERSION  ADDRESS    ",
        "master-node  master  4.14.1   10.0.0.11  ",
        "worker1      worker  4.14.1   10.0.0.12  ",
        "worker2      worker  4.14.1   10.0.0.13  ",
    ]
    assert nodes_table({"items": [], "totalItems": 0}) == "NAME  TYPE  VERSION  ADDRESS  "


def test_agents_are_printed_as_documented() -> None:
    assert agents_table(AGENTS).split("\n") == [
        "ID   NAME             IP          STATUS           VERSION        NODE NAME    ",
        "000  wazuh-master     127.0.0.1   active           Wazuh v4.14.1  master-node  ",
        "001  web-frontend-01  10.0.10.21  active           Wazuh v4.14.1  worker1      ",
        "002  db01             10.0.10.35  disconnected     Wazuh v4.12.0  worker2      ",
        "003  laptop-7         any         never_connected  unknown        unknown      ",
    ]


SUMMARY = """\
Cluster name: wazuh

Last completed synchronization for connected nodes (2):
    worker1 (10.0.0.12): Integrity check: 2025-11-23T10:15:02.204877Z | \
Integrity sync: 2025-11-23T09:58:11.731903Z | Agents-info: 2025-11-23T10:15:05.318290Z | Agent-groups: n/a | \
Agent-groups full: 2025-11-23T09:58:45.040771Z | Last keep alive: 2025-11-23T10:14:31.770204Z.
    worker2 (10.0.0.13): Integrity check: 2025-11-23T10:15:00.000300Z | Integrity sync: n/a | Agents-info: n/a | \
Agent-groups: n/a | Agent-groups full: n/a | Last keep alive: 2025-11-23T10:14:52.901377Z.

"""
LONG = """\
Cluster name: wazuh

Connected nodes (2):

    master-node (10.0.0.11)
        Version: 4.14.1
        Type: master
        Active agents: 3

    worker1 (10.0.0.12)
        Version: 4.14.1
        Type: worker
        Active agents: 41
        Status:
            Last keep Alive:
                Last received: 2025-11-23T10:14:31.770204Z.
            Integrity check:
                Last integrity check: 0.087s (2025-11-23T10:15:02.118340Z - 2025-11-23T10:15:02.204877Z).
                Permission to check integrity: True.
            Integrity sync:
                Last integrity synchronization: 0.727s (2025-11-23T09:58:11.004512Z - 2025-11-23T09:58:11.731903Z).
                Synchronized files: Shared: 1 | Missing: 4 | Extra: 0.
            Agents-info:
                Last synchronization: 0.018s (2025-11-23T10:15:05.300114Z - 2025-11-23T10:15:05.318290Z).
                Number of synchronized chunks: 3.
                Permission to synchronize agent-info: True.
            Agents-groups:
                Last synchronization: n/a (2025-11-23T10:15:04.551020Z - n/a).
                Number of synchronized chunks: 0.
            Agents-groups full:
                Last synchronization: 0.039s (2025-11-23T09:58:45.002118Z - 2025-11-23T09:58:45.040771Z).
                Number of synchronized chunks: 1.

    worker2 (10.0.0.13)
        Version: 4.14.1
        Type: worker
        Active agents: 0
        Status:
            Last keep Alive:
                Last received: 2025-11-23T10:14:52.901377Z.
            Integrity check:
                Last integrity check: 0.001s (2025-11-23T10:15:00.000100Z - 2025-11-23T10:15:00.000300Z).
                Permission to check integrity: True.
            Integrity sync:
                Last integrity synchronization: n/a (n/a - n/a).
                Synchronized files: Shared: 0 | Missing: 0 | Extra: 0.
            Agents-info:
                Last synchronization: n/a (n/a - n/a).
                Number of synchronized chunks: 0.
                Permission to synchronize agent-info: True.
            Agents-groups:
                Last synchronization: n/a (n/a - n/a).
                Number of synchronized chunks: 0.
            Agents-groups full:
                Last synchronization: n/a (n/a - n/a).
                Number of synchronized chunks: 0.

"""


def test_health_is_printed_as_documented() -> None:
    assert health_summary("wazuh", HEALTH) + "\n" == SUMMARY
    assert health_long("wazuh", HEALTH) + "\n" == LONG


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [("00.210000", "0.21s"), ("01.577000", "1.577s"), ("00.000499", "0.001s"), ("07.000000", "7.0s")],
)
def test_durations_have_three_decimals_at_most(seconds: str, shown: str) -> None:
    assert duration("2025-11-23T10:15:00.000000Z", f"2025-11-23T10:15:{seconds}Z") == shown


# ---- the tool on nodes -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with rigs() as make:
        made = make(1)
        (made.master.root / "etc/client.keys").write_text("")
        made.start()
        made.wait_equal(60)
        for name in ("web0", "web1"):
            assert authd(made.master.root, {"function": "add", "arguments": {"name": name, "ip": "any"}})["error"] == 0
        yield made


def tool(root: Path, *arguments: str, module: str = "tools.cluster_control") -> subprocess.CompletedProcess[str]:
    before = ["--root", str(root), "control"] if module == "tools.cli" else []
    environment = dict(os.environ, CLUSTERD_ROOT=str(root), COLUMNS="200")
    return WARM.capture([sys.executable, "-m", module, *before, *arguments], environment)


def printed(node: RigNode, *arguments: str) -> str:
    done = tool(node.root, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.slow
def test_every_node_prints_the_same(rig: Rig) -> None:
    for arguments in (["-l"], ["-a"], ["-l", "-fn", "rig_manager_2"], ["-a", "-fs", "never_connected", "active"]):
        here, there = (printed(node, *arguments) for node in rig.nodes)
        assert here == there
    assert printed(rig.master, "-l").split("\n") == [
        "NAME           TYPE    VERSION  ADDRESS    ",
        "rig_manager_1  master  4.14.1   127.0.0.1  ",
        "rig_manager_2  worker  4.14.1   127.0.0.1  ",
        "",
    ]
    lines = printed(rig.workers[0], "-a", "-fs", "never_connected").split("\n")
    assert [line.split()[:4] for line in lines[1:-1]] == [
        ["001", "web0", "any", "never_connected"],
        ["002", "web1", "any", "never_connected"],
    ]


@pytest.mark.slow
def test_health_of_a_running_cluster(rig: Rig) -> None:
    for node in rig.nodes:
        summary = printed(node, "-i")
        assert summary.startswith(
            "Cluster name: rig\n\nLast completed synchronization for connected nodes (1):\n    rig_m"
        )
        assert "Connected nodes (1):\n\n    rig_manager_1 (127.0.0.1)\n" in printed(node, "--health", "MORE")
        assert "rig_manager_1" not in printed(node, "-i", "more", "-fn", "rig_manager_2", "nobody")


@pytest.mark.slow
def test_errors_and_exit_codes_are_stocks(rig: Rig) -> None:
    root = rig.workers[0].root
    done = tool(root, "-l", "-fn", "nobody")
    assert (done.returncode, done.stderr) == (0, "ERROR: Error 1730 - Node does not exist\n")
    assert tool(root, "-l", "-fn", "nobody", "--exit-status").returncode == 1
    done = tool(root, "-l", "-fn", "nobody", "-d")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    done = tool(root, "-fs", "active")
    assert (done.returncode, done.stderr) == (1, "ERROR: Wrong arguments.\n")
    assert done.stdout.strip().startswith("Usage:")
    assert tool(root, "-l", "-a").returncode == 2
    assert tool(root, "--nonsense").returncode == 2
    assert tool(root).stdout.startswith("usage: cluster_control")


CONF = (
    "<ossec_config><cluster><name>x</name><node_name>m</node_name><node_type>master</node_type>"
    "<key>c98b62a9b6169ac5f67dae55ae4a9088</key><nodes><node>127.0.0.1</node></nodes>"
    "<disabled>no</disabled></cluster></ossec_config>"
)


def test_configuration_is_read_where_it_was_changed_after_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a running node has read has no mistakes, and reading it takes most of the time."""
    root, conf = str(tmp_path), tmp_path / "etc/ossec.conf"
    for path in (conf.parent, tmp_path / "var/run"):
        path.mkdir(parents=True)
    conf.write_text(CONF)
    assert not cluster_control._is_running(root)
    held, _ = pidfile.claim(root)
    os.utime(held.path, ns=(0, conf.stat().st_ctime_ns + 1))
    with monkeypatch.context() as patched:
        patched.setattr(loading, "load", None)
        assert cluster_control._is_running(root)
    (tmp_path / "etc/cluster.json").write_text('{"clusterd": {"version": 4}}')
    with pytest.raises(ConfigurationError, match="version"):
        cluster_control._is_running(root)
    (tmp_path / "etc/cluster.json").unlink()
    conf.write_text(CONF.replace("<disabled>no", "<disabled>yes"))
    assert not cluster_control._is_running(root)
    held.remove()


def test_node_that_does_not_run_is_reported(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/ossec.conf").write_text(CONF)
    done = tool(tmp_path, "-l")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "ERROR: Cluster is not running.\n")
    assert tool(tmp_path, "-u").returncode == 0
    done = tool(tmp_path, "nodes", module="tools.cli")
    assert (done.returncode, done.stdout) == (4, "")
    assert f"clusterd is not running at {tmp_path}. Start it with: " in done.stderr


@pytest.mark.slow
def test_the_same_facts_for_programs_and_in_tables(rig: Rig) -> None:
    def control(*arguments: str) -> str:
        done = tool(rig.workers[0].root, *arguments, module="tools.cli")
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    assert [item["name"] for item in json.loads(control("nodes", "--json"))] == ["rig_manager_1", "rig_manager_2"]
    found = json.loads(control("agents", "--json", "--status", "never_connected"))
    assert [(item["id"], item["name"]) for item in found] == [("001", "web0"), ("002", "web1")]
    assert json.loads(control("health", "--json", "--node", "rig_manager_2"))["n_connected_nodes"] == 1
    assert "rig_manager_2  worker" in control("nodes")
    assert "2 agents" in control("agents", "--status", "never_connected")
    assert "s ago" in control("health")
    done = tool(rig.workers[0].root, "nodes", "--node", "nobody", module="tools.cli")
    assert (done.returncode, done.stderr) == (1, "clusterd: Error 1730 - Node does not exist: nobody\n")


@pytest.mark.slow
def test_watching_goes_on_until_it_is_interrupted(rig: Rig, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with out.open("w") as file:
        watching = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tools.cli",
                "--root",
                str(rig.master.root),
                "control",
                "nodes",
                "--json",
                "--watch",
                "0.2",
            ],
            stdout=file,
            stderr=subprocess.PIPE,
        )
    try:
        wait_until(lambda: out.read_text().count("\n") >= 3, 60, "three answers")
    finally:
        watching.send_signal(2)
        _, problems = watching.communicate(timeout=60)
    assert (watching.returncode, problems) == (0, b"")
    assert len({line for line in out.read_text().splitlines() if line}) == 1


def test_watching_for_programs_goes_on_while_the_node_is_restarted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = iter([{"n": 1}, NotAnswering("no node runs"), ClusterError(3020), {"n": 2}, KeyboardInterrupt()])

    def asked() -> dict[str, int]:
        answer = next(answers)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    monkeypatch.setattr(watching, "time", SimpleNamespace(sleep=lambda _: None))
    cli_control._show(asked, lambda facts: "", True, 0.2)
    said = capsys.readouterr()
    assert said.out == '{"n": 1}\n{"n": 2}\n'
    assert said.err.startswith("clusterd: no node runs\nclusterd: ")


def test_interrupt_ends_what_goes_on_as_meant_and_a_question_as_interrupted() -> None:
    def asked() -> None:
        raise KeyboardInterrupt

    cli_control._show(asked, lambda facts: Styled(), False, 0.2)
    with pytest.raises(KeyboardInterrupt):
        cli_control._show(asked, lambda facts: Styled(), False, None)


# ---- who is away or refused ------------------------------------------------------------------------------------------

AWAY = {
    "workers": [
        {"name": "w2", "state": "lost", "address": "10.0.0.8", "version": "4.14.1", "lost_s": 55.0, "why": "x"}
    ],
    "refused": [{"name": "", "address": "10.0.0.9", "reason": 'cluster name "wazu", ours is "wazuh"'}],
}


def ask(root: str, command: str, payload: bytes = b"", *, timeout_s: float, reply_s: float) -> Any:
    """A node whose master has one connected worker."""
    if command == "get_members":
        return AWAY
    if command == "get_health":
        return {"n_connected_nodes": 1, "nodes": {"w1": {"info": {"n_active_agents": 3}}}}
    names = json.loads(payload)["filter_node"]
    if names and "nobody" in names:
        raise ClusterError(1730)
    return {"items": [{"name": "w1", "type": "worker", "version": "4.14.1", "ip": "10.0.0.7"}]}


def test_lost_and_refused_nodes_have_rows_as_in_status(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "ask_json", ask)
    rows = membership.nodes("/", [])
    assert [(row["name"], row["state"]) for row in rows] == [("w1", "connected"), ("w2", "lost"), ("", "refused")]
    assert [row["state"] for row in membership.nodes("/", ["w2"])] == ["lost"]
    assert [row["name"] for row in membership.nodes("/", ["w1", "w2"])] == ["w1", "w2"]
    with pytest.raises(ClusterError, match="1730"):
        membership.nodes("/", ["nobody", "w2"])
    with pytest.raises(ClusterError, match=r"1730.*: nobody$"):
        membership.health("/", ["w1", "w2", "nobody"])
    found = membership.health("/", [])
    for view in (nodes_view(rows), health_view(found)):
        screen = io.StringIO()
        Console(width=160, file=screen).print(view)
        shown = screen.getvalue()
        assert "LOST for 55 s" in shown
        assert 'REFUSED (cluster name "wazu", ours is "wazuh")' in shown
    assert "1 worker, 1 lost" in shown


def test_earlier_node_knows_no_absent_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(root: str, command: str, payload: bytes = b"", *, timeout_s: float, reply_s: float) -> Any:
        raise ClusterError(3000, "unknown command")

    monkeypatch.setattr(questions, "ask_json", refuse)
    assert questions.members("/") == {"workers": [], "refused": []}
