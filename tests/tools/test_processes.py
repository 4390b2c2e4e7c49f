"""Processes as `status` shows them: CPU between two reads, memory as each has measured it, and what has ended."""

import os
import subprocess
import sys
import time

import pytest

from clusterd.status import processes
from clusterd.status.processes import ProcessReader
from ipc.board import RowSnapshot


def row(pid: int, state: str = "ready") -> RowSnapshot:
    return RowSnapshot("net", pid, 3, state, 2, time.monotonic_ns(), time.time_ns(), {}, own_bytes=12345)


def burn(seconds: float) -> None:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


@pytest.mark.slow
def test_cpu_is_that_between_two_reads_the_first_of_which_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(processes.time, "sleep", waited.append)
    reader, rows = ProcessReader(may_wait=True), [row(os.getpid())]
    reader.begin(rows)
    burn(0.1)
    (found,) = reader.read(rows)
    assert found["cpu_percent"] > 0
    assert len(waited) == 1
    assert waited[0] <= processes.CPU_SAMPLE_S
    assert (found["pid"], found["class"], found["uss_bytes"]) == (os.getpid(), "prompt", 12345)
    reader.begin(rows)
    burn(0.1)
    assert reader.read(rows)[0]["cpu_percent"] > 0
    assert len(waited) == 1  # every process has been seen before


def test_who_may_not_wait_gets_no_cpu_at_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes.time, "sleep", lambda seconds: pytest.fail("it waits"))
    reader, rows = ProcessReader(may_wait=False), [row(os.getpid())]
    reader.begin(rows)
    assert reader.read(rows)[0]["cpu_percent"] is None
    burn(0.1)
    reader.begin(rows)
    assert reader.read(rows)[0]["cpu_percent"] > 0


def test_of_a_process_that_has_ended_or_is_down_nothing_is_measured() -> None:
    ended = subprocess.Popen([sys.executable, "-S", "-c", ""])
    ended.wait(60)
    rows = [row(ended.pid), row(os.getpid(), "down"), row(0, "failed")]
    reader = ProcessReader(may_wait=False)
    reader.begin(rows)
    for found in reader.read(rows):
        assert [found[key] for key in ("pid", "cpu_percent", "uss_bytes", "silent_s")] == [None] * 4
        assert found["restarts"] == 2
