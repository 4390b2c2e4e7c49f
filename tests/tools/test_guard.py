"""Everything that a harness started ends with it, and its next run finds nothing left, however it ended."""

import itertools
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tools.rig import guard
from tools.rig.guard import MARK, PROJECT, carrying, guarded
from tools.rig.peer import wait_until

HARNESS = """
import os, subprocess, sys, time
from tools.rig.guard import MARK, end_in_order, guarded
end_in_order()
with guarded("guard-test-", sys.argv[1]) as directory:
    (directory / "deep").mkdir()
    line = [sys.executable, "-c", "import time; time.sleep(600)"]
    started = subprocess.Popen(line, env=os.environ | {MARK: str(directory / "deep")}, start_new_session=True)
    try:
        print(started.pid, flush=True)
        time.sleep(600)
    finally:
        started.kill()
        started.wait()
"""


@pytest.fixture
def harness(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    (tmp_path / "places").mkdir()
    with begin(tmp_path) as process:
        yield process
        process.kill()


def begin(tmp_path: Path) -> "subprocess.Popen[str]":
    """A harness whose books are the test's own."""
    environment = os.environ | {"PYTHONPATH": str(PROJECT), "TMPDIR": str(tmp_path)}
    line = [sys.executable, "-c", HARNESS, str(tmp_path / "places")]
    return subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=environment)


def started_by(process: "subprocess.Popen[str]") -> int:
    assert process.stdout
    return int(process.stdout.readline())


def guard_of(tmp_path: Path, pid: int) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        if "tools.rig.guard" in line and f"{tmp_path}/" in line[-1] and f"/{pid}-" in line[-1]:
            found.append(process)
    return found


def is_clean(tmp_path: Path, child: int) -> bool:
    return not psutil.pid_exists(child) and os.listdir(tmp_path / "places") == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_of_a_harness_that_is_ended(
    tmp_path: Path, harness: "subprocess.Popen[str]", number: signal.Signals
) -> None:
    child = started_by(harness)
    assert os.listdir(tmp_path / "places")
    harness.send_signal(number)
    harness.wait(60)
    wait_until(lambda: is_clean(tmp_path, child), 60, "process and directory are gone")
    wait_until(lambda: not guard_of(tmp_path, harness.pid), 60, "the guard has ended")


@pytest.mark.slow
def test_next_harness_sweeps_what_a_kill_of_everything_left(tmp_path: Path, harness: "subprocess.Popen[str]") -> None:
    child = started_by(harness)
    wait_until(lambda: bool(guard_of(tmp_path, harness.pid)), 60, "the guard runs")
    for process in guard_of(tmp_path, harness.pid):
        process.kill()
    harness.kill()
    harness.wait(60)
    assert psutil.pid_exists(child)
    with begin(tmp_path) as following:
        started_by(following)
        wait_until(lambda: not psutil.pid_exists(child), 60, "what the first one started is gone")
        assert len(os.listdir(tmp_path / "places")) == 1, "that of the next one"
        following.terminate()
    assert os.listdir(tmp_path / "places") == []


@pytest.mark.slow
def test_harness_that_lives_is_left_alone(tmp_path: Path, harness: "subprocess.Popen[str]") -> None:
    child = started_by(harness)
    with begin(tmp_path) as other:
        started_by(other)
        other.kill()
        other.wait(30)
        wait_until(lambda: not guard_of(tmp_path, other.pid), 60, "its guard has swept")
    assert psutil.pid_exists(child)
    assert len(os.listdir(tmp_path / "places")) == 1


TIMED_OUT = """
import time
import pytest

made = []

@pytest.fixture(scope="module")
def shared():
    made.append(len(made))
    yield made[-1]

def test_one_that_hangs(shared):
    assert shared == 0
    time.sleep(600)

def test_the_next_gets_a_fresh_one(shared):
    assert shared == 1

def test_and_keeps_it(shared):
    assert shared == 1
"""


@pytest.mark.slow
def test_a_test_that_runs_out_of_time_fails_alone(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(textwrap.dedent(TIMED_OUT))
    line = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:randomly", "-p", "no:cacheprovider"]
    line += ["-q", "-c", str(PROJECT / "pyproject.toml"), "--rootdir", str(tmp_path), "-o", "timeout=3"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", MARK))}
    done = subprocess.run(
        [*line, str(tmp_path / "test_it.py")],
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert "1 failed, 2 passed" in done.stdout, done.stdout + done.stderr


WITHOUT_LIMITS = """
import sys
from benchmarks.suite import __main__ as suite, limits
limits.measure = lambda tree: {}
sys.exit(suite.main())
"""
"""Measuring the machine takes longer than what the test is about."""


@pytest.mark.slow
def test_benchmarks_that_are_ended_leave_no_node_and_no_directory(tmp_path: Path) -> None:
    def nodes() -> list[psutil.Process]:
        return list(carrying(MARK, lambda value: value.startswith(str(tmp_path))))

    place = tmp_path / "place"
    place.mkdir()
    line = [sys.executable, "-c", WITHOUT_LIMITS, "run", "--quick", "--jobs", "fanout", "--dir", str(place)]
    environment = os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": str(PROJECT)}
    with subprocess.Popen(
        [*line, "--out", str(tmp_path / "out.json")], cwd=PROJECT, env=environment, stdout=subprocess.DEVNULL
    ) as suite:
        wait_until(lambda: len(nodes()) >= 4, 100, "nodes of a benchmark run")
        suite.terminate()
        suite.wait(60)
    wait_until(lambda: not nodes() and os.listdir(place) == [], 60, "nothing is left")


def test_what_a_block_that_failed_has_left_running_ends_with_it(tmp_path: Path) -> None:
    line = [sys.executable, "-c", "import time; time.sleep(600)"]
    left: list[subprocess.Popen[bytes]] = []

    def block() -> None:
        with guarded("guard-test-", str(tmp_path)) as directory:
            environment = os.environ | {MARK: str(directory / "rig")}
            left.append(subprocess.Popen(line, env=environment, start_new_session=True))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        block()
    assert left[0].poll() is not None
    assert list(tmp_path.iterdir()) == []


def test_process_that_shows_no_environment_at_the_first_look_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one does that is just being executed."""
    process = subprocess.Popen(["sleep", "600"], env=os.environ | {MARK: str(tmp_path)})
    real, looks = guard.carrying, itertools.count()
    monkeypatch.setattr(guard, "carrying", lambda *asked: real(*asked) if next(looks) else iter(()))
    try:
        guard._end(tmp_path)
        assert not list(real(MARK, lambda mark: mark == str(tmp_path)))
    finally:
        process.kill()
        process.wait()


def test_a_list_that_is_being_written_is_not_swept_by_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, directory = tmp_path / "lists", tmp_path / "of-a-rig"
    place.mkdir()
    directory.mkdir()
    monkeypatch.setattr(guard, "_place", lambda: place)
    monkeypatch.setattr(guard._Books, "_begin", lambda self: None)
    books = guard._Books()
    books._file = place / f"{os.getpid()}-{psutil.Process().create_time():.2f}"
    replace = Path.replace

    def while_others_sweep(path: Path, target: Path) -> Path:
        guard.sweep()
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", while_others_sweep)
    books.add(directory)
    assert directory.is_dir()
    assert books._file.read_text() == f"{directory}\n"
