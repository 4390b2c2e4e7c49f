"""The log: stock format, one write a line, follows a file that was moved away, never raises (wire.md 9.1)."""

import io
import json
import os
import re
import resource
from pathlib import Path

import pytest

from clusterd.logs import CHECK_S, Log, RateLimiter


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


def test_a_log_that_was_moved_away_is_begun_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
