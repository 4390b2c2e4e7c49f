"""Heartbeats measure how late the loop is and how much memory the process has; time-outs leave pauses out."""

import asyncio
import mmap
import socket
import time
from pathlib import Path

import pytest
import uvloop

from clusterd import clock, memory
from clusterd.beat import awake_timeout, pause, pause_until
from clusterd.clock import PAUSE_S, Clock
from clusterd.memory import MEASURE_EVERY_S, MemoryGauge, Trimmer, own_bytes
from ipc.board import LATE_BOUNDS_S, Board, BoardRow


def row_of(directory: Path) -> BoardRow:
    row = Board.create(str(directory / "board")).add_row("sync")
    row.begin(1, 1)
    return row


def test_loop_that_did_something_else_was_late(tmp_path: Path) -> None:
    row = row_of(tmp_path)

    async def work() -> None:
        waiting = asyncio.create_task(pause(row, 0.01))
        await asyncio.sleep(0)
        time.sleep(0.2)  # noqa: ASYNC251  # this is what is measured
        await waiting

    asyncio.run(work())
    seen = row.snapshot()
    assert sum(seen.late) == 1
    assert sum(seen.late[: LATE_BOUNDS_S.index(0.1) + 1]) == 0
    assert seen.late_s >= 0.18


def test_stop_ends_the_pause_and_is_not_lateness(tmp_path: Path) -> None:
    row = row_of(tmp_path)

    async def work() -> None:
        stop = asyncio.Event()
        stop.set()
        await pause_until(stop, row, 60.0)

    asyncio.run(work())
    assert row.snapshot().late == ()


def test_new_life_has_been_late_never(tmp_path: Path) -> None:
    row = row_of(tmp_path)
    for seconds in (0.0, 0.0011, 99.0):
        row.late(seconds)
    row.set_own_bytes(5)
    seen = row.snapshot()
    assert (seen.late[0], seen.late[1], seen.late[-1], seen.own_bytes) == (1, 1, 1, 5)
    row.begin(2, 2)
    again = row.snapshot()
    assert (again.late, again.late_s, again.own_bytes) == ((), 0.0, 0)


def test_own_memory_is_measured_after_two_seconds_and_then_every_ten() -> None:
    told: list[int] = []
    gauge = MemoryGauge(told.append)
    counts = []
    for now in (0.0, 1.9, 2.0, 2.0 + MEASURE_EVERY_S - 0.1, 2.0 + MEASURE_EVERY_S):
        gauge.tick(now)
        counts.append(len(told))
    assert counts == [0, 0, 1, 1, 2]
    assert min(told) > 1 << 20
    # A bytearray may be made of memory that earlier tests have freed, and that this process still has.
    with mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as block:
        for page in range(0, len(block), mmap.PAGESIZE):
            block[page] = 1
        assert own_bytes() > told[-1] + (60 << 20)


def test_heap_is_trimmed_every_minute_but_not_of_a_process_that_has_just_been_forked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trimmed: list[float] = []
    now = 0.0
    monkeypatch.setattr(memory, "trim_heap", lambda: trimmed.append(now))
    trimmer = Trimmer()
    for now in (1000.0, 1059.0, 1060.0, 1119.0, 1120.0):
        trimmer.tick(now)
    assert trimmed == [1060.0, 1120.0]


class ShortSteps(awake_timeout):
    STEP_S = LATE_S = 0.05


def test_time_out_leaves_out_time_in_which_the_process_did_not_run() -> None:
    """After a pause timers come first: `asyncio.timeout` ends the wait before what has come is read."""

    async def story() -> bytes:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with ours, theirs:
            async with ShortSteps(ShortSteps.STEP_S):
                answer = asyncio.create_task(asyncio.get_running_loop().sock_recv(ours, 9))
                await asyncio.sleep(0)
                theirs.send(b"answer")
                time.sleep(0.4)  # noqa: ASYNC251  # as a process that is stopped
                return await answer

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(story()) == b"answer"


@pytest.mark.parametrize("seconds", [0.0, 0.12])
def test_time_out_ends_a_wait_for_what_never_comes(seconds: float) -> None:
    async def story() -> None:
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            async with ShortSteps(seconds):
                await asyncio.Event().wait()
        assert time.monotonic() - began >= seconds

    asyncio.run(story())


def test_time_out_ends_also_in_a_process_that_is_late_at_every_step() -> None:
    """A busy one: what it waits for never comes, and each step would count for nothing."""

    async def story() -> int:
        rounds = 0

        async def busy() -> None:
            nonlocal rounds
            while rounds < 60:
                rounds += 1
                time.sleep(2.2 * ShortSteps.STEP_S)  # noqa: ASYNC251  # as work that takes so long
                await asyncio.sleep(0)

        working = asyncio.create_task(busy())
        with pytest.raises(TimeoutError):
            async with ShortSteps(2 * ShortSteps.STEP_S):
                await working
        return rounds

    assert asyncio.run(story()) < 30


def test_clock_of_time_awake_stands_still_while_nobody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(clock.time, "monotonic", lambda: now)
    measured = Clock()
    began = measured.awake()
    for passed, counts in ((0.5, 0.5), (PAUSE_S, 0.5 + PAUSE_S), (600.0, 0.5 + PAUSE_S), (0.5, 1.0 + PAUSE_S)):
        now += passed
        assert measured.awake() - began == pytest.approx(counts)
