"""`clusterd log`: which entries of a log it shows, in both formats, and lines that are written meanwhile."""

import io
import itertools
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from clusterd.exits import ExitCode
from clusterd.logs import Log
from clusterd.pidfile import claim
from clusterd.rundir import board_path
from ipc.board import Board
from tools import log_reader
from tools.cli import cluster
from tools.log_reader import WantedLines, follow, last
from tools.show import reader_is_gone


def line(level: str, tag: str, subtag: str, text: str) -> str:
    return f"2026/11/30 00:03:15 {level}: [{tag}] [{subtag}] {text}\n"


CONTENT = "".join(
    (
        "the end of a stack whose beginning was rotated away\n",
        line("INFO", "Master", "Main", "Serving on ('127.0.0.1', 1516)"),
        line("DEBUG", "Worker w1", "Integrity check", "Starting."),
        line("ERROR", "Worker w10", "Main", "Error during connection with 'w10': reset."),
        line("ERROR", "Master", "Sync", "Unexpected failure: boom") + "Traceback: a\n  b\n",
        line("WARNING", "Master", "Workers", "Worker w1 (10.0.0.7) is lost. 1 of 2 workers are connected."),
    )
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "cluster.log").write_text(CONTENT)
    return tmp_path


def run(root: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cluster, ["--root", str(root), "log", *arguments])


def shown(root: Path, *arguments: str) -> list[str]:
    """The texts of the lines that begin entries."""
    done = run(root, *arguments)
    assert done.exit_code == 0, done.output
    return [row.split("] ", 2)[2] for row in done.output.splitlines() if row.startswith("2026")]


def test_last_entries_are_shown_whole_and_in_order(root: Path) -> None:
    assert len(shown(root)) == 5
    assert shown(root, "-n", "2") == [
        "Unexpected failure: boom",
        "Worker w1 (10.0.0.7) is lost. 1 of 2 workers are connected.",
    ]
    assert "Traceback: a\n  b\n" in run(root, "-n", "2").output


def test_entries_are_chosen_by_level_node_and_text(root: Path) -> None:
    assert len(shown(root, "--level", "warning")) == 3
    assert shown(root, "--node", "w1") == ["Starting.", "Worker w1 (10.0.0.7) is lost. 1 of 2 workers are connected."]
    assert shown(root, "--grep", r"Traceback|lost\.", "-n", "1") == [
        "Worker w1 (10.0.0.7) is lost. 1 of 2 workers are connected."
    ]
    assert shown(root, "--grep", "Traceback") == ["Unexpected failure: boom"]


def test_lines_of_the_json_format_are_entries(root: Path) -> None:
    row = {"time": "2026/11/30 00:03:15", "level": "ERROR", "tag": "Worker w9", "subtag": "Main", "message": "gone"}
    with open(root / "logs" / "cluster.log", "a") as log:
        log.write(json.dumps(row) + "\n")
    assert json.loads(run(root, "--node", "w9").output) == row


@pytest.mark.parametrize(
    ("environment", "is_coloured"),
    [({}, False), ({"FORCE_COLOR": "1"}, True), ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False)],
)
def test_colours_are_those_that_the_environment_wants(
    root: Path, environment: dict[str, str], is_coloured: bool
) -> None:
    before = dict.fromkeys(("NO_COLOR", "FORCE_COLOR"), None)
    done = CliRunner().invoke(cluster, ["--root", str(root), "log"], env={**before, "TERM": "xterm", **environment})
    assert ("\x1b[31m" in done.output) == is_coloured


def test_bad_input_is_one_line(root: Path, tmp_path: Path) -> None:
    assert "--grep" in run(root, "--grep", "(").output
    assert run(root, "--grep", "(").exit_code != 0
    missing = run(tmp_path / "nowhere")
    assert missing.exit_code == ExitCode.NOT_RUNNING
    assert "there is no node at" in missing.output


@pytest.mark.parametrize("size", [7, 64, 65536])
def test_reading_from_the_end_does_not_depend_on_the_size_of_a_read(
    root: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_reader, "BLOCK", size)
    found, end = last(str(root / "logs" / "cluster.log"), 100, WantedLines())
    assert [entry.level for entry in found] == ["INFO", "DEBUG", "ERROR", "ERROR", "WARNING"]
    assert end == len(CONTENT)


def test_what_is_written_is_followed_through_a_rotation(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_reader, "POLL_S", 0.001)
    path = root / "logs" / "cluster.log"
    following = follow(str(path), len(CONTENT), WantedLines("INFO"))

    def next_text() -> str:
        entry = next(entry for entry in itertools.islice(following, 1000) if entry is not None)
        return entry.text.split("] ", 2)[2]

    assert next(following) is None
    with open(path, "a") as log:
        log.write(line("DEBUG", "Master", "Main", "not this") + line("INFO", "Master", "Main", "one")[:20])
        log.flush()
        assert next(following) is None
        log.write(line("INFO", "Master", "Main", "one")[20:])
    assert next_text() == "one"
    path.rename(root / "logs" / "cluster.log.1")
    assert next(following) is None
    path.write_text(line("ERROR", "Master", "Main", "two"))
    assert next_text() == "two"
    following.close()


