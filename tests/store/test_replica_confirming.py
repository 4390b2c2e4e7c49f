"""Registrations wait for a candidate that has them on its disk."""

import asyncio
from collections.abc import Callable

import msgspec
import pytest

from clusterd.store import agents
from clusterd.store.registry import Registration
from tests.store.replica_bench import Bench, run, stored


async def settled(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def test_registration_is_confirmed_when_a_candidate_has_it_on_disk(bench: Bench) -> None:
    async def work(bench: Bench) -> None:
        await bench.populate()
        await bench.follow()
        ask = msgspec.structs.replace(await bench.copy.first(), digest=False)
        asking = asyncio.create_task(bench.source.tell("w", ask))
        await settled(lambda: bool(bench.source._waiting))
        table_ = stored(bench)
        await table_.apply([Registration(99, "new", "any", "k", None, 1)], [])
        confirmed = asyncio.create_task(table_.replicated())
        ask = await bench.copy.apply(await asking)
        assert not confirmed.done()
        asking = asyncio.create_task(bench.source.tell("w", msgspec.structs.replace(ask, digest=False)))
        await confirmed
        bench.check_equal()
        assert await table_.greatest() == 99
        asking.cancel()

    run(bench, work)


def test_registration_is_sent_at_once_at_any_pace(bench: Bench) -> None:
    async def work(bench: Bench) -> None:
        bench.source._pace_s = 3600
        await bench.populate()
        ask = await bench.copy.first()
        while True:
            changes, ask = await bench.step(ask)
            ask = msgspec.structs.replace(ask, digest=False)
            if not changes.behind:
                break
        asking = asyncio.create_task(bench.source.tell("w", ask))
        await settled(lambda: bool(bench.source._waiting))
        await bench.engine.write(lambda session: agents.update_agent_name(session, agents.AgentName(1, "slow")))
        await asyncio.sleep(0)
        assert not asking.done()
        table_ = stored(bench)
        await table_.apply([Registration(99, "new", "any", "k", None, 1)], [])
        confirmed = asyncio.create_task(table_.replicated())
        assert (await asking).upto > ask.since
        confirmed.cancel()

    run(bench, work)


def test_candidate_that_does_not_confirm_in_time_is_waited_for_once_until_it_does(bench: Bench) -> None:
    async def work(bench: Bench) -> None:
        await bench.populate()
        ask = await bench.follow()
        asking = asyncio.create_task(bench.source.tell("w", msgspec.structs.replace(ask, digest=False)))
        await settled(lambda: bool(bench.source._waiting))
        bench.source.candidates._limit_s = 0.01
        table_ = stored(bench)
        for one in (98, 99):
            await table_.apply([Registration(one, f"new{one}", "any", "k", None, 1)], [])
            await table_.replicated()
        assert sum("without a candidate from now on" in line for line in bench.said) == 1
        mode, why = bench.source.candidates.mode()
        assert (mode, why) == ("asynchronous", "no candidate has confirmed within 0.01 s")
        ask = await bench.copy.apply(await asking)
        await bench.follow()
        await bench.source.tell("w", await bench.copy.first())
        assert bench.source.candidates.mode() == ("synchronous", "")
        assert sum("confirms again:" in line for line in bench.said) == 1
        bench.check_equal()

    run(bench, work)


@pytest.mark.parametrize("limit_s", [60.0, 0.1])
def test_candidate_whose_link_ends_is_waited_for_as_long_as_one_that_is_late(bench: Bench, limit_s: float) -> None:
    """Its link is back within a second, as a rule: a master that was lost in that second lost what it had answered."""

    async def work(bench: Bench) -> None:
        await bench.populate()
        ask = msgspec.structs.replace(await bench.follow(), digest=False)
        candidates = bench.source.candidates
        candidates._limit_s = limit_s
        table_ = stored(bench)
        await table_.apply([Registration(99, "new", "any", "k", None, 1)], [])
        confirmed = asyncio.create_task(table_.replicated())
        await settled(lambda: candidates.wanted > 0)
        candidates.gone("w")
        if limit_s > 1:
            await asyncio.sleep(0.02)
            assert not confirmed.done()
            assert candidates.mode() == ("synchronous", "")
            _, ask = await bench.step(ask)
            asking = asyncio.create_task(bench.source.tell("w", msgspec.structs.replace(ask, digest=False)))
            await confirmed
            assert candidates.mode() == ("synchronous", "")
            asking.cancel()
            return
        await confirmed
        assert candidates.mode() == ("asynchronous", "no candidate is connected")
        candidates._limit_s = 60.0
        await table_.apply([], [99])
        await table_.replicated()
        assert sum("without a candidate from now on" in line for line in bench.said) == 1

    run(bench, work)


@pytest.mark.parametrize("state", ["copying", "of another log", "off"])
def test_candidate_without_a_whole_replica_is_not_waited_for(bench: Bench, state: str) -> None:
    async def work(bench: Bench) -> None:
        await bench.populate()
        ask = await bench.copy.first() if state == "copying" else await bench.follow()
        if state == "of another log":
            ask = msgspec.structs.replace(ask, epoch="other")
        bench.source.candidates._synchronous = state != "off"
        await bench.source.tell("w", ask)
        table_ = stored(bench)
        await table_.apply([Registration(99, "new", "any", "k", None, 1)], [])
        await table_.replicated()
        assert bench.source.candidates.mode()[0] == "asynchronous"
        said = [line for line in bench.said if "without a candidate from now on" in line]
        assert len(said) == (state != "off")

    run(bench, work)
