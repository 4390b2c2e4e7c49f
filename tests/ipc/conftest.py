"""No test of this folder leaves a descriptor, a thread, a child or shared memory behind."""

import os
import threading
import time
from collections.abc import Iterator

import psutil
import pytest
import uvloop

from tests.ipc.processes import named_memory
from tools.rig.patience import Patience


def _held() -> tuple[set[str], int, set[str]]:
    descriptors = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            descriptors.add(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
        except FileNotFoundError:
            continue
    return descriptors, len(os.listdir("/proc/self/task")), set(named_memory(os.getpid()))


def _children() -> set[int]:
    """Counts zombies, too. Leftovers of an earlier test in another folder do not count."""
    return {child.pid for child in psutil.Process().children()}


@pytest.fixture(scope="session")
def _loop_library() -> None:
    """The first loop opens a pipe that libuv keeps."""
    uvloop.new_event_loop().close()


@pytest.fixture(autouse=True)
def _nothing_is_left(_loop_library: None) -> Iterator[None]:
    before, threads, children = _held(), set(threading.enumerate()), _children()
    yield
    assert _children() <= children
    patience = Patience(30)
    while True:
        now = _held()
        if now[0] <= before[0] and now[1] <= before[1] and now[2] <= before[2]:
            break
        assert not patience.is_over(), f"left over: {now[0] - before[0]}, threads {before[1]} to {now[1]}"
        time.sleep(0.01)
    assert set(threading.enumerate()) <= threads
