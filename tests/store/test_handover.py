"""A switchover: the store ends what was begun, stops writes, and goes on if it is given up."""

import asyncio
from pathlib import Path

import pytest

from clusterd.store import change_log, gate
from clusterd.store.gate import Handover
from tests.store.gate_bench import Bench, run
from tests.store.test_engine import add, count


def handover_of(bench: Bench) -> Handover:
    return Handover(bench.gate, bench.engine.settle, bench.authd.is_idle, bench.authd.note_answered)


async def under_way(bench: Bench) -> asyncio.Task[bytes]:
    """A registration that waits for the candidate that confirms."""
    bench.confirms.clear()
    begun = asyncio.create_task(bench.add("begun"))
    while bench.authd.is_idle.is_set():
        await asyncio.sleep(0.001)
    return begun


def test_handing_over_ends_what_was_begun_and_lets_everything_else_wait(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        handover = handover_of(bench)
        begun = await under_way(bench)
        draining = asyncio.create_task(handover.drain(60.0))
        later = asyncio.create_task(bench.add("later"))
        await asyncio.sleep(0.05)
        assert not draining.done(), "a registration is still under way"
        begun_at = await bench.engine.read(change_log.head)
        bench.confirms.set()
        await draining
        assert b'"error":0' in await begun
        written = asyncio.create_task(bench.engine.write(add(50)))
        await asyncio.sleep(0.05)
        marked = await bench.engine.read(change_log.head)
        assert marked == begun_at + 1, "who holds that has asked once more since nothing is registered"
        await handover.drain(60.0)
        assert await bench.engine.read(change_log.head) == marked, "once for a handover"
        assert not later.done()
        assert bench.authd.is_idle.is_set(), "it was not begun"
        assert not written.done()
        assert await bench.engine.read(count) == 1
        handover.undrain()
        await written
        assert b'"error":0' in await later

    run(tmp_path, story)


def test_next_master_does_not_take_an_answered_registration_for_an_unanswered_one(tmp_path: Path) -> None:
    """The notes went a second after the answer: a handover in between told the candidate that nobody had heard."""

    async def story(bench: Bench) -> None:
        assert b'"error":0' in await bench.add("answered")
        assert await bench.agents.unanswered() == {1}
        before = await bench.engine.read(change_log.head)
        await handover_of(bench).drain(60.0)
        assert await bench.agents.unanswered() == set()
        assert await bench.engine.read(change_log.head) == before + 1, "the candidate is told of it with that"

    run(tmp_path, story)


def test_a_handover_that_is_given_up_before_writes_stop_stops_none(tmp_path: Path) -> None:
    """The candidate that confirms is slow, and the election gives the switchover up while a registration waits for
    it: all writes would have waited for the handover after it was over."""

    async def story(bench: Bench) -> None:
        handover = handover_of(bench)
        begun = await under_way(bench)
        draining = asyncio.create_task(handover.drain(60.0))
        await asyncio.sleep(0)
        handover.undrain()
        bench.confirms.set()
        assert b'"error":0' in await begun
        with pytest.raises(TimeoutError, match="taken back"):
            await draining
        assert bench.gate.is_open
        await bench.engine.write(add(50))
        assert b'"error":0' in await bench.add("later")

    run(tmp_path, story)


def test_an_unsuccessful_handover_ends_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "CHANGE_S", 0.01)

    async def story(bench: Bench) -> None:
        await handover_of(bench).drain(0.05)
        assert b'"error":0' in await bench.add("after")
        await handover_of(bench).drain(60.0)
        waiting = asyncio.create_task(bench.add("another"))
        bench.leads = False
        bench.gate.open()
        assert b'"error":9009' in await waiting

    run(tmp_path, story)
