"""Commands behave in forks as they do as programs: tests that start nodes rely on it (tests/warm.py)."""

import contextlib
import json
import os
import re
import shlex
import subprocess
import tempfile
from collections.abc import Hashable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.conftest import MakeRig
from tests.warm import WARM, without_figures
from tests.warm_programs import programs
from tools.rig.nodes import PROGRAM, PROJECT, Rig, RigNode, Run, run_program
from tools.rig.patience import Patience
from tools.rig.peer import wait_until

pytestmark = pytest.mark.slow

Looks = dict[str, set[Hashable]]
"""Process and field: all values that were seen."""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["version"],
        ["status", "--help"],
        ["no-such-command"],
        ["--root", "/nowhere", "status"],
        ["stop", "-x"],
    ],
)
def test_a_fork_prints_and_returns_what_the_program_does(arguments: list[str]) -> None:
    assert done(WARM.run, *arguments) == done(run_program, *arguments)


def test_a_status_without_a_process_is_what_the_program_prints(make_rig: MakeRig) -> None:
    rig = make_rig(0)
    assert rig.within
    line = ["--root", str(rig.master.root), "status", "--json"]

    def differ() -> str:
        (ours,) = rig.status().values()
        theirs = json.loads(done(run_program, *line)[1])
        ours, theirs = without_figures(ours), without_figures(theirs)
        return "" if ours == theirs else f"{ours}\n{theirs}"

    assert differ() == ""
    rig.start()
    patience = Patience(60)
    while different := differ():  # the node goes on with its start between the two
        assert not patience.is_over(), different
        patience.rest(0.1)


def test_nodes_made_without_a_process_are_those_of_the_program(make_rig: MakeRig) -> None:
    ours, theirs = make_rig(1), make_rig(1, run=run_program)
    assert (ours.within, theirs.within) == (True, False)
    for one, other in zip(ours.nodes, theirs.nodes, strict=True):
        assert tree_of(ours, one) == tree_of(theirs, other)


def tree_of(rig: Rig, node: RigNode) -> dict[str, tuple[int, int, str]]:
    """Path to mode, owner and content, without what differs between any two rigs."""
    found = {}
    for path in node.root.rglob("*"):
        facts = path.lstat()
        text = path.read_text("latin-1") if path.is_file() else ""
        text = text.replace(str(rig.directory), "").replace(f":{rig.master.port}<", ":PORT<")
        text = text.replace(f"<port>{rig.master.port}</port>", "<port>PORT</port>")
        found[str(path.relative_to(node.root))] = facts.st_mode, facts.st_uid, text
    return found


def test_a_fork_that_takes_too_long_is_killed(tmp_path: Path) -> None:
    pipe = tmp_path / "etc/ossec.conf"
    pipe.parent.mkdir()
    os.mkfifo(pipe)
    before = set(psutil.Process().children(recursive=True))
    with pytest.raises(subprocess.TimeoutExpired):
        done(WARM.run, "--root", str(tmp_path), "check-config", timeout_s=0.5)
    assert not [one for one in psutil.Process().children(recursive=True) if "check-config" in one.cmdline()], before


