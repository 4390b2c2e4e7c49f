"""Waiting with a deadline, a tree for a node, and processes that a test has left."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import psutil

from clusterd.supervisor.privileges import WORKING_DIRECTORIES
from tools.rig.guard import carrying
from tools.rig.patience import Patience

T = TypeVar("T")
MARK = "CLUSTERD_TEST_NODE"


def until(condition: Callable[[], T], what: str, timeout_s: float = 60.0) -> T:
    """Polls until the condition is true; returns its value."""
    patience = Patience(timeout_s)
    while not (value := condition()):
        assert not patience.is_over(), f"waited {timeout_s:g} s until {what}"
        patience.rest(0.01)
    return value


def make_tree(root: Path) -> Path:
    for relative in WORKING_DIRECTORIES:
        (root / relative).mkdir(parents=True, exist_ok=True)
    return root


def marked(mark: str) -> list[psutil.Process]:
    """Returns living processes that have this mark in their environment (forks inherit it)."""
    return [process for process in carrying(MARK, lambda found: found == mark) if process.pid != os.getpid()]
