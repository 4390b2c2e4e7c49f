"""A start in the background: the command learns the result, and its output ends when the command does."""

import contextlib
import os
import signal
import subprocess
import sys

import msgspec
import psutil
import pytest

from clusterd.exits import ExitCode
from clusterd.pidfile import running_pid
from clusterd.rights import DEBUGGABLE
from clusterd.supervisor.starter import StartResult
from tests.supervisor.conftest import FakeNode
from tests.supervisor.helpers import MARK, marked, until
from tests.warm import WARM

pytestmark = pytest.mark.slow


def start(node: FakeNode, *words: str) -> StartResult:
    """Starts the node and returns the output; waits for the end of the output, as a caller with a pipe does."""
    command = [sys.executable, "-m", "tests.supervisor.fake_node", str(node.root), *words]
    reading, writing = os.pipe()
    with open(reading, "rb") as printed:
        started = WARM.start(command, os.environ | {MARK: node.mark, DEBUGGABLE: "1"}, out=writing)
        os.close(writing)
        result = msgspec.json.decode(printed.read(), type=StartResult)
    assert started.wait(60) == result.code
    return result


def test_start_returns_when_the_node_serves(node: FakeNode) -> None:
    result = start(node, "run")

    assert result.ok
    assert result.pid == running_pid(str(node.root))
    assert node.row("net").state == "ready"
    os.kill(result.pid, signal.SIGTERM)
    until(lambda: not node.left(), "nothing is left")


def test_daemon_belongs_to_no_terminal_and_holds_nothing_of_its_starter(node: FakeNode) -> None:
    daemon = psutil.Process(start(node, "run").pid)

    assert os.getsid(daemon.pid) != os.getsid(0)
    assert daemon.ppid() != os.getpid()
    assert daemon.cwd() == "/"
    links = [os.readlink(f"/proc/{daemon.pid}/fd/{fd}") for fd in (0, 1, 2)]
    assert links == [
        f"{node.root}/var/run/wazuh-clusterd-{daemon.pid}.pid",
        f"{node.root}/logs/cluster.log",
        "/dev/null",
    ]

    def pipes() -> list[str]:
        found = []
        for fd in os.listdir(f"/proc/{daemon.pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                found.append(os.readlink(f"/proc/{daemon.pid}/fd/{fd}"))
        return [link for link in found if "pipe" in link]

    # The node closes the pipe to its starter after it has reported the result.
    until(lambda: not pipes(), "it holds no pipe")


def test_output_of_a_library_in_a_child_is_in_the_crash_log(node: FakeNode) -> None:
    node.behave("sync", "mutter Assertion failed: pipe (src/router.cpp:511)")
    start(node, "run")

    assert node.crash_log == "Assertion failed: pipe (src/router.cpp:511)\n"
    links = [os.readlink(f"/proc/{node.row('sync').pid}/fd/{fd}") for fd in (0, 1, 2)]
    assert links[1:] == [f"{node.root}/logs/cluster.log", f"{node.root}/logs/clusterd-crash.log"]


def test_start_needs_no_standard_files(node: FakeNode) -> None:
    command = [sys.executable, "-m", "tests.supervisor.fake_node", str(node.root), "run"]
    closing = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command]
    assert subprocess.run(closing, env=os.environ | {MARK: node.mark, DEBUGGABLE: "1"}, timeout=60).returncode == 0

    pid = node.row("supervisor").pid
    assert [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in (0, 1, 2)] == [
        f"{node.root}/var/run/wazuh-clusterd-{pid}.pid",
        f"{node.root}/logs/cluster.log",
        "/dev/null",
    ]
    assert node.row("net").state == "ready"


def test_start_that_was_stopped_says_so(node: FakeNode) -> None:
    node.behave("net", "late")
    command = [sys.executable, "-m", "tests.supervisor.fake_node", str(node.root), "run"]
    with (node.root / "result").open("wb") as printed:
        started = WARM.start(command, os.environ | {MARK: node.mark, DEBUGGABLE: "1"}, out=printed.fileno())
    until(lambda: "up net 1" in node.story, "net was forked")
    os.kill(running_pid(str(node.root)) or 0, signal.SIGTERM)

    assert started.wait(60) == ExitCode.COULD_NOT_START
    result = msgspec.json.decode((node.root / "result").read_bytes(), type=StartResult)
    assert result.reason == "it was stopped before it served"


def test_failed_start_gives_the_reason_when_nothing_is_left(node: FakeNode) -> None:
    node.behave("net", "refuse port 1516 is taken")
    result = start(node, "run")

    assert result == StartResult(False, "net could not start: port 1516 is taken", 0, ExitCode.COULD_NOT_START)
    assert not [path for path in node.left() if "pid" in path or "run/clusterd" in path]


def test_start_that_failed_returns_when_its_process_is_gone(node: FakeNode) -> None:
    assert start(node, "linger").reason == "not today"
    assert not marked(node.mark)


def test_second_start_gives_the_pid_of_the_first(node: FakeNode) -> None:
    first = start(node, "run")
    second = start(node, "run")

    assert second == StartResult(
        False, f"clusterd is already running with pid {first.pid}", first.pid, ExitCode.ALREADY_RUNNING
    )


def test_missing_tree_is_a_reason(node: FakeNode) -> None:
    (node.root / "logs").rmdir()

    assert start(node, "run").reason == f"{node.root}/logs is missing: make the tree with clusterd init"


def test_supervisor_that_never_answers_is_killed(node: FakeNode) -> None:
    result = start(node, "hang", "timeout_s=0.5")

    assert result.code == ExitCode.TIMED_OUT
    assert result.reason.startswith("not ready after")
    until(lambda: not marked(node.mark), "it is gone")


def test_supervisor_that_takes_long_may_be_left_starting(node: FakeNode) -> None:
    result = start(node, "hang", "timeout_s=0.5", "leave_late=1")

    assert (result.ok, result.code) == (True, ExitCode.OK)
    assert result.reason.startswith("still starting after")
    assert [process.pid for process in marked(node.mark)] == [result.pid]
    os.kill(result.pid, signal.SIGKILL)
    until(lambda: not marked(node.mark), "it is gone")


def test_supervisor_that_ends_without_a_word_is_noticed(node: FakeNode) -> None:
    result = start(node, "die")

    assert not result.ok
    assert "gave no reason" in result.reason
