"""Waiting with a deadline, a tree for a node, and processes that a test has left."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import psutil

from clusterd.supervisor.privileges import WORKING_DIRECTORIES
from tools.rig.patience import Patience

T = TypeVar("T")
MARK = "CLUSTERD_TEST_NODE"


def until(condition: Callable[[], T], what: str, timeout_s: float = 60.0) -> T:
    """Polls until the condition is true; returns its value."""
    patience = Patience(timeout_s)
    while not (value := condition()):
        assert not patience.is_over(), f"waited {timeout_s:g} s until {what}"
        time.sleep(0.01)
    return value


def make_tree(root: Path) -> Path:
    for relative in WORKING_DIRECTORIES:
        (root / relative).mkdir(parents=True, exist_ok=True)
    return root


def marked(mark: str) -> list[psutil.Process]:
    """Returns living processes that have this mark in their environment (forks inherit it)."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return [process for process in found if process.pid != os.getpid()]
