"""Whole clusters on loopback, driven through `clusterd` as an operator would; see tools/rig."""

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tools.rig import workload
from tools.rig.nodes import Rig

KEY = "c98b62a9b6169ac5f67dae55ae4a9088"
SCALE = 0.1
MakeRig = Callable[..., Rig]


@pytest.fixture
def make_rig() -> Iterator[MakeRig]:
    """See `rigs`."""
    with rigs() as make:
        yield make


@contextlib.contextmanager
def rigs() -> Iterator[MakeRig]:
    """Make a rig with a filled master, nothing started: `make_rig(workers, **options of Rig.create)`; `files`, `size`, `tree`
    say what the master holds. Afterwards nothing of it may run, whatever the test did.

    Not below tmp_path: socket paths have 107 bytes, and nodes started as root drop to a user who has to get in.
    """
    base = Path(tempfile.mkdtemp(prefix="rig-"))
    base.chmod(0o711)
    made: list[Rig] = []

    def make(workers: int = 2, *, files: int = 0, size: int = 8192, tree: Path | None = None, **options: Any) -> Rig:
        options.setdefault("scale", SCALE)
        options.setdefault("key", KEY)
        rig = Rig.create(base / str(len(made)), workers, **options)
        made.append(rig)
        if tree:
            workload.copy_tree(tree, rig.master.root)
        else:
            workload.generate(rig.master.root, files=files, size=size)
        return rig

    try:
        yield make
    finally:
        problems = [problem for rig in made for problem in rig.down()]
        left = [process for rig in made for process in rig.running()]
        shutil.rmtree(base, ignore_errors=True)
    assert not left
    assert not problems
