"""`stop` returns when nothing of the node is left."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

from clusterd.exits import ExitCode
from clusterd.pidfile import claim
from clusterd.rundir import board_path
from clusterd.settings import Clusterd, Settings
from clusterd.status.status import StatusReader
from clusterd.status.verdict import verdict
from clusterd.supervisor.privileges import WORKING_DIRECTORIES
from clusterd.supervisor.starter import StartResult
from ipc.board import Board
from tests.supervisor.helpers import until
from tools.check import Checked
from tools.cli import cluster, main
from tools.outcome import Outcome
from tools.restarting import ROOM_BYTES, room_to_start
from tools.stopping import stop

SLOW_TO_END = """
import signal, sys
from clusterd.pidfile import claim
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1})
pid_file, _ = claim(sys.argv[1])
print("up", flush=True)
signal.sigwait({signal.SIGTERM})
pid_file.remove()
signal.sigwait({signal.SIGUSR1})
"""


LED = """
import os, signal, sys
from clusterd.pidfile import claim
from clusterd.rundir import board_path
from ipc.board import Board
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1})
pid_file, _ = claim(sys.argv[1])
board = Board.create(board_path(sys.argv[1]))
board.add_row("election").begin(os.getpid(), 1)
print("up", flush=True)
signal.sigwait({signal.SIGTERM})
signal.sigwait({signal.SIGUSR1})
pid_file.remove()
"""

HANGS_UP = """
import os, signal, sys, types
from pathlib import Path
from clusterd.supervisor.starter import StartResult
from tools import cli_start, cutover
from tools.check import Checked
from tools.cli import main
from tools.outcome import Outcome
def hang_up(*_, **options):
    os.kill(os.getpid(), signal.SIGHUP)
    return Outcome(True, lines=["clusterd has stopped."])
def start(root, *, say, **options):
    say("a warning that nobody reads")
    Path(root, "started").touch()
    return StartResult(True, "", 8)
def swap(self, **options):
    hang_up()
    self._say("stopping the stock daemon")
    Path(self._root, "started").touch()
    return Outcome(True)
cli_start.check = lambda root: Checked(True, [])
cli_start.stopping = types.SimpleNamespace(stop=hang_up)
sys.modules["tools.starting"] = types.SimpleNamespace(start=start)
cli_start._say_master = lambda *_: None
cutover.Cutover.adopt = cutover.Cutover.undo = swap
main()
"""


def test_stop_waits_for_a_process_that_has_removed_its_pid_file_and_still_ends(tmp_path: Path) -> None:
    (tmp_path / "var/run").mkdir(parents=True)
    outcomes: list[Outcome] = []
    with subprocess.Popen([sys.executable, "-c", SLOW_TO_END, str(tmp_path)], stdout=subprocess.PIPE) as node:
        assert node.stdout is not None
        try:
            assert node.stdout.readline() == b"up\n"
            stopping = threading.Thread(target=lambda: outcomes.append(stop(str(tmp_path), timeout_s=60)))
            stopping.start()
            until(lambda: not [*(tmp_path / "var/run").glob("*.pid")], "the pid file is removed")
            stopping.join(0.3)
            assert stopping.is_alive()
            node.send_signal(signal.SIGUSR1)
            stopping.join(60)
        finally:
            node.kill()
    assert [(outcome.ok, outcome.lines) for outcome in outcomes] == [(True, ["clusterd has stopped."])]


def test_status_says_that_a_node_is_starting_or_stopping(tmp_path: Path) -> None:
    """Its processes end before it does: whoever looks then must not take it for one that hangs."""
    (tmp_path / "var/run/clusterd").mkdir(parents=True)
    pid_file, _ = claim(str(tmp_path))
    board = Board.create(board_path(str(tmp_path)))
    row = board.add_row("supervisor")
    try:
        said = []
        for change in (lambda: row.begin(os.getpid(), 1), row.set_ready, row.set_stopping):
            change()
            said.append(verdict(StatusReader(str(tmp_path), may_wait=False).read()).reason)
    finally:
        board.close()
        pid_file.remove()
    is_it = f"clusterd (pid {os.getpid()}) is "
    assert [text.startswith(is_it) for text in said] == [True, False, True]
    assert "is starting: " in said[0]
    assert "is stopping: " in said[2]


def test_stop_leaves_an_election_the_time_for_its_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`on_demote` that is killed leaves the address of the master on two machines."""
    monkeypatch.setattr("tools.stopping.ELECTION_MORE_S", 60.0)
    (tmp_path / "var/run/clusterd").mkdir(parents=True)
    outcomes: list[Outcome] = []
    with subprocess.Popen([sys.executable, "-c", LED, str(tmp_path)], stdout=subprocess.PIPE) as node:
        assert node.stdout is not None
        try:
            assert node.stdout.readline() == b"up\n"
            stopping = threading.Thread(target=lambda: outcomes.append(stop(str(tmp_path), timeout_s=0.1)))
            stopping.start()
            stopping.join(0.5)
            assert (stopping.is_alive(), node.poll()) == (True, None)
            node.send_signal(signal.SIGUSR1)
            stopping.join(60)
        finally:
            node.kill()
    assert [(outcome.ok, outcome.lines) for outcome in outcomes] == [(True, ["clusterd has stopped."])]


