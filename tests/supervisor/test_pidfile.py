"""One daemon at a time, told apart from everything that a crash can leave."""

import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from clusterd import pidfile
from clusterd.pidfile import AlreadyRunning, claim, is_process, running_pid
from tests.supervisor.helpers import make_tree, until

HOLDER = """
import os, signal, sys
from clusterd.pidfile import claim
claim(sys.argv[1])
child = os.fork() if sys.argv[2] == "with-child" else -1
if child:
    print(child, flush=True)
signal.pause()
"""

KILLED_AS_IT_WRITES = """
import os, signal, sys
from clusterd.pidfile import claim
os.write = lambda fd, data: os.kill(os.getpid(), signal.SIGKILL)
claim(sys.argv[1])
"""


@pytest.fixture
def root(tmp_path: Path) -> str:
    return str(make_tree(tmp_path))


class Holder:
    def __init__(self, root: str, kind: str = "alone") -> None:
        self.process = subprocess.Popen([sys.executable, "-c", HOLDER, root, kind], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.child = int(self.process.stdout.readline())

    def kill(self, *, is_waited_for: bool = True) -> None:
        self.process.kill()
        if is_waited_for:
            self.process.wait()
        else:
            until(lambda: psutil.Process(self.process.pid).status() == psutil.STATUS_ZOMBIE, "it has ended")
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def holder(root: str) -> Iterator[Holder]:
    held = Holder(root)
    yield held
    held.kill()


def files(root: str) -> list[str]:
    return sorted(os.listdir(f"{root}/var/run"))


def test_file_that_another_program_has_removed_is_written_again(root: str) -> None:
    pid_file, _ = claim(root)
    os.utime(pid_file.path, (1000, 1000))
    assert not pid_file.restore()
    os.unlink(pid_file.path)
    assert running_pid(root) is None
    assert pid_file.restore()
    assert running_pid(root) == os.getpid()
    assert os.stat(pid_file.path).st_mtime == 1000, "when the node began"
    pid_file.remove()
    assert files(root) == []


def test_file_that_was_removed_leaves_that_of_a_second_node_alone(root: str) -> None:
    pid_file, _ = claim(root)
    os.unlink(pid_file.path)
    second = Holder(root)
    try:
        assert not pid_file.restore()
        assert running_pid(root) == second.process.pid
    finally:
        second.kill()
        pid_file.remove()


def test_file_has_the_stock_name_content_and_mode(root: str) -> None:
    pid_file, stale = claim(root)
    assert stale == []
    assert Path(pid_file.path).name == f"wazuh-clusterd-{os.getpid()}.pid"
    assert Path(pid_file.path).read_text() == f"{os.getpid()}\n"
    assert stat.S_IMODE(Path(pid_file.path).stat().st_mode) == 0o640
    pid_file.remove()
    assert files(root) == []


@pytest.mark.parametrize("call", ["fchmod", "write", "rename"])
def test_file_is_there_whole_and_locked_or_not_at_all(root: str, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """A stock control script that runs between two system calls finds nothing to remove."""
    seen = []
    real = getattr(os, call)

    def looked(*args: Any, **keywords: Any) -> Any:
        seen.append((list(Path(root).glob("var/run/wazuh-clusterd*")), running_pid(root)))
        found = real(*args, **keywords)
        whole = [path.read_text() for path in Path(root).glob("var/run/wazuh-clusterd*")]
        seen.append((whole, running_pid(root)))
        return found

    monkeypatch.setattr(os, call, looked)
    pid_file, _ = claim(root)
    monkeypatch.undo()
    assert seen == [([], None), ([f"{os.getpid()}\n"], os.getpid()) if call == "rename" else ([], None)]
    pid_file.remove()


def test_start_that_is_killed_before_its_file_is_whole_leaves_nothing_for_good(root: str) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED_AS_IT_WRITES, root], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(files(root)) == 1
    assert running_pid(root) is None

    pid_file, stale = claim(root)

    assert stale == []  # it was none
    assert files(root) == [Path(pid_file.path).name]
    pid_file.remove()


def test_running_pid_is_known_while_it_runs_and_no_longer(root: str) -> None:
    assert running_pid(root) is None
    held = Holder(root)
    assert running_pid(root) == held.process.pid
    held.kill()
    assert running_pid(root) is None


def test_second_claim_names_the_first_pid(root: str, holder: Holder) -> None:
    with pytest.raises(AlreadyRunning, match=f"clusterd is already running with pid {holder.process.pid}"):
        claim(root)
    assert files(root) == [f"wazuh-clusterd-{holder.process.pid}.pid"]


def test_file_of_a_killed_daemon_is_removed_and_named(root: str) -> None:
    held = Holder(root)
    held.kill()

    pid_file, stale = claim(root)

    assert stale == [f"wazuh-clusterd-{held.process.pid}.pid"]
    assert files(root) == [Path(pid_file.path).name]
    pid_file.remove()


def test_pid_given_to_another_program_does_not_count(root: str) -> None:
    """A container restarts with the same small pids: the pid file of the last run names a living process, perhaps this
    one."""
    for pid in (os.getpid(), os.getppid(), 1):
        Path(root, f"var/run/wazuh-clusterd-{pid}.pid").write_text(f"{pid}\n")

    pid_file, stale = claim(root)

    assert len(stale) == len({os.getpid(), os.getppid(), 1})
    assert running_pid(root) == os.getpid()
    pid_file.remove()


def test_stock_children_files_are_stale_too(root: str) -> None:
    Path(root, "var/run/wazuh-clusterd_child_1-999999.pid").write_text("999999\n")
    Path(root, "var/run/wazuh-analysisd-999999.pid").write_text("999999\n")

    pid_file, stale = claim(root)

    assert stale == ["wazuh-clusterd_child_1-999999.pid"]
    pid_file.remove()
    assert files(root) == ["wazuh-analysisd-999999.pid"]


def test_running_stock_daemon_is_recognised(root: str, tmp_path: Path) -> None:
    script = tmp_path / "wazuh-clusterd.py"
    script.write_text("import signal\nprint('up', flush=True)\nsignal.pause()\n")
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE) as stock:
        assert stock.stdout is not None
        stock.stdout.readline()
        Path(root, f"var/run/wazuh-clusterd-{stock.pid}.pid").write_text(f"{stock.pid}\n")
        with pytest.raises(AlreadyRunning, match=f"the stock wazuh-clusterd is already running with pid {stock.pid}"):
            claim(root)
        stock.kill()


