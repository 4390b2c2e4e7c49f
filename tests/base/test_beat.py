"""Heartbeats measure how late the loop is and how much memory the process has for itself."""

import asyncio
import mmap
import time
from pathlib import Path

from clusterd.beat import pause, pause_until
from clusterd.memory import MEASURE_EVERY_S, MemoryGauge, own_bytes
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


def test_own_memory_is_measured_every_ten_seconds() -> None:
    told: list[int] = []
    gauge = MemoryGauge(told.append)
    for now in (0.0, 1.0, MEASURE_EVERY_S - 0.1, MEASURE_EVERY_S):
        gauge.tick(now)
    assert len(told) == 2
    assert min(told) > 1 << 20
    # A bytearray may be made of memory that earlier tests have freed, and that this process still has.
    with mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as block:
        for page in range(0, len(block), mmap.PAGESIZE):
            block[page] = 1
        assert own_bytes() > told[-1] + (60 << 20)