def test_lines_that_come_into_a_moved_log_are_not_missed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has just looked writes there for up to a second."""
    monkeypatch.setattr(log_reader, "POLL_S", 0.0)
    monkeypatch.setattr(log_reader, "STRAGGLERS_S", 3600.0)
    path, moved = root / "logs" / "cluster.log", root / "logs" / "cluster.log.1"
    following = follow(str(path), len(CONTENT), WantedLines("INFO"))
    assert next(following) is None
    path.rename(moved)
    path.write_text(line("INFO", "Master", "Main", "new file"))
    assert [entry and entry.text[-8:] for entry in itertools.islice(following, 2)] == [None, "new file"]
    with moved.open("a") as log:
        log.write(line("INFO", "Master", "Main", "late one"))
    with path.open("a") as log:
        log.write(line("INFO", "Master", "Main", "the next"))
    found = [entry.text[-8:] for entry in itertools.islice(following, 4) if entry is not None]
    assert sorted(found) == ["late one", "the next"]
    following.close()


def test_following_a_node_that_does_not_run_says_so(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def follow_nothing(*_: object) -> Iterator[None]:
        yield None
        raise KeyboardInterrupt

    monkeypatch.setattr("tools.cli_log.follow", follow_nothing)
    done = run(root, "-f", "-n", "1")
    assert done.exit_code == 0
    assert "New lines are shown once it runs." in done.stderr
    assert "New lines" not in done.stdout


def test_following_ends_when_its_reader_has_gone_although_nothing_is_written(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tools.cli_log.reader_is_gone", lambda: True)
    done = run(root, "--follow", "-n", "1")
    assert (done.exit_code, done.stdout.count("2026/11/30")) == (0, 1)


def test_reader_of_the_output_is_missed_only_in_a_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, its = os.pipe()
    with open(its, "w") as pipe, open(tmp_path / "file", "w") as file:
        for stream in (pipe, file, io.StringIO()):
            monkeypatch.setattr("sys.stdout", stream)
            assert not reader_is_gone()
        os.close(ours)
        monkeypatch.setattr("sys.stdout", pipe)
        assert reader_is_gone()
    monkeypatch.setattr("sys.stdout", None)
    assert reader_is_gone()


# ---- log-level -------------------------------------------------------------------------------------------------------


@pytest.fixture
def board(root: Path) -> Iterator[Board]:
    path = Path(board_path(str(root)))
    path.parent.mkdir(parents=True)
    pid_file, _ = claim(str(root))
    made = Board.create(str(path))
    yield made
    made.close()
    pid_file.remove()


def level(root: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cluster, ["--root", str(root), "log-level", *arguments])


def test_level_of_every_process_changes_for_a_while(root: Path, board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log(str(root / "logs" / "cluster.log"))
    log.report_to(board.add_row("net"))
    assert not log.is_on("DEBUG2")
    assert "debug2 for 10 min" in level(root, "debug2", "--for", "10m").output
    assert log.is_on("DEBUG2")
    now = time.monotonic_ns()
    monkeypatch.setattr("ipc.board.time.monotonic_ns", lambda: now + 601 * 10**9)
    assert not log.is_on("DEBUG2")
    assert "configuration says" in level(root).output


def test_level_goes_back_at_once_when_asked(root: Path, board: Board) -> None:
    log = Log(str(root / "logs" / "cluster.log"))
    log.report_to(board.add_row("net"))
    level(root, "debug")
    assert (log.is_on("DEBUG"), log.is_on("DEBUG2")) == (True, False)
    level(root, "default")
    assert (log.is_on("DEBUG"), log.is_on("INFO")) == (False, True)


def test_node_that_was_killed_has_no_level_although_its_board_is_there(root: Path) -> None:
    path = Path(board_path(str(root)))
    path.parent.mkdir(parents=True)
    (root / "etc").mkdir()
    (root / "etc/ossec.conf").touch()
    Board.create(str(path)).close()
    for words in ((), ("debug",)):
        done = level(root, *words)
        assert (done.exit_code, done.stdout) == (4, "")
        assert "clusterd is not running at" in done.stderr


def test_node_whose_board_another_program_has_removed_is_not_called_down(root: Path, board: Board) -> None:
    Path(board_path(str(root))).unlink()
    done = level(root, "debug")
    assert (done.exit_code, "is not running" in done.stderr) == (1, False)
    assert "clusterd restart" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("loud",), 2, "is not one of"),
        (("debug", "--for", "soon"), 2, "give 90s, 10m or 2h"),
        ((), 4, "there is no node"),
    ],
)
def test_bad_level_is_one_line(tmp_path: Path, arguments: tuple[str, ...], code: int, text: str) -> None:
    done = level(tmp_path, *arguments)
    assert done.exit_code == code
    assert text in done.output
