"""A command loads only what it needs, because operators, health checks and tests run it every few seconds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tools.cli import COMMANDS, cluster

DAEMON = ("clusterd.supervisor.run", "clusterd.net", "clusterd.sync", "clusterd.pool", "clusterd.store", "clusterd.api")
HEAVY = ("zmq", "uvloop", "httpx", "starlette", "uvicorn", "cryptography", "watchfiles", "pygments", "jwt", "lz4")
LISTING = """
import json, sys
from tools.cli import main
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


def loaded_by(root: Path, *arguments: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", LISTING, "--root", str(root), *arguments], capture_output=True, text=True, timeout=60
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


def test_help_of_a_command_does_not_load_the_daemon() -> None:
    done = subprocess.run([sys.executable, "-c", HELPS], capture_output=True, text=True, timeout=300, check=True)
    loaded = dict(json.loads(line) for line in done.stdout.splitlines())
    assert loaded.keys() == COMMANDS.keys()
    daemon = ("clusterd.supervisor.run", "clusterd.net", "clusterd.sync")
    assert {name: found for name, modules in loaded.items() if (found := below(set(modules), daemon))} == {}


def test_closed_pipe_ends_the_command_without_a_message(tmp_path: Path) -> None:
    command = f"{sys.executable} -m tools.cli --help | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""


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
