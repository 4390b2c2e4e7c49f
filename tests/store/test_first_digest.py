"""The first digest over a large database is read beside the answers, on both sides of a replica."""

import asyncio
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clusterd.store import first_digest, replica_copy, replica_source, schema
from clusterd.store.replica_copy import FOLLOWING
from clusterd.store.units import UnitDigest
from tests.store.replica_bench import AGENTS, Bench, run


class Reading:
    """Holds up whoever reads everything for a digest, until `go_on`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go_on = threading.Event()
        self.begun = 0
        read_all: Callable[..., None] = UnitDigest.read_all

        def slowly(digest: UnitDigest, db: Any) -> None:
            self.begun += 1
            while not self.go_on.wait(0.01):
                if digest._is_given_up():
                    raise InterruptedError
            read_all(digest, db)

        monkeypatch.setattr(UnitDigest, "read_all", slowly)


@pytest.fixture
def reading(monkeypatch: pytest.MonkeyPatch) -> Iterator[Reading]:
    for module in (replica_source, replica_copy):
        monkeypatch.setattr(module, "is_small", lambda db: False)
    made = Reading(monkeypatch)
    yield made
    made.go_on.set()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def register(bench: Bench, number: int) -> int:
    def work(session: Any) -> int:
        session.db.execute("insert into agent (id, name, date_add) values (?, ?, 1)", (number, f"late{number}"))
        return int(session.db.execute("select max(seq) from clusterd_change").fetchone()[0])

    return await bench.engine.write(work)


def test_changes_are_confirmed_while_the_first_digests_are_read(bench: Bench, reading: Reading) -> None:
    """After a takeover both sides read all agents: nothing was confirmed meanwhile, so nothing was registered."""

    async def work(bench: Bench) -> None:
        await bench.populate()
        ask = await bench.copy.first()
        async with asyncio.timeout(60):
            while ask.state != FOLLOWING or not ask.held:
                _, ask = await bench.step(ask)
            for number in range(1000, 1003):
                position = await register(bench, number)
                while ask.held < position:
                    changes, ask = await bench.step(ask)
                    assert changes.digest == ""
            assert reading.begun >= 1
            reading.go_on.set()
            number = 1003
            while not ask.is_equal:
                await register(bench, number)  # an answer comes with a change
                _, ask = await bench.step(ask)
                number += 1
        assert reading.begun == 2, "each side once"
        assert not [line for line in bench.said if "differs" in line]
        bench.check_equal()

    run(bench, work)


@pytest.mark.parametrize("who", ["copy", "master"])
def test_store_that_stops_does_not_wait_for_the_first_digest(bench: Bench, reading: Reading, who: str) -> None:
    async def work(bench: Bench) -> None:
        await bench.populate()
        ask = await bench.copy.first()
        while ask.state != FOLLOWING or reading.begun < 1:
            _, ask = await bench.step(ask)
        bench.restart(who)
        assert "store-digest" not in {thread.name for thread in threading.enumerate() if who == "copy"}

    run(bench, work)


@pytest.mark.parametrize("who", ["copy", "master"])
@pytest.mark.parametrize("kind", [sqlite3.DatabaseError, KeyError])
def test_first_digest_that_cannot_be_read_fails_each_round_until_it_can_be(
    bench: Bench, reading: Reading, monkeypatch: pytest.MonkeyPatch, who: str, kind: type[Exception]
) -> None:
    """It was begun anew for ever: no problem was shown, and the replica was held to be equal as before."""
    reading.go_on.set()
    read_all: Callable[..., None] = UnitDigest.read_all
    broken: list[Path] = []
    failed_in: list[str] = []

    def reads(digest: UnitDigest, db: Any) -> None:
        path = Path(os.fsdecode(db.execute("pragma database_list").fetchone()[2]))
        if any(path.is_relative_to(root) for root in broken):
            failed_in.append(threading.current_thread().name)
            raise kind("malformed")
        read_all(digest, db)

    monkeypatch.setattr(UnitDigest, "read_all", reads)
    monkeypatch.setattr(replica_source, "WAIT_S", 0.2)  # for an answer when nothing has changed

    async def work(bench: Bench) -> None:
        await bench.populate()
        broken.append(bench.candidate if who == "copy" else bench.master)
        failures, rounds = 0, 0
        async with asyncio.timeout(60):
            while failures < 5:
                try:
                    ask = await bench.copy.first()
                    while True:
                        _, ask = await bench.step(ask)
                        rounds += failures > 0
                except kind as failure:
                    failures += "malformed" in str(failure)
            assert rounds == 0, "it was read for ever without a word, or every now and then one round failed"
            assert failed_in.count("store-digest") == 1, "it is read beside the answers again and again"
            assert not ask.is_equal
            broken.clear()
            ask = await bench.follow()
        assert ask.is_equal
        bench.check_equal()

    run(bench, work)


def test_small_database_is_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(bench: Bench) -> None:
        await bench.populate()
        with schema.connect(str(bench.master)) as db:
            assert first_digest.is_small(db)
            monkeypatch.setattr(first_digest, "AT_ONCE", AGENTS - 1)
            assert not first_digest.is_small(db)
        db.close()

    run(Bench(tmp_path), work)