def test_room_for_the_next_start_is_held_until_the_node_has_stopped(tmp_path: Path) -> None:
    for directory in WORKING_DIRECTORIES:
        (tmp_path / directory).mkdir(parents=True)
    settings = Settings(str(tmp_path), clusterd=Clusterd(owner="root"))
    with room_to_start(settings) as problem:
        assert problem == ""
        (held,) = (tmp_path / "var/run").iterdir()
        assert held.stat().st_blocks * 512 >= ROOM_BYTES
    assert not list((tmp_path / "var/run").iterdir())
    (tmp_path / "logs").rmdir()
    with room_to_start(settings) as problem:
        assert "logs is missing" in problem


@pytest.mark.parametrize("lives", [False, True])
def test_restart_starts_a_node_that_had_to_be_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, lives: bool
) -> None:
    """Whoever restarts a node that hangs must not be left without one."""
    late = Outcome(False, "did not stop within 30 s and was killed: pid 7", int(ExitCode.TIMED_OUT))
    monkeypatch.setattr("tools.cli_start.check", lambda root: Checked(True, []))
    monkeypatch.setattr("tools.cli_start.stopping.stop", lambda root, timeout_s: late)
    monkeypatch.setattr("tools.cli_start.running_pid", lambda root: 7 if lives else None)
    monkeypatch.setattr("tools.cli_start._say_master", lambda *_: None)
    monkeypatch.setattr("tools.starting.start", lambda *_, **options: StartResult(True, "", 8))
    (tmp_path / "queue/cluster").mkdir(parents=True)
    done = CliRunner().invoke(cluster, ["--root", str(tmp_path), "restart"])
    assert done.stderr == f"clusterd: {late.reason}\n"
    assert (done.exit_code, done.stdout) == ((6, "") if lives else (0, "clusterd runs (pid 8).\n"))


@pytest.mark.parametrize(
    ("line", "place", "said"),
    [
        ("stop", "tools.cli_stop.stopping.stop", "the node goes on stopping"),
        ("restart", "tools.cli_start.stopping.stop", "is not started again: clusterd start"),
        ("start", "tools.starting.start", "a start that has begun goes on"),
        ("ha pause", "tools.election_orders.carry_out", "an order that is in etcd stays there"),
        ("adopt --now", "tools.cutover.Cutover.adopt", "what was done stays, and is whole: repeat the command"),
        ("adopt --undo --now", "tools.cutover.Cutover.undo", "what was done stays, and is whole: repeat the command"),
    ],
)
def test_interrupt_says_what_goes_on_without_the_command(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    line: str,
    place: str,
    said: str,
) -> None:
    def interrupted(*_: object, **options: object) -> None:
        raise KeyboardInterrupt

    (tmp_path / "queue/cluster").mkdir(parents=True)
    monkeypatch.setattr("tools.cli_start.check", lambda root: Checked(True, []))
    monkeypatch.setattr(place, interrupted)
    monkeypatch.setattr("sys.argv", ["clusterd", "--root", str(tmp_path), *line.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capfd.readouterr()
    assert (ended.value.code, out) == (130, "")
    assert err.startswith("clusterd: interrupted, but ")
    assert said in err


@pytest.mark.parametrize("line", ["restart", "adopt --now", "adopt --undo --now"])
def test_what_stops_one_daemon_to_start_another_goes_on_when_its_terminal_is_closed(tmp_path: Path, line: str) -> None:
    """Whose connection is lost at night must not have left the node without a daemon."""
    (tmp_path / "queue/cluster").mkdir(parents=True)
    read_fd, closed = os.pipe()
    os.close(read_fd)
    words = [sys.executable, "-c", HANGS_UP, "--root", str(tmp_path), *line.split()]
    with os.fdopen(closed, "w") as output:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, timeout=60)
    assert ((tmp_path / "started").exists(), done.returncode) == (True, 0)


STARTS = """#!/bin/sh
cd {root} && touch begun && until [ -e go ]; do sleep 0.02; done; touch started
"""


def test_interrupt_does_not_kill_the_program_that_starts_the_next_daemon(tmp_path: Path) -> None:
    """The other daemon is stopped by then: whoever loses patience must not be left without any."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/wazuh-clusterd"
    program.write_text(STARTS.format(root=tmp_path))
    program.chmod(0o755)
    words = [sys.executable, "-c", f"from tools.adopt_switch import start; start({str(tmp_path)!r}, 'clusterd')"]
    with subprocess.Popen(words, stderr=subprocess.DEVNULL, start_new_session=True) as adopt:
        until((tmp_path / "begun").exists, "the start has begun")
        os.killpg(adopt.pid, signal.SIGINT)  # as a terminal does
        adopt.wait(60)
    (tmp_path / "go").touch()
    until((tmp_path / "started").exists, "the start has ended")
