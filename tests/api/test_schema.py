"""Runs schema_cases.py in a process of its own, because generating the requests takes longer than collecting all other
tests, and every process of a run would generate them."""

import subprocess
import sys
from pathlib import Path

import pytest

CASES = Path(__file__).with_name("schema_cases.py")
PLAIN = ("-q", "-p", "no:randomly", "-p", "no:cacheprovider", "-p", "no:xdist")


@pytest.mark.slow
def test_the_document_is_true() -> None:
    line = [sys.executable, "-m", "pytest", *PLAIN, str(CASES)]
    done = subprocess.run(line, cwd=CASES.parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed in " in done.stdout
