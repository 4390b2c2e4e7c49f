"""Every operation on files of an application, a scan, a registration, a merge and a change of role fails once, and once
its process dies there: each file is old or new, nothing that was answered is lost, and the next round is right. No
nodes; `file_faults` is the same with nodes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.campaigns.works import WORKS
from tools.rig.guard import guarded

MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""The test cuts no power, so it need not wait for a disk's syncs."""


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("work", WORKS)
def test_whichever_operation_fails_or_is_the_last_the_next_round_is_right(work: str) -> None:
    with guarded("every-", MEMORY) as place:
        done = subprocess.run(
            [sys.executable, "-m", "tests.campaigns.every_operation", work, str(place)],
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert int(done.stdout.split()[-2]) > 20, "the layer counts"
