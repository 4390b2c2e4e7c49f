"""The board: every process sees it, one writes it, and it can be read whichever process is dead."""

import os
import signal
import stat
import time
from pathlib import Path

import pytest

from ipc.board import COUNTERS, NET_COUNTERS, POOL_COUNTERS, ROWS, SYNC_COUNTERS, Board
from tests.ipc.processes import Child, until


def test_a_childs_life_is_seen_by_its_parent_and_by_a_stranger(tmp_path: Path) -> None:
    path = str(tmp_path / "board")
    board = Board.create(path)
    row = board.add_row("net")
    row.begin(0, 3)

    def live() -> None:
        row.set_ready()
        row.add("frames_in", 5)
        row.add("frames_in", 2)
        row.set("work_max_us", 900)
        signal.pause()

    before = time.monotonic_ns()
    with Child(live) as child:
        row.set_pid(child.pid)
        until(lambda: board.row("net").snapshot().counters["work_max_us"] == 900)
        stranger = Board.open(path)
        [seen] = stranger.rows()
        assert (seen.name, seen.pid, seen.incarnation, seen.state) == ("net", child.pid, 3, "ready")
        assert seen.counters["frames_in"] == 7
        assert before <= seen.heartbeat_ns <= time.monotonic_ns()
        assert abs(seen.started_at_ns - time.time_ns()) < 60e9
    assert stranger.row("net").snapshot().counters["frames_in"] == 7, "what the dead counted stays"
    row.set_down()
    assert stranger.row("net").snapshot().pid == 0
    assert stranger.row("net").snapshot().state == "down"
    stranger.close()
    board.close()


def test_a_new_life_begins_at_nought(tmp_path: Path) -> None:
    board = Board.create(str(tmp_path / "board"))
    row = board.add_row("pool-1")
    row.begin(10, 1)
    row.add("jobs_done", 4)
    row.set_ready()
    row.set_stopping()
    assert row.snapshot().state == "stopping"
    row.set_down(failed=True)
    assert row.snapshot().state == "failed"
    row.begin(11, 2)
    row.set_restarts(1)
    seen = row.snapshot()
    assert (seen.pid, seen.incarnation, seen.state, seen.restarts) == (11, 2, "starting", 1)
    assert seen.counters == {"jobs_done": 0, "jobs_failed": 0, "busy_us": 0}
    board.close()


def test_a_full_board_does_not_mix_its_rows(tmp_path: Path) -> None:
    board = Board.create(str(tmp_path / "board"))
    names = ["net", "sync", *(f"pool-{slot}" for slot in range(ROWS - 2))]
    for number, name in enumerate(names):
        row = board.add_row(name)
        row.begin(number + 1, number + 100)
        for place, counter in enumerate(row.snapshot().counters):
            row.set(counter, number * 1000 + place)
    with pytest.raises(ValueError, match="no room"):
        board.add_row("one-more")
    stranger = Board.open(str(tmp_path / "board"))
    for number, (name, seen) in enumerate(zip(names, stranger.rows(), strict=True)):
        assert (seen.name, seen.pid, seen.incarnation) == (name, number + 1, number + 100)
        assert list(seen.counters.values()) == [number * 1000 + place for place in range(len(seen.counters))]
    stranger.close()
    board.close()


def test_every_counter_has_a_place() -> None:
    for names in (NET_COUNTERS, SYNC_COUNTERS, POOL_COUNTERS):
        assert len(set(names)) == len(names) <= COUNTERS


@pytest.mark.slow
def test_a_reader_never_sees_half_a_number(tmp_path: Path) -> None:
    """A writer alternates between two numbers that share no byte."""
    board = Board.create(str(tmp_path / "board"))
    row = board.add_row("pool-1")
    low, high = 0x0101_0101_0101_0101, 0x7E7E_7E7E_7E7E_7E7E

    def write() -> None:
        while True:
            row.set("busy_us", low)
            row.set("busy_us", high)

    with Child(write):
        until(lambda: row.snapshot().counters["busy_us"] != 0)
        seen = {row.snapshot().counters["busy_us"] for _ in range(30_000)}
    assert seen <= {low, high}
    board.close()


def test_only_the_owner_may_read_the_board(tmp_path: Path) -> None:
    board = Board.create(str(tmp_path / "board"))
    assert stat.S_IMODE(os.stat(tmp_path / "board").st_mode) == 0o600
    board.close()


def test_a_reader_of_the_old_board_survives_a_new_one(tmp_path: Path) -> None:
    """Shortening the file under a mapping would kill its readers with SIGBUS."""
    path = str(tmp_path / "board")
    first = Board.create(path)
    first.add_row("net").begin(1, 1)
    reader = Board.open(path)
    second = Board.create(path)
    assert [row.name for row in reader.rows()] == ["net"]
    assert Board.open(path).rows() == second.rows() == []
    for board in (first, second, reader):
        board.close()


def test_the_board_has_no_holes(tmp_path: Path) -> None:
    """On a full disk the first touch of a page caused a SIGBUS: `clusterd stop` and `status` died of it."""
    path = tmp_path / "board"
    board = Board.create(str(path))
    found = path.stat()
    assert found.st_size > 0
    assert found.st_blocks * 512 >= found.st_size
    board.close()


def test_a_file_that_is_no_board_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "board"
    with pytest.raises(FileNotFoundError):
        Board.open(str(path))
    for content in (b"", b"x" * 100, bytes((ROWS + 1) * 256)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="no status board"):
            Board.open(str(path))


def test_a_reader_cannot_write(tmp_path: Path) -> None:
    path = str(tmp_path / "board")
    board = Board.create(path)
    board.add_row("net")
    reader = Board.open(path)
    with pytest.raises(TypeError):
        reader.row("net").stamp()
    reader.close()
    board.close()


def test_unknown_names_are_mistakes(tmp_path: Path) -> None:
    board = Board.create(str(tmp_path / "board"))
    row = board.add_row("net")
    with pytest.raises(KeyError):
        board.row("sync")
    with pytest.raises(KeyError):
        row.add("jobs_done", 1)
    with pytest.raises(ValueError, match="at most 16 bytes"):
        board.add_row("a-name-too-long-for-it")
    board.close()