def test_what_another_environment_of_python_is_for_is_no_fork(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("print('seen')")
    environment = os.environ | {"PYTHONPATH": f"{PROJECT}:{tmp_path}"}
    assert WARM.capture([*PROGRAM, "version"], environment).stdout.startswith("seen\nclusterd ")


def test_a_program_for_shell_scripts_is_a_fork_with_the_directory_environment_output_and_end_of_its_client(
    tmp_path: Path,
) -> None:
    def said(script: str, word: str) -> tuple[int, str, str]:
        path = f"{tmp_path}:{os.environ['PATH']}" if word == "clusterd" else os.environ["PATH"]
        environment = os.environ | {"PATH": path, "PYTHONPATH": str(PROJECT), "CLUSTERD_ROOT": str(tmp_path)}
        line = ["bash", "-c", script.replace("clusterd", word)]
        ran = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
        return ran.returncode, ran.stdout, ran.stderr

    scripts = (
        "clusterd version | cat; clusterd status; exit $?",
        "clusterd no-such-command 2>&1 >/dev/null | head -1; clusterd version --x > said; cat said",
        "cd /; clusterd --root nowhere check-config",
    )
    with programs(tmp_path, {"clusterd": "tools.cli"}):
        for script in scripts:
            assert said(script, "clusterd") == said(script, shlex.join(PROGRAM))


def test_command_for_a_shell_script_ends_with_its_client(tmp_path: Path) -> None:
    pipe = tmp_path / "etc/ossec.conf"
    pipe.parent.mkdir()
    os.mkfifo(pipe)
    line = [str(tmp_path / "clusterd"), "--root", str(tmp_path), "check-config"]

    def is_command(process: psutil.Process) -> bool:
        with contextlib.suppress(psutil.Error):  # it has ended
            return line[1:] == [word for word in process.cmdline() if word][-3:]
        return False

    def commands() -> list[psutil.Process]:
        return [one for one in psutil.Process().children(recursive=True) if is_command(one)]

    with programs(tmp_path, {"clusterd": "tools.cli"}):
        with subprocess.Popen(line, env=os.environ | {"PYTHONPATH": str(PROJECT)}) as client:
            try:
                wait_until(lambda: len(commands()) == 2, 60, "client and fork run")
            finally:
                client.kill()
        wait_until(lambda: not commands(), 60, "the fork has ended, too")


def test_a_node_that_a_fork_started_looks_like_one_of_the_program(make_rig: MakeRig) -> None:
    forked, plain = (make_rig(0, run=run, within=True) for run in (WARM.run, run_program))
    for rig in (forked, plain):
        rig.start()

    seen: tuple[Looks, Looks] = ({}, {})

    def differ() -> list[str]:
        for rig, looks in zip((forked, plain), seen, strict=True):
            for name, pid in rig.processes("master").items():
                for field, value in (look(rig, pid) if pid else {}).items():
                    looks.setdefault(f"{name}: {field}", set()).add(value)
        of_fork, of_program = seen
        return [
            f"{what}: only of the fork {of_fork.get(what)}, only of the program {of_program.get(what)}"
            for what in sorted(of_fork | of_program)
            if not of_fork.get(what, set()) & of_program.get(what, set())
        ]

    # The two nodes do the same work at different moments, for instance open the journal for some seconds. So a value
    # counts if one of them has had it at any time.
    patience = Patience(60)
    while different := differ():
        assert not patience.is_over(), "\n".join(different)
        patience.rest(0.1)
    ours = ends(os.getpid()).union(*(ends(one.pid) for one in psutil.Process().children()))
    assert ours
    for rig in (forked, plain):
        inherited = {name: ends(pid) & ours for name, pid in rig.processes("master").items() if pid}
        assert not any(inherited.values()), inherited
    for rig in (forked, plain):
        assert rig.stop() == []


def done(run: Run, *arguments: str, timeout_s: float = 60) -> tuple[int, str, str]:
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        code = run([*PROGRAM, *arguments], out, err, environment, timeout_s)
        out.seek(0)
        err.seek(0)
        return code, out.read(), err.read()


def look(rig: Rig, pid: int) -> dict[str, Hashable]:
    """Returns what the system says of a process now, without what differs between any two nodes or with their work.

    Of threads and open files only the kinds count: a pool starts a thread whenever none is idle, and keeps it; each
    connection has its socket. A process that has just ended has nothing.
    """
    try:
        process = psutil.Process(pid)
        status = Path(f"/proc/{pid}/status").read_text().splitlines()
        kept = ("Name", "Umask", "Uid", "Gid", "Groups", "NoNewPrivs", "SigB", "SigI", "SigC", "Cap")
        kinds = {re.sub("[0-9]+", "N", file.replace(str(rig.directory), "")) for file in opened(pid)}
        return {
            "line": tuple(word.replace(str(rig.directory), "") for word in process.cmdline() if word),
            "environment": tuple(sorted(process.environ())),
            "directory": process.cwd(),
            "session": os.getsid(pid) == pid,
            "nice": process.nice(),
            "status": tuple(line for line in status if line.startswith(kept)),
            "threads": tuple(sorted({re.sub("[0-9]+", "N", name) for name in threads(pid)})),
            "files": tuple(sorted(kinds)),
            "limits": Path(f"/proc/{pid}/limits").read_text(),
        }
    except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
        return {}


def threads(pid: int) -> Iterator[str]:
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            yield (thread / "comm").read_text().strip()


def opened(pid: int) -> Iterator[str]:
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            yield os.readlink(fd)


def ends(pid: int) -> set[str]:
    """The sockets and pipes that a process has open, each with its number: two processes have the same one only when
    one of them inherited it."""
    return {file for file in opened(pid) if file.startswith(("socket:", "pipe:"))}
