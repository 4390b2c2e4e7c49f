"""The log: stock format, one write for each line, follows a file that was moved away, never raises (wire.md 9.1)."""

import contextlib
import errno
import io
import json
import os
import re
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clusterd.logs import CHECK_S, MOST_CHARACTERS, MOST_LINES, PERIOD_S, FloodGate, Log, RateLimiter


def test_a_line_has_the_stock_format(tmp_path: Path) -> None:
    log = Log(str(tmp_path / "cluster.log"))
    log.line("INFO", "Worker w1", "Integrity check", "Starting.")
    log.close()
    text = (tmp_path / "cluster.log").read_text()
    assert re.fullmatch(r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d INFO: \[Worker w1\] \[Integrity check\] Starting\.\n", text)


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (0, ["INFO", "WARNING", "ERROR"]),
        (1, ["DEBUG", "INFO", "WARNING", "ERROR"]),
        (2, ["DEBUG2", "DEBUG", "INFO", "WARNING", "ERROR"]),
    ],
)
def test_the_level_decides_which_lines_are_written_and_may_change(
    tmp_path: Path, level: int, expected: list[str]
) -> None:
    log = Log(str(tmp_path / "cluster.log"), 0 if level else 2)
    log.set_level(level)
    for name in ("DEBUG2", "DEBUG", "INFO", "WARNING", "ERROR"):
        log.line(name, "t", "s", "x")
    log.close()
    lines = (tmp_path / "cluster.log").read_text().splitlines()
    assert [line.split()[2].rstrip(":") for line in lines] == expected


def test_json_lines_hold_the_same_facts(tmp_path: Path) -> None:
    log = Log(str(tmp_path / "cluster.log"), 0, "json")
    log.line("ERROR", "Master", "Main", "one line ü")
    log.close()
    lines = (tmp_path / "cluster.log").read_text().splitlines()
    assert len(lines) == 1
    entry = json.loads(lines[0])
    assert (entry["level"], entry["tag"], entry["subtag"], entry["message"]) == (
        "ERROR",
        "Master",
        "Main",
        "one line ü",
    )


def test_a_log_that_was_moved_away_is_created_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cluster.log"
    log = Log(str(path))
    log.line("INFO", "t", "s", "first")
    path.rename(tmp_path / "cluster.log.1")
    now = [1e9]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    log.line("INFO", "t", "s", "second")
    now[0] += CHECK_S + 1
    log.line("INFO", "t", "s", "third")
    log.close()
    assert path.read_text().endswith("third\n")
    assert "first" in (tmp_path / "cluster.log.1").read_text()


def test_a_full_disk_loses_lines_but_raises_nothing(tmp_path: Path) -> None:
    log = Log(str(tmp_path / "cluster.log"))
    log.line("INFO", "t", "s", "fits")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (os.stat(tmp_path / "cluster.log").st_size, hard))
    try:
        log.line("INFO", "t", "s", "does not fit")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert log.lost == 1
    log.close()


class Row:
    """Like a row of the board."""

    def __init__(self) -> None:
        self.on_stamp: Callable[[], None] | None = None
        self.told: list[tuple[int, int]] = []

    def set_log(self, lost: int, number: int) -> None:
        self.told.append((lost, number))

    def log_level(self) -> None:
        return None


