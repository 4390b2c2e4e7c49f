"""The layer below the campaigns, which fails file operations and shifts the clock, without nodes."""

import errno
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.campaigns.hooked import hooked

WORK = """
import os, sys, time
from pathlib import Path
place = Path(sys.argv[1])
for attempt in range(2):
    try:
        (place / "a").write_text("x")
        os.replace(place / "a", place / "b")
        fd = os.open(place, os.O_RDONLY)
        os.rename("b", "c", src_dir_fd=fd, dst_dir_fd=fd)
        os.fsync(fd)
        os.close(fd)
        os.unlink(place / "c")
        print("done")
    except OSError as failure:
        print(failure.errno)
print(time.time())
"""


def run(place: Path) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", WORK, str(place)], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.split()


@pytest.mark.slow
def test_each_operation_below_a_directory_fails_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "place"
    place.mkdir()
    with hooked(monkeypatch, tmp_path) as page:
        page.arm(place)
        assert run(place)[:2] == ["done", "done"]
        operations = page.disarm() // 2
        assert operations >= 6
        failed = []
        for number in range(1, operations + 1):
            page.arm(place, number, errno.EIO)
            assert run(place)[:2] == [str(errno.EIO), "done"], number
            failed.append(page.failed.split()[0])
            page.disarm()
        assert {"open", "replace", "rename", "fsync", "unlink"} <= set(failed)
        page.arm(tmp_path / "elsewhere", 1)
        assert run(place)[:2] == ["done", "done"]
        assert not page.failed


def test_wall_clock_is_shifted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "place").mkdir()
    with hooked(monkeypatch, tmp_path) as page:
        page.shift_clock(-86400)
        assert abs(float(run(tmp_path / "place")[-1]) - time.time() + 86400) < 60
