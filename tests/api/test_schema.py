"""Runs schema_cases.py in a process of its own, because generating the requests takes longer than collecting all other
tests, and every process of a run would generate them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CASES = Path(__file__).with_name("schema_cases.py")
NEEDED = ("PATH", "HOME", "TMPDIR", "LANG", "PYTHONPYCACHEPREFIX")
"""For each of its thousands of requests, requests searches the whole environment for proxies."""
PLAIN = ("-q", "-p", "no:randomly", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:benchmark")


@pytest.mark.slow
def test_the_document_is_true(pytestconfig: pytest.Config) -> None:
    line = [sys.executable, "-m", "pytest", *PLAIN, str(CASES)]
    if profile := pytestconfig.getoption("--hypothesis-profile"):
        line.append(f"--hypothesis-profile={profile}")
    environment = {name: os.environ[name] for name in NEEDED if name in os.environ}
    done = subprocess.run(line, cwd=CASES.parents[2], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed in " in done.stdout
