"""Nodes on a full disk: reported at once, shown until it is over, and mended by room alone."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
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


@pytest.fixture(scope="module")
def play() -> Iterator[Callable[[str], str]]:
    """Plays a story in the module's namespace; returns what failed."""
    if os.geteuid() != 0 or not may_mount():
        pytest.skip("needs root and leave to mount a tmpfs in a namespace of its own")
    command = [*OWN_MOUNTS, sys.executable, "-m", "tests.system.disk_stories"]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        stories, answers = process.stdin, process.stdout

        def one(story: str) -> str:
            stories.write(f"{story}\n")
            stories.flush()
            failed: str = json.loads(answers.readline() or '"the process has ended"')
            return failed

        try:
            yield one
            stories.close()
            process.wait(60)
        finally:
            process.kill()


@pytest.mark.parametrize("story", list(STORIES))
def test_disk(story: str, play: Callable[[str], str]) -> None:
    failed = play(story)
    assert not failed, failed
