"""Nodes and managers of a test, in directories of their own."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from clusterd.settings import Settings
from tests.fakes.manager import Manager
from tests.tools.doctored import node
from tests.tools.planted import Planted, planted
from tools.rig.guard import MARK, guarded
from tools.rig.ports import free_port


@pytest.fixture
def root() -> Iterator[Path]:
    """Short, for the sockets below it; what runs for it is ended with it."""
    with guarded("adopt-") as base:
        before = os.environ.get(MARK)
        os.environ[MARK] = str(base)
        yield base / "m"
        for path in (base / "m/var/run").glob("*.pid"):  # of a test that failed
            with contextlib.suppress(OSError):
                os.kill(int(path.read_text()), signal.SIGTERM)
        os.environ.pop(MARK)
        if before is not None:
            os.environ[MARK] = before


@pytest.fixture
def manager(root: Path) -> Manager:
    return Manager(root)


@pytest.fixture
def worker(tmp_path: Path) -> Settings:
    return node(tmp_path / "w")


@pytest.fixture
def master(tmp_path: Path) -> Settings:
    return node(tmp_path / "m", node_type="master", name="m", port=free_port())


@pytest.fixture(scope="module")
def shared_nodes() -> Iterator[Planted]:
    with planted() as made:
        made.wait_healed()
        yield made


@pytest.fixture
def nodes(shared_nodes: Planted) -> Iterator[Planted]:
    """A cluster for faults that `doctor` finds. Before each test, and after it, no node has a finding."""
    yield shared_nodes
    shared_nodes.wait_healed()
