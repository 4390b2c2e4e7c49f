"""A master tells its workers of changes, and asks one what it would have to change."""

import asyncio
from typing import cast

import pytest

from clusterd.errors import ClusterError
from clusterd.messages.packages import Compared
from clusterd.sync.integrity.digest_master import MOST_SPREAD_MS, SPREAD_MS
from clusterd.sync.links.peer import Peer
from clusterd.sync.ports.net_port import LinkClosed
from tests.sync.digest_bench import Bench, Worker
from tests.sync.rounds_bench import A, B, C, listed, run, settle

# ---- telling ---------------------------------------------------------------------------------------------------------


def test_only_workers_with_the_capability_are_informed_of_a_change() -> None:
    async def story() -> None:
        bench = Bench("equal", "w", "stock")
        bench.workers[2].capabilities = frozenset({"digest"})
        bench.check(B, bench.workers[0])
        bench.publish(B)
        await settle()
        expected = [("syn_changed", f"{B} {2 * SPREAD_MS}".encode())]
        assert [worker.asked for worker in bench.workers] == [[], expected, []]
        assert bench.integrity.record("equal").behind_since is None

    run(story())


def test_spread_is_bounded_whatever_the_number_of_workers() -> None:
    async def story() -> None:
        bench = Bench(*(f"w{number}" for number in range(400)))
        bench.publish(B)
        await settle()
        assert {payload for worker in bench.workers for _, payload in worker.asked} == {
            f"{B} {MOST_SPREAD_MS}".encode()
        }

    run(story())


def test_worker_that_is_slow_to_answer_hears_of_the_newest_change_next() -> None:
    async def story() -> None:
        bench = Bench()
        gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        bench.worker.answer = lambda command, payload: gate
        for digest in (B, C, A, B, C):
            bench.publish(digest)
        await settle()
        assert len(bench.worker.asked) == 1
        gate.set_result(None)
        bench.worker.answer = lambda command, payload: b"Thanks"
        await settle()
        assert [payload[:32].decode() for _, payload in bench.worker.asked][-1] == C
        assert len(bench.worker.asked) <= 2

    run(story())


@pytest.mark.parametrize("failure", [ClusterError(3020, "x"), LinkClosed("x"), ClusterError(3000, "unknown")], ids=str)
def test_worker_that_could_not_be_informed_is_informed_of_the_next_change(failure: Exception) -> None:
    async def story() -> None:
        bench = Bench()
        bench.worker.answer = lambda command, payload: failure
        bench.publish(B)
        await settle()
        bench.worker.answer = lambda command, payload: b"Thanks"
        bench.publish(C)
        await settle()
        assert len(bench.worker.asked) == 2
        assert bench.worker.told == []

    run(story())


@pytest.mark.parametrize("steps", [0, 1, 50])
def test_link_of_the_same_number_is_informed_after_one_that_ended_meanwhile(steps: int) -> None:
    """A new net counts its links from one again."""

    async def story() -> None:
        bench = Bench()
        gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        bench.worker.answer = lambda command, payload: gate
        bench.publish(B)
        for _ in range(steps):
            await asyncio.sleep(0)
        await bench.unlink()
        bench.workers = [Worker(1, "w")]
        bench.publish(C)
        await settle()
        assert len(bench.worker.asked) == 1

    run(story())


def test_worker_with_a_sync_under_way_is_informed_even_of_the_state_before() -> None:
    """The worker had A and is being sent B when the master returns to A."""

    async def story() -> None:
        bench = Bench()
        bench.check(A)
        bench.publish(B)
        bench.check(A)
        bench.result = Compared(3, 1, 2, 1, [], against=B)
        await bench.compare()
        await settle()
        told = len(bench.worker.asked)
        bench.publish(A)
        await settle()
        assert len(bench.worker.asked) == told + 1
        assert bench.record.behind_since is not None
        bench.integrity.gate.set()
        await settle()

    run(story())


def test_worker_that_kept_what_the_master_returns_to_is_equal_without_a_word() -> None:
    async def story() -> None:
        bench = Bench()
        bench.check(A)
        bench.publish(B)
        await settle()
        bench.publish(A)
        await settle()
        assert (bench.record.behind_since, bench.record.digest) == (None, A)

    run(story())


# ---- diff ------------------------------------------------------------------------------------------------------------


def test_difference_of_a_worker_carries_its_real_name() -> None:
    async def story() -> None:
        bench = Bench()
        bench.worker.answer = lambda command, payload: b'{"node": "another", ' + listed(missing=2)[1:]
        found = await bench.digest.difference(cast(Peer, bench.worker))
        assert found.startswith(b'{"node": "w", "counts": {"missing": 2, ')

    run(story())


@pytest.mark.parametrize(
    "answer", [b"", b"wait", b"[]", b'{"counts": {}}', listed(missing=-1), b'{"extra": [{}]}', b"[" * 50_000], ids=len
)
def test_worker_that_answers_no_list_is_refused(answer: bytes) -> None:
    async def story() -> None:
        bench = Bench()
        bench.worker.answer = lambda command, payload: answer
        with pytest.raises(ClusterError):
            await bench.digest.difference(cast(Peer, bench.worker))

    run(story())
