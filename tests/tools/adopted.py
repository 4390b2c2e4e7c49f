"""A stand-in for a manager, and `clusterd adopt` on it."""

import os
from collections.abc import Callable

import pytest

from clusterd.adoption import State, look_at_all, own_python
from hashing.atomic import FileOps
from tests.fakes.manager import Manager
from tools.adopt_checks import Check
from tools.cutover import Cutover
from tools.outcome import Outcome

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def fine(root: str, python: str) -> list[Check]:
    return [Check("all", True, "")]


def cutover(
    manager: Manager,
    *,
    said: list[str] | None = None,
    dry_run: bool = False,
    ops: FileOps | None = None,
    check: Callable[[str, str], list[Check]] = fine,
) -> Cutover:
    say = (lambda text: None) if said is None else said.append
    return Cutover(str(manager.root), own_python(), say=say, dry_run=dry_run, ops=ops, check=check)


def adopt(manager: Manager, **more: object) -> Outcome:
    return cutover(manager, **more).adopt(now=False)  # type: ignore[arg-type]


def undo(manager: Manager, **more: object) -> Outcome:
    return cutover(manager, **more).undo(now=False)  # type: ignore[arg-type]


def states(manager: Manager) -> list[State]:
    return [found.state for found in look_at_all(str(manager.root))]
