"""Nodes on a full disk: reported at once, shown until it is over, and mended by room alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.disk_stories import STORIES

pytestmark = pytest.mark.slow

OWN_MOUNTS = ["unshare", "--mount", "--propagation", "private"]


def may_mount() -> bool:
    try:
        done = subprocess.run([*OWN_MOUNTS, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False)
    except FileNotFoundError:
        return False
    return done.returncode == 0


@pytest.mark.parametrize("story", list(STORIES))
def test_disk(story: str) -> None:
    if os.geteuid() != 0 or not may_mount():
        pytest.skip("needs root and leave to mount a tmpfs in a namespace of its own")
    command = [*OWN_MOUNTS, sys.executable, "-m", "tests.system.disk_stories", story]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