@pytest.mark.parametrize("is_waited_for", [True, False], ids=["gone", "zombie"])
def test_claim_waits_for_the_children_of_a_killed_daemon(root: str, is_waited_for: bool) -> None:
    """They still have the port, the sockets and the lock. The daemon itself may stay a zombie for good: the first
    process of a container may never wait for it."""
    held = Holder(root, "with-child")
    held.kill(is_waited_for=is_waited_for)
    assert running_pid(root) == held.process.pid
    ending = threading.Timer(0.3, os.kill, (held.child, signal.SIGKILL))
    began = time.monotonic()
    ending.start()

    pid_file, stale = claim(root)

    ending.join()
    assert time.monotonic() - began >= 0.3
    assert stale == [f"wazuh-clusterd-{held.process.pid}.pid"]
    until(lambda: not psutil.pid_exists(held.child), "the child is gone")
    held.process.wait()
    pid_file.remove()


def test_claim_says_that_processes_of_a_killed_daemon_do_not_end(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pidfile, "DYING_WAIT_S", 0.0)
    held = Holder(root, "with-child")
    held.kill()
    try:
        with pytest.raises(
            AlreadyRunning, match=rf"\(pid {held.process.pid}\) was killed, and processes of it have not"
        ):
            claim(root)
    finally:
        os.kill(held.child, signal.SIGKILL)


@pytest.mark.slow
def test_many_starts_at_once_give_one_daemon(root: str) -> None:
    started = [
        subprocess.Popen(
            [sys.executable, "-c", HOLDER, root, "alone"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        for _ in range(4)
    ]
    until(lambda: sum(one.poll() is None for one in started) == 1, "all but one have given up")
    winner = next(one for one in started if one.poll() is None)
    until(lambda: running_pid(root) == winner.pid, "the last one runs")
    for one in started:
        one.kill()
        one.communicate()


def test_process_is_told_from_a_thread_and_from_one_that_is_gone() -> None:
    assert is_process(os.getpid())
    assert is_process(1)
    ended = subprocess.Popen(["true"])
    ended.wait()
    thread = threading.Thread(target=(stop := threading.Event()).wait)
    thread.start()
    try:
        assert thread.native_id is not None
        assert not is_process(thread.native_id)
    finally:
        stop.set()
        thread.join()
    assert [pid for pid in (ended.pid, 2**31 - 1, 9999999999) if is_process(pid)] == []
