"""A command loads only what it needs, because operators, health checks and tests run it every few seconds."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import tools.cli
from tests.conftest import KEY
from tests.fakes.answering_node import answering_node, busy_master
from tools.cli import COMMANDS, cluster

DAEMON = ("clusterd.supervisor.run", "clusterd.net", "clusterd.sync", "clusterd.pool", "clusterd.store", "clusterd.api")
HEAVY = ("zmq", "uvloop", "httpx", "starlette", "uvicorn", "cryptography", "watchfiles", "pygments", "jwt", "lz4")
SLOW_TO_LOAD = ("asyncio", "logging", "ssl", "email", "http", "urllib.request", "zmq", "httpx", "sqlite3", "subprocess")
NOT_AT_ONCE = ("click", "rich", "msgspec", "psutil", "inspect", "pathlib", "ctypes", "hashlib", "shutil", "random")
"""Each takes 3 to 70 ms of CPU to load; a bare interpreter takes 13."""
ROOT = Path(__file__).parents[2]
LISTING = """
import json, sys
from tools.entry import clusterd as main
try:
    main()
except SystemExit:
    pass
print("\\n" + json.dumps(sorted(sys.modules)))
"""
HELPS = """
import json, os, sys
from tools.cli import COMMANDS, main
for name in sorted(COMMANDS):
    if os.fork():
        os.wait()
        continue
    sys.argv[1:] = [name, "--help"]
    told = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    try:
        main()
    except SystemExit:
        pass
    with open(told, "w") as out:
        print(json.dumps([name, sorted(sys.modules)]), file=out)
    os._exit(0)
"""
"""Returns what each command has loaded after its help, in forks: modules that all commands load are loaded once."""


def loaded_by(root: Path, *arguments: str, program: str = "clusterd") -> set[str]:
    words = ["--root", str(root), *arguments] if program == "clusterd" else arguments
    paths = [str(Path(tools.__file__).parents[1]), str(Path(click.__file__).parents[1])]
    done = subprocess.run(
        # -S: what an editable installation adds to every start is not the command's.
        [sys.executable, "-S", "-c", LISTING.replace("clusterd as main", f"{program} as main"), *words],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "CLUSTERD_ROOT": str(root)},
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def below(loaded: set[str], packages: tuple[str, ...]) -> set[str]:
    return {name for name in loaded if any(name == package or name.startswith(package + ".") for package in packages)}


@pytest.mark.parametrize(
    "arguments", ["--help", "version", "status", "status --json", "stop", "sync", "control nodes", "history"]
)
def test_looking_at_a_node_does_not_load_the_daemon(tmp_path: Path, arguments: str) -> None:
    loaded = loaded_by(tmp_path, *arguments.split())
    assert below(loaded, DAEMON) == set()
    assert below(loaded, HEAVY) == set()


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A node that answers, with all that `status` and `control` can show."""
    root, status = tmp_path_factory.mktemp("node"), busy_master()
    connected = [row for row in status["workers"] if row["state"] == "connected"]
    items = [
        {"name": row["name"], "type": "worker", "version": row["version"], "ip": row["address"]} for row in connected
    ]
    (root / "etc").mkdir()
    (root / "etc/ossec.conf").write_text(
        "<ossec_config><cluster><name>x</name><node_name>m</node_name><node_type>master</node_type>"
        f"<key>{KEY}</key><nodes><node>127.0.0.1</node></nodes><disabled>no</disabled></cluster></ossec_config>"
    )
    away = {"workers": [row for row in status["workers"] if row["state"] != "connected"], "refused": status["refused"]}
    answers = {"status": status, "get_nodes": {"items": items, "totalItems": len(items)}, "get_members": away}
    with answering_node(root, answers):
        yield root


@pytest.mark.parametrize(
    ("arguments", "most"), [("version", 90), ("status", 125), ("status --json", 125), ("check --expect 3", 125)]
)
def test_what_must_answer_at_once_loads_no_large_library(busy: Path, arguments: str, most: int) -> None:
    loaded = loaded_by(busy, *arguments.split())
    assert below(loaded, (*DAEMON, *HEAVY, *SLOW_TO_LOAD, *NOT_AT_ONCE)) == set()
    assert len(loaded) <= most, sorted(loaded)