@contextlib.contextmanager
def room_for(path: Path, more: int) -> Iterator[None]:
    """A disk with that many bytes left."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def texts(path: Path) -> list[str]:
    return [line.split("] ", 2)[-1] for line in path.read_text().splitlines()]


@pytest.mark.parametrize("more", [0, 1, 25])
@pytest.mark.parametrize("other", [False, True], ids=["same process", "another process"])
def test_a_line_that_a_full_disk_tore_is_not_glued_to_the_next(tmp_path: Path, more: int, other: bool) -> None:
    path = tmp_path / "cluster.log"
    log, second = Log(str(path)), Log(str(path))
    log.line("INFO", "t", "s", "first")
    second.line("INFO", "t", "s", "second")
    with room_for(path, more):
        log.line("INFO", "t", "s", "torn")
        assert log.lost == 1
    (second if other else log).line("INFO", "t", "s", "third")
    log.line("INFO", "t", "s", "fourth")
    log.close()
    second.close()
    found = texts(path)
    assert "third" in found
    assert found[-1] == "fourth"
    assert "1 lines could not be written here." in found


def reporting(directory: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Row, list[float], Log]:
    """Returns the path of a log with one line, the row to which it reports, its clock, and the log."""
    path, row, now = directory / "cluster.log", Row(), [1e9]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    log = Log(str(path))
    log.report_to(row)
    log.line("INFO", "t", "s", "first")
    return path, row, now, log


def test_a_process_that_cannot_write_its_log_notes_it_on_the_board_and_tries_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, row, now, log = reporting(tmp_path, monkeypatch)
    assert (row.told, row.on_stamp) == ([], None)
    path.unlink()
    path.mkdir()  # whatever cannot be opened: a directory is what root cannot open either
    now[0] += CHECK_S + 1
    for _ in range(3):
        log.line("INFO", "t", "s", "lost")
    assert row.told[-1] == (3, errno.EISDIR)
    path.rmdir()
    now[0] += CHECK_S + 1
    assert row.on_stamp is not None
    row.on_stamp()
    assert row.told[-1] == (3, 0)
    assert row.on_stamp is None
    assert texts(path) == ["3 lines could not be written here."]
    log.close()


def test_while_the_new_file_cannot_be_opened_lines_go_to_the_moved_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, row, now, log = reporting(tmp_path, monkeypatch)
    path.rename(tmp_path / "cluster.log.1")
    path.mkdir()
    now[0] += CHECK_S + 1
    log.line("INFO", "t", "s", "second")
    assert row.told[-1] == (0, errno.EISDIR)
    assert texts(tmp_path / "cluster.log.1") == ["first", "second"]
    path.rmdir()
    log.line("INFO", "t", "s", "third")
    assert row.told[-1] == (0, 0)
    assert texts(path) == ["third"]
    log.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_log_file_that_logrotate_made_for_another_user_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "cluster.log"
    tmp_path.chmod(0o777)
    for above in tmp_path.parents[:2]:
        above.chmod(0o711)
    path.touch(mode=0o600)
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setgid(4711)
        os.setuid(4711)
        log = Log(str(path))
        log.line("INFO", "t", "s", "nowhere")
        os.write(write_fd, f"{log.lost} {log.errno}".encode())
        os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(read_fd, 100) == f"1 {errno.EACCES}".encode()
    os.close(read_fd)
    os.close(write_fd)


def test_a_log_may_be_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "cluster.log")
    fd = os.open(tmp_path / "cluster.log", os.O_RDWR | os.O_NONBLOCK)
    log = Log(str(tmp_path / "cluster.log"))
    log.line("INFO", "t", "s", "through")
    assert os.read(fd, 1000).endswith(b"through\n")
    assert log.lost == 0
    log.close()
    os.close(fd)


def test_the_foreground_gets_a_copy_and_its_end_is_survived(tmp_path: Path) -> None:
    stream = io.StringIO()
    log = Log(str(tmp_path / "cluster.log"), stream=stream)
    log.line("INFO", "t", "s", "seen")
    assert "seen" in stream.getvalue()
    stream.close()
    log.line("INFO", "t", "s", "on")
    log.close()
    assert (tmp_path / "cluster.log").read_text().count("\n") == 2


def test_a_limiter_admits_one_line_a_period_and_counts_the_rest() -> None:
    limiter = RateLimiter(10)
    assert limiter.admit("a", 0) == 0
    assert limiter.admit("a", 1) is None
    assert limiter.admit("b", 1) == 0
    assert limiter.admit("a", 9) is None
    assert limiter.admit("a", 10) == 2


def test_a_limiter_remembers_a_bounded_number_of_keys() -> None:
    limiter = RateLimiter(10, keys=2)
    for key in "abc":
        assert limiter.admit(key, 0) == 0
    assert limiter.admit("c", 1) is None
    assert limiter.admit("a", 1) == 0


def test_log_of_a_daemon_is_its_standard_output_also_after_the_file_was_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, number = tmp_path / "cluster.log", os.open(os.devnull, os.O_RDWR)
    now = [1e9]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    log = Log(str(path), descriptor=number)
    log.line("INFO", "Master", "Main", "one")
    before = os.listdir("/proc/self/fd")
    path.rename(tmp_path / "moved.log")
    now[0] += CHECK_S + 1
    log.line("INFO", "Master", "Main", "two")
    os.write(number, b"printed\n")
    assert os.listdir("/proc/self/fd") == before
    assert [line.rpartition("] ")[2] for line in path.read_text().splitlines()] == ["two", "printed"]
    log.close()
    os.fstat(number)  # not closed: a file that is opened next must not be standard output
    os.close(number)


def test_worker_that_has_gone_wrong_does_not_fill_the_disk_with_lines(tmp_path: Path) -> None:
    """Its answers to questions that nobody asked are a line each, thousands in a second."""
    log = Log(str(tmp_path / "cluster.log"), 1)
    log.bound_workers()
    for number in range(2 * MOST_LINES):
        log.line("ERROR", "Worker w1", "Main", f"line {number}")
        log.line("INFO", "Master", "Main", "of this node")
    log.line("DEBUG", "Worker w1", "Main", "asked for")
    log.line("INFO", "Worker w2", "Main", "of another")
    log.close()
    lines = (tmp_path / "cluster.log").read_text().splitlines()
    of_w1 = [line for line in lines if "[Worker w1]" in line]
    assert [line.endswith(f"line {number}") for number, line in enumerate(of_w1[:MOST_LINES])] == [True] * MOST_LINES
    assert [line[20:].partition("(")[0] for line in of_w1[MOST_LINES:]] == [
        "WARNING: [Worker w1] [Log] More than 600 lines or 256 KiB about this worker in 10 s: the others of this time "
        "are left out.",
        "DEBUG: [Worker w1] [Main] asked for",
    ]
    assert (sum("of this node" in line for line in lines), lines[-1][-10:]) == (2 * MOST_LINES, "of another")


def test_worker_writes_again_when_the_time_of_its_flood_is_over() -> None:
    gate = FloodGate(tags=2)
    assert gate.admit("a", MOST_CHARACTERS, 0.0) == "yes"
    assert [gate.admit("a", 1, 1.0), gate.admit("a", 1, 2.0), gate.admit("b", 1, 2.0)] == ["the last", "no", "yes"]
    assert [gate.admit("a", 1, PERIOD_S), gate.admit("a", 1, PERIOD_S)] == ["yes", "yes"]
    assert gate.admit("c", 1, PERIOD_S) == "yes"
    assert gate.admit("b", MOST_CHARACTERS, PERIOD_S) == "yes", "forgotten: it had said nothing for the longest"
