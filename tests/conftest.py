"""Whole clusters on loopback, driven through `clusterd` as an operator would; see tools/rig."""

import contextlib
import gc
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import hypothesis
import pytest

from tests.order import LONGEST, slow_first
from tests.warm import WARM
from tools.rig import workload
from tools.rig.etcd import EtcdCluster
from tools.rig.etcd import etcd_cluster as running_etcd
from tools.rig.guard import end_in_order, guarded
from tools.rig.nodes import Rig

# Hypothesis must not judge speed either. `suite`: half of the examples of `thorough`, new ones in every run. `quick`,
# for `make check`: a quarter at most. `ci`: as many as `thorough`, and the same ones in every run, so that a failure
# comes from the change. tests/sizes.py does the same for tests with a size of their own.
hypothesis.settings.register_profile(
    "thorough", deadline=None, print_blob=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
_THOROUGH = hypothesis.settings.get_profile("thorough")
hypothesis.settings.register_profile("suite", _THOROUGH, max_examples=50)
hypothesis.settings.register_profile("quick", _THOROUGH, max_examples=25)
hypothesis.settings.register_profile("ci", _THOROUGH, derandomize=True, database=None)
hypothesis.settings.load_profile("suite")

gc.disable()  # until `pytest_collection_finish`

_TIMED_OUT = pytest.StashKey[bool]()


def pytest_configure(config: pytest.Config) -> None:
    """Makes SIGTERM and SIGHUP end a run as Ctrl-C does, so that fixtures are torn down. Processes started by tests can
    be interrupted: a shell lets its background jobs ignore SIGINT, and their children would inherit that."""

    def leave(number: int) -> NoReturn:
        pytest.exit(f"ended by {signal.Signals(number).name}", 128 + number)

    if threading.current_thread() is threading.main_thread():
        end_in_order(leave)
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """`make check` does not even read files of slow tests only: every process of a run would."""
    if collection_path.suffix != ".py" or not config.getoption("markexpr").startswith("not slow"):
        return None
    return True if "\npytestmark = pytest.mark.slow\n" in collection_path.read_text(encoding="utf-8") else None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """After pytest-randomly, which is the same in all processes."""
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if processes > 1:
        items[:] = slow_first(
            items,
            processes,
            lambda item: item.nodeid.partition("::")[0],
            lambda item: item.get_closest_marker("slow") is not None,
            LONGEST,
        )


def pytest_collection_finish() -> None:
    """Thousands of collected tests stay for ever: no search for garbage looks at them, neither while they come nor
    later, here or in forks, where a look copies every page. What is garbage by now stays, too: that costs less than a
    search."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    if call.excinfo is not None and str(call.excinfo.value).startswith("Timeout"):
        item.stash[_TIMED_OUT] = True
    return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Makes a test that ran out of time fail alone: the fixtures that it shares with later tests are torn down, and
    these get new ones."""
    if item.stash.get(_TIMED_OUT, False):
        item.session._setupstate.teardown_exact(None)


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
    """Makes a rig with a filled master and nothing started: `make_rig(workers, **options of Rig.create)`; `files`,
    `size`, `tree` say what the master holds. Afterwards nothing of it may run, whatever the test did.

    Commands are forks of a process that has loaded them (tests/warm.py); with `run=run_program` they are started as
    programs.

    The rig is not below tmp_path: socket paths have 107 bytes, and nodes started as root drop to a user who needs
    access.
    """
    with guarded("rig-") as base:
        yield from _rigs(base)


@pytest.fixture
def etcd_cluster() -> Iterator[EtcdCluster]:
    """Three members of etcd, empty; a test may do to them what it likes."""
    with guarded("etcd-") as directory, running_etcd(directory, 3) as cluster:
        yield cluster


def _rigs(base: Path) -> Iterator[MakeRig]:
    made: list[Rig] = []

    def make(workers: int = 2, *, files: int = 0, size: int = 8192, tree: Path | None = None, **options: Any) -> Rig:
        options.setdefault("scale", SCALE)
        options.setdefault("key", KEY)
        options.setdefault("within", "run" not in options and "program" not in options)
        options.setdefault("run", WARM.run)
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
    assert not left
    assert not problems