@pytest.mark.parametrize(("arguments", "most"), [("--help", 140), ("control nodes", 165), ("completion zsh", 145)])
def test_commands_of_click_load_nothing_large_beside_it(busy: Path, arguments: str, most: int) -> None:
    loaded = loaded_by(busy, *arguments.split())
    assert below(loaded, (*DAEMON, *HEAVY, *SLOW_TO_LOAD, "rich", "msgspec", "psutil")) == set()
    assert len(loaded) <= most, sorted(loaded)


def test_configuration_is_checked_without_what_only_a_running_node_needs(busy: Path) -> None:
    loaded = loaded_by(busy, "check-config")
    assert "clusterd.config.loading" in loaded
    heavy = tuple(name for name in HEAVY if name != "lz4")  # loaded with the rules of files
    assert below(loaded, (*DAEMON, *heavy, *SLOW_TO_LOAD, "click", "rich", "psutil")) == set()
    assert len(loaded) <= 210, sorted(loaded)


@pytest.mark.parametrize(
    ("is_changed", "unwanted", "most"),
    [
        (True, tuple({*HEAVY, *SLOW_TO_LOAD, "click", "rich", "psutil"} - {"lz4"}), 225),
        (False, tuple({*HEAVY, *SLOW_TO_LOAD, *NOT_AT_ONCE} - {"shutil"}), 125),  # argparse wants that
    ],
    ids=["changed", "as-at-the-start"],
)
def test_the_stock_tool_loads_what_reads_a_configuration_only_where_it_was_changed(
    busy: Path, is_changed: bool, unwanted: tuple[str, ...], most: int
) -> None:
    (pid_file,) = (busy / "var/run").glob("*.pid")
    os.utime(pid_file, ns=(0, (busy / "etc/ossec.conf").stat().st_ctime_ns + (-1 if is_changed else 1)))
    loaded = loaded_by(busy, "-l", program="cluster_control")
    assert below(loaded, (*DAEMON, *unwanted)) == set()
    assert len(loaded) <= most, sorted(loaded)
    assert ("clusterd.config.loading" in loaded) == is_changed


@pytest.mark.parametrize("arguments", ["--help", "version", "status --json", "history", "history --json"])
def test_what_programs_ask_draws_nothing(tmp_path: Path, arguments: str) -> None:
    assert below(loaded_by(tmp_path, *arguments.split()), ("rich",)) == set()


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_of_a_command_begins_with_its_line_in_the_list(name: str) -> None:
    command = cluster.get_command(None, name)  # type: ignore[arg-type]
    assert command is not None
    assert command.help is not None
    line = COMMANDS[name][1].removesuffix(".")
    assert command.help.startswith(line)


@pytest.mark.slow
def test_help_of_a_command_does_not_load_the_daemon() -> None:
    done = subprocess.run([sys.executable, "-c", HELPS], capture_output=True, text=True, timeout=300, check=True)
    loaded = dict(json.loads(line) for line in done.stdout.splitlines())
    assert loaded.keys() == COMMANDS.keys()
    daemon = ("clusterd.supervisor.run", "clusterd.net", "clusterd.sync")
    assert {name: found for name, modules in loaded.items() if (found := below(set(modules), daemon))} == {}


@pytest.mark.slow
def test_http_client_of_the_daemon_loads_no_program_of_its_library() -> None:
    code = (
        "import asyncio, sys; from clusterd.http_client import httpx; asyncio.run(httpx.AsyncClient().aclose()); "
        "print(*(name for name in ('httpx._main', 'rich', 'click', 'pygments') if name in sys.modules)); import rich"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
    direct = [path.name for path in (ROOT / "clusterd").rglob("*.py") if "\nimport httpx" in path.read_text()]
    assert direct == [], "they take it from clusterd.http_client"


def test_closed_pipe_ends_the_command_without_a_message(tmp_path: Path) -> None:
    command = f"{sys.executable} -m tools.cli --help | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""


@pytest.mark.slow
def test_root_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "etc").write_text("a file where a directory belongs")
    done = subprocess.run(
        [sys.executable, "-m", "tools.cli", "--root", str(tmp_path), "start"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
