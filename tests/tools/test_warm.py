"""Commands in forks are what they are as programs: tests that start nodes rely on it (tests/warm.py)."""

import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import MakeRig
from tests.warm import WARM
from tools.rig.nodes import PROGRAM, PROJECT, Rig, Run, run_program
from tools.rig.peer import wait_until


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


@pytest.mark.slow
def test_a_node_that_a_fork_started_looks_like_one_of_the_program(make_rig: MakeRig) -> None:
    forked, plain = (make_rig(0, run=run) for run in (WARM.run, run_program))
    for rig in (forked, plain):
        rig.start()

    def differ() -> list[str]:
        pids = [rig.processes("master") for rig in (forked, plain)]
        return [name for name in pids[1] if looks(forked, pids[0][name]) != looks(plain, pids[1][name])]

    wait_until(lambda: not differ(), 60, "each process is the same")
    for rig in (forked, plain):
        assert rig.stop() == []


def done(run: Run, *arguments: str, timeout_s: float = 60) -> tuple[int, str, str]:
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        code = run([*PROGRAM, *arguments], out, err, environment, timeout_s)
        out.seek(0)
        err.seek(0)
        return code, out.read(), err.read()


def looks(rig: Rig, pid: int | None) -> dict[str, Any]:
    """What the system says of a process, without what differs between any two nodes."""
    assert pid is not None
    process = psutil.Process(pid)
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    kept = ("Name", "Umask", "Uid", "Gid", "Groups", "NoNewPrivs", "Threads", "SigB", "SigI", "SigC", "Cap")
    files = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
    return {
        "line": [word.replace(str(rig.directory), "") for word in process.cmdline() if word],
        "environment": sorted(process.environ()),
        "directory": process.cwd(),
        "session": os.getsid(pid) == pid,
        "nice": process.nice(),
        "status": [line for line in status if line.startswith(kept)],
        "files": sorted(re.sub("[0-9]+", "N", file.replace(str(rig.directory), "")) for file in files),
        "limits": Path(f"/proc/{pid}/limits").read_text(),
    }
