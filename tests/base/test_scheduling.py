"""Priorities of processes, read from the kernel in processes of their own."""

import ctypes
import os
import platform
import resource
import struct
import subprocess
import sys

import pytest

from clusterd import scheduling
from clusterd.scheduling import PROMPT_NICE
from clusterd.supervisor import child

SCHED_GETATTR = {"x86_64": 315, "aarch64": 275}.get(platform.machine())


def kernel_knows_slices() -> bool:
    release = platform.release().split("-")[0].split(".")
    return SCHED_GETATTR is not None and (int(release[0]), int(release[1])) >= (6, 12)


def after(function: str) -> dict[str, int]:
    """Returns policy, nice value, slice (ns) and session leader of a process that has called the function."""
    code = f"from clusterd.scheduling import {function}; {function}(); print('done', flush=True); input()"
    line = [sys.executable, "-c", code]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout
        assert process.stdout.readline() == b"done\n"
        found = {
            "policy": os.sched_getscheduler(process.pid),
            "nice": os.getpriority(os.PRIO_PROCESS, process.pid),
            "slice": slice_of(process.pid),
        }
        process.communicate(b"\n")
    assert process.returncode == 0
    return found


def may_go_first() -> bool:
    done = subprocess.run(["nice", "-n", "-1", "true"], capture_output=True, check=True)
    return not done.stderr


def slice_of(pid: int) -> int:
    if SCHED_GETATTR is None:
        return 0
    buffer = ctypes.create_string_buffer(56)
    assert ctypes.CDLL(None).syscall(SCHED_GETATTR, pid, buffer, 56, 0) == 0
    return int(struct.unpack("=IIQiIQQQII", buffer.raw)[5])


def test_background_processes_step_back() -> None:
    found = after("run_in_background")
    assert found["nice"] == min(19, os.getpriority(os.PRIO_PROCESS, 0) + 10)
    assert found["policy"] == os.SCHED_BATCH
    if kernel_knows_slices():
        assert found["slice"] == 3_000_000


def test_processes_that_compute_have_the_rank_of_others_and_let_those_in_that_wake_up() -> None:
    found = after("compute")
    assert found["nice"] == os.getpriority(os.PRIO_PROCESS, 0)
    assert found["policy"] == os.SCHED_BATCH
    if kernel_knows_slices():
        assert found["slice"] == 3_000_000


def test_prompt_processes_go_first_where_that_is_permitted() -> None:
    found = after("run_promptly")
    mine = os.getpriority(os.PRIO_PROCESS, 0)
    assert found["nice"] == (max(-20, mine + PROMPT_NICE) if may_go_first() else mine)
    assert found["policy"] == os.sched_getscheduler(0)
    if not kernel_knows_slices():
        pytest.skip("the kernel is older than 6.12 or of another architecture: it has no slices")
    assert found["slice"] == 100_000


class Kernel:
    """The rules of setrlimit(2) and nice(2) for a process that is no longer root."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, is_root: bool) -> None:
        self.is_root = is_root
        self.nice_value = 0
        self.limit = (0, 0)
        monkeypatch.setattr(resource, "getrlimit", lambda which: self.limit)
        monkeypatch.setattr(resource, "setrlimit", self.setrlimit)
        monkeypatch.setattr(os, "nice", self.nice)
        monkeypatch.setattr(scheduling, "_set_nice_of_session", lambda nice: None)
        monkeypatch.setattr(scheduling, "_set_slice", lambda *what: None)

    def setrlimit(self, which: int, limit: tuple[int, int]) -> None:
        assert which == resource.RLIMIT_NICE
        assert limit[0] <= limit[1]
        if limit[1] > self.limit[1] and not self.is_root:
            raise ValueError("not allowed to raise maximum limit")
        self.limit = limit

    def nice(self, by: int) -> None:
        if by < 0 and 20 - (self.nice_value + by) > self.limit[0]:
            raise PermissionError
        self.nice_value += by


def test_a_process_that_is_no_longer_root_may_go_first_and_whoever_does_not_ask_may_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kernel = Kernel(monkeypatch, is_root=True)
    scheduling.allow_prompt_nice()
    kernel.is_root = False
    with pytest.raises(PermissionError):
        os.nice(-1)
    scheduling.run_promptly()
    assert kernel.nice_value == PROMPT_NICE
    with pytest.raises(PermissionError):
        os.nice(-1)
    with pytest.raises(ValueError, match="not allowed"):
        resource.setrlimit(resource.RLIMIT_NICE, (1, 1))


@pytest.mark.parametrize("limit", [(0, 0), (30, 30)])
def test_a_child_that_forgoes_the_right_cannot_take_it_back(
    monkeypatch: pytest.MonkeyPatch, limit: tuple[int, int]
) -> None:
    """Also where the node was started with it (LimitNICE of systemd)."""
    kernel = Kernel(monkeypatch, is_root=True)
    kernel.limit = limit
    scheduling.allow_prompt_nice()
    kernel.is_root = False
    scheduling.forgo_prompt_nice()
    with pytest.raises(PermissionError):
        os.nice(-1)
    scheduling.run_promptly()
    assert kernel.nice_value == 0


def test_a_child_gives_the_right_up_unless_it_is_the_prompt_one(monkeypatch: pytest.MonkeyPatch) -> None:
    forgone: list[str] = []
    monkeypatch.setattr(child, "forgo_prompt_nice", lambda: forgone.append("here"))
    for prompt in (False, True):
        spec = child.ChildSpec("x", lambda: len(forgone), prompt=prompt)
        plan = child.BirthPlan((), os.devnull, lambda text: None, lambda: None)
        assert ended_with(child.fork(spec, 0, 0.0, plan)) == (0 if prompt else 1)


def ended_with(started: child.Child) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(started.pid, 0)[1])


def test_where_the_system_forbids_it_a_process_keeps_its_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(monkeypatch, is_root=False)
    scheduling.allow_prompt_nice()
    scheduling.run_promptly()
    assert kernel.nice_value == 0
