"""How a silent process has spent its time."""

import errno
import os
import signal
import subprocess
import sys

import pytest

from clusterd import vitals
from clusterd.vitals import Sample, Spent, Watch, read
from tests.supervisor.helpers import until


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("S", Spent(idle_s=5.0, cpu_s=2.0, queued_s=3.0)),
        ("T", Spent(idle_s=5.0, cpu_s=2.0, queued_s=3.0)),
        ("t", Spent(held_s=5.0, cpu_s=2.0, queued_s=3.0)),
        ("D", Spent(disk_s=5.0, cpu_s=2.0, queued_s=3.0)),
        ("R", Spent(cpu_s=2.0, queued_s=8.0)),
    ],
)
def test_what_no_counter_explains_is_what_the_process_does_now(state: str, expected: Spent) -> None:
    spent = Spent()
    spent.add(10.0, Sample(1.0, 4.0, "S"), Sample(3.0, 7.0, state))
    assert spent == expected


def test_threads_that_wait_together_count_no_more_than_the_time_there_was() -> None:
    spent = Spent()
    spent.add(1.0, Sample(0.0, 0.0, "S"), Sample(0.0, 30.0, "S"))
    assert (spent.queued_s, spent.idle_s) == (1.0, 0.0)


def test_a_thread_that_ended_took_its_waits_along() -> None:
    spent = Spent()
    spent.add(1.0, Sample(5.0, 30.0, "S"), Sample(5.0, 2.0, "S"))
    assert (spent.queued_s, spent.idle_s) == (0.0, 1.0)


def test_where_the_system_tells_nothing_of_a_process_its_silence_is_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vitals, "read", lambda pid: None)
    watch = Watch()
    for now in (100.0, 110.0, 125.0):
        watch.look(1, 7, now, 1.0)
    assert watch.silence == Spent(idle_s=25.0)
    watch.look(1, 8, 126.0, 1.0)
    assert watch.silence == Spent()
    assert watch.start.idle_s == 26.0


def test_time_without_a_look_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vitals, "read", lambda pid: Sample(0.0, 0.0, "S"))
    watch = Watch()
    watch.look(1, 7, 100.0, 1.0)
    watch.skip()
    watch.look(1, 7, 500.0, 1.0)
    watch.look(1, 7, 503.0, 1.0)
    assert watch.silence == Spent(idle_s=3.0)


def test_a_process_that_a_debugger_has_stopped_is_not_idle() -> None:
    program = "import ctypes, os, signal; ctypes.CDLL(None).ptrace(0, 0, 0, 0); os.kill(os.getpid(), signal.SIGSTOP)"
    with subprocess.Popen([sys.executable, "-c", program]) as process:
        try:
            until(lambda: (found := read(process.pid)) is not None and found.state == "t", "it is held", 60)
            watch = Watch()
            watch.look(process.pid, 7, 100.0, 1.0)
            watch.look(process.pid, 7, 1000.0, 1.0)
        finally:
            process.kill()
    assert watch.silence.idle_s + watch.silence.cpu_s < 10
    assert watch.silence.waited_s > 890


def test_a_process_is_read_as_it_is() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            until(lambda: (found := read(process.pid)) is not None and found.cpu_s > 0.05, "it has computed", 60)
            process.send_signal(signal.SIGSTOP)
            until(lambda: (found := read(process.pid)) is not None and found.state == "T", "it is stopped")
        finally:
            process.kill()
    assert read(process.pid) is None
    assert read(os.getpid()) is not None


def test_process_that_proc_hides_is_judged_by_its_cpu_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """With hidepid=2 nobody sees a process that guards its memory, and one that waited for a core looked idle."""
    own = os.getpid()
    shown = vitals.read(own)

    def hides(path: str, *arguments: object) -> None:
        raise FileNotFoundError(errno.ENOENT, path)

    monkeypatch.setattr(vitals, "open", hides, raising=False)
    before = vitals.read(own)
    assert shown is not None
    assert before is not None
    assert before.state == vitals.HIDDEN
    assert before.cpu_s >= shown.cpu_s - 0.1
    starved, idle = Spent(), Spent()
    starved.add(1.0, before, Sample(before.cpu_s + 0.03, 0.0, vitals.HIDDEN))
    idle.add(1.0, before, Sample(before.cpu_s + 0.001, 0.0, vitals.HIDDEN))
    assert (starved.idle_s, round(starved.waited_s, 2)) == (0.0, 0.97)
    assert (round(idle.idle_s, 3), idle.waited_s) == (0.999, 0.0)
    assert starved.busy_s == pytest.approx(1.0), "one that hangs while a thread works a little looks the same"
    with subprocess.Popen(["true"]) as ended:
        pass
    assert vitals.read(ended.pid) is None
