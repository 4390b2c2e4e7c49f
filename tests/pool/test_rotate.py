"""The log of a day: moved, compressed, whole after any crash."""

import gzip
import stat
from pathlib import Path
from threading import Thread

import pytest

from clusterd.logs import Log
from clusterd.pool.rotate import rotate_log

DAY = "2026-11-05"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "logs").mkdir()
    return tmp_path


def archive(root: Path) -> Path:
    return root / "logs/cluster/2026/Nov/cluster.log-05.gz"


def rotate(root: Path, follow_s: float = 0.0) -> int:
    return rotate_log(str(root), DAY, lambda: None, follow_s)


def test_log_is_moved_to_the_stock_place_with_the_stock_modes(root: Path) -> None:
    (root / "logs/cluster.log").write_text("a line\n")

    assert rotate(root) == 1

    assert gzip.decompress(archive(root).read_bytes()) == b"a line\n"
    assert not (root / "logs/cluster.log").exists()
    assert [path.name for path in archive(root).parent.iterdir()] == [archive(root).name]
    assert stat.S_IMODE(archive(root).stat().st_mode) == 0o640
    for directory in list(archive(root).parents)[:3]:
        assert stat.S_IMODE(directory.stat().st_mode) == 0o750


def test_second_log_of_a_day_is_appended(root: Path) -> None:
    for text in ("morning\n", "evening\n"):
        (root / "logs/cluster.log").write_text(text)
        rotate(root)

    assert gzip.decompress(archive(root).read_bytes()) == b"morning\nevening\n"


def test_log_that_was_moved_before_a_crash_is_compressed_later(root: Path) -> None:
    archive(root).parent.mkdir(parents=True)
    archive(root).with_suffix("").write_text("moved\n")
    (root / "logs/cluster.log").write_text("of today\n")

    assert rotate(root) == 1

    assert gzip.decompress(archive(root).read_bytes()) == b"moved\n"
    assert (root / "logs/cluster.log").read_text() == "of today\n"


def test_no_log_and_an_empty_log_are_left_alone(root: Path) -> None:
    assert rotate(root) == 0
    (root / "logs/cluster.log").touch()
    assert rotate(root) == 0
    assert (root / "logs/cluster.log").exists()
    assert not archive(root).exists()


def test_lines_written_while_it_is_moved_are_not_lost(root: Path) -> None:
    log = Log(str(root / "logs/cluster.log"))
    log.line("INFO", "Master", "Main", "before")
    count = 0

    def write_on() -> None:
        nonlocal count
        count += 1
        log.line("INFO", "Master", "Main", f"line {count}")

    rotate_log(str(root), DAY, write_on, 1.5)

    kept = gzip.decompress(archive(root).read_bytes()).decode() + (root / "logs/cluster.log").read_text()
    assert [line.split("] ")[-1] for line in kept.splitlines()] == ["before", *(f"line {n + 1}" for n in range(count))]
    log.close()


def test_rotations_of_one_log_take_turns(root: Path) -> None:
    """A new sync process asks for a rotation while a pool process is still busy with the one before: no line is lost or
    doubled."""
    (root / "logs/cluster.log").write_text("a line\n" * 200_000)
    second: list[Thread] = []
    made: list[int] = []

    def on_step() -> None:
        if not second:
            second.append(Thread(target=lambda: made.append(rotate_log(str(root), DAY, lambda: None, 0.0))))
            second[0].start()
            second[0].join(0.3)  # without turns it is done before the first goes on

    made.append(rotate_log(str(root), DAY, on_step, 0.0))
    second[0].join(30)

    assert sorted(made) == [0, 1]
    assert gzip.decompress(archive(root).read_bytes()) == b"a line\n" * 200_000
