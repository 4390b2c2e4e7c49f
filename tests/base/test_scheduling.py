"""Priorities of processes, read from the kernel in processes of their own."""

import ctypes
import os
import platform
import struct
import subprocess
import sys

import pytest

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


def test_prompt_processes_keep_their_rank() -> None:
    found = after("run_promptly")
    assert found["nice"] == os.getpriority(os.PRIO_PROCESS, 0)
    assert found["policy"] == os.sched_getscheduler(0)
    if not kernel_knows_slices():
        pytest.skip("the kernel is older than 6.12 or of another architecture: it has no slices")
    assert found["slice"] == 100_000
