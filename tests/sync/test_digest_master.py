"""A master that checks its workers by digest: answers, packages, comparisons that fail."""

import asyncio
from typing import Any, cast

import msgspec
import pytest

from clusterd.errors import ClusterError
from clusterd.messages.packages import Compared
from clusterd.sync.links.incoming_strings import SealViolation
from clusterd.sync.links.peer import Peer
from clusterd.sync.ports.net_port import LinkClosed
from clusterd.sync.ports.pool_port import JobError
from clusterd.wire.payloads import parse_differs, parse_listed
from tests.sync.digest_bench import EQUAL, Bench, Worker
from tests.sync.rounds_bench import A, B, C, run, scan_of, settle

DRY = Compared(3, 1, 2, 1, [1, 2, 3], dry=True, against=A)


def test_equal_worker_is_told_so_and_remembered() -> None:
    bench = Bench()
    assert bench.check() == b"equal"
    record = bench.record
    assert (record.digest, record.equal_at, record.behind_since, record.result) == (A, 100.0, None, "equal")
    assert [text for _, text in bench.lines] == [
        f"The worker has files of content digest {A}; those of this node have {A}.",
        "Starting.",
        "Received file from worker: 'syn_digest'",
        "Finished in 0.000s. Received metadata of 3 files. Sync not required.",
    ]


def test_other_worker_gets_the_digests_and_lags_from_then_on() -> None:
    bench = Bench()
    assert parse_differs(bench.check(B)) == (A, scan_of(A).buckets)
    bench.now = 200.0
    bench.check(C)
    assert (bench.record.digest, bench.record.behind_since, bench.record.behind_files) == (C, 100.0, None)


def test_worker_has_all_files_of_the_moment_whose_manifest_it_has() -> None:
    """Files that change all the time are never equal everywhere; a switchover waits for those of one moment."""

    async def story() -> None:
        bench = Bench()
        bench.check(A)
        assert (bench.record.behind_since, bench.record.whole_of) == (None, 100.0)
        for bench.now, digest in ((101.0, B), (102.0, C)):
            bench.publish(digest)
        assert bench.record.whole_of == 100.0
        bench.check(B)
        assert (bench.record.behind_since, bench.record.whole_of) == (101.0, 101.0)
        bench.check("9" * 32)
        assert bench.record.whole_of == 101.0, "it has them in the middle of a package"
        await settle()

    run(story())


def test_question_without_consequences_has_none() -> None:
    bench = Bench()
    assert bench.check(A, dry=True) == b"equal"
    assert bench.check(B, dry=True).startswith(b"differs ")
    assert (bench.record.digest, bench.record.behind_since, bench.lines) == ("", None, [])


def test_no_worker_is_checked_before_the_first_scan() -> None:
    async def story() -> None:
        bench = Bench()
        bench.manifests.current = cast(Any, None)
        assert bench.check() == bench.check(dry=True) == await bench.compare() == b"wait"

    run(story())


@pytest.mark.parametrize("payload", [b"", b"x", A.upper().encode(), f"{A} ".encode(), f"{A} dry dry".encode()])
def test_invalid_digest_is_refused(payload: bytes) -> None:
    with pytest.raises(ClusterError, match="32 hexadecimal digits"):
        Bench().digest.check(cast(Peer, Bench().worker), payload)


@pytest.mark.parametrize("capabilities", [frozenset(), frozenset({"push", "agents"})])
def test_worker_that_has_not_agreed_cannot_be_asked(capabilities: frozenset[str]) -> None:
    async def story() -> None:
        bench = Bench()
        with pytest.raises(ClusterError, match="s cannot be asked"):
            await bench.digest.difference(cast(Peer, Worker(9, "s", capabilities)))
        assert bench.made == []

    run(story())


def test_package_follows_and_the_worker_waits_meanwhile() -> None:
    async def story() -> None:
        bench = Bench()
        bench.check(B)
        assert await bench.compare() == b"sync 4"
        await settle()
        assert (bench.integrity.sent, bench.record.behind_files) == (1, 4)
        assert bench.check() == await bench.compare() == b"wait"
        assert bench.check(dry=True) == b"equal"
        bench.integrity.gate.set()
        await settle()
        assert bench.is_clean()
        assert bench.check() == b"equal"

    run(story())


def test_comparison_that_finds_nothing_makes_equal() -> None:
    """Files that may be extra on a worker are in its digest, but are no difference."""

    async def story() -> None:
        bench = Bench()
        bench.check(B)
        bench.result = EQUAL
        assert await bench.compare() == b"equal"
        assert (bench.record.result, bench.record.digest, bench.record.behind_since) == ("equal", A, None)
        assert bench.is_clean()

    run(story())


def test_items_that_only_the_worker_has_are_told_until_it_has_none() -> None:
    async def story() -> None:
        bench = Bench()
        troubles = bench.integrity._context.troubles
        bench.result = msgspec.structs.replace(EQUAL, unknown=("etc/own/",))
        for _ in range(2):
            assert parse_differs(bench.check(B))
            assert await bench.compare() == b"equal"
            assert "etc/own/" in troubles.shown()["items of w"]
        assert [level for level, text in bench.lines if "etc/own/" in text] == ["warning"]
        bench.check(A)
        assert troubles.shown() == {}
        assert await bench.compare() == b"equal"
        bench.integrity.forget(cast(Peer, bench.worker))
        assert troubles.shown() == {}

    run(story())


def test_worker_that_told_of_buckets_of_an_earlier_manifest_is_not_called_equal() -> None:
    """Other buckets may differ now, and the worker has not told them."""

    async def story() -> None:
        bench = Bench()
        bench.check(B)
        bench.publish(C)
        bench.result = EQUAL
        assert await bench.compare() == b"wait"
        assert bench.record.behind_since is not None
        assert bench.record.result == ""
        assert bench.is_clean()

    run(story())


def test_manifest_that_changes_during_a_comparison_leaves_the_worker_behind() -> None:
    async def story() -> None:
        bench = Bench()
        bench.result, bench.held = EQUAL, asyncio.Event()
        comparing = asyncio.ensure_future(bench.compare())
        await settle()
        bench.publish(B)
        bench.held.set()
        assert await comparing == b"equal"
        assert bench.record.behind_since is not None
        assert bench.record.digest == A

    run(story())


def test_dry_comparison_lists_what_differs_and_sends_nothing() -> None:
    async def story() -> None:
        bench = Bench()
        bench.result = DRY
        found = parse_listed(await bench.compare())
        assert (found.counts.missing, found.counts.shared, found.counts.extra) == (1, 2, 1)
        assert (found.missing, found.shared) == (["etc/new"], ["etc/changed"])
        assert (bench.integrity.sent, bench.record.behind_since) == (0, None)
        assert bench.is_clean()

    run(story())


def test_flood_of_comparisons_is_one_at_a_time() -> None:
    async def story() -> None:
        bench = Bench()
        bench.result, bench.held = EQUAL, asyncio.Event()
        flood = [asyncio.ensure_future(bench.compare()) for _ in range(50)]
        await settle()
        assert len(bench.made) == 1
        bench.held.set()
        assert sorted(await asyncio.gather(*flood)) == [b"equal", *[b"wait"] * 49]
        assert bench.is_clean()

    run(story())


@pytest.mark.parametrize("kind", ["bad-package", "too-large", "crashed"])
def test_failed_comparison_is_reported_and_frees_the_worker(kind: str) -> None:
    async def story() -> None:
        bench = Bench()
        bench.result = JobError(kind, "why")
        with pytest.raises(JobError):
            await bench.compare()
        assert (bench.record.result, bench.record.detail) == ("failed", "why")
        assert bench.is_clean()

    run(story())


def test_body_that_is_not_sealed_closes_the_link() -> None:
    async def story() -> None:
        bench = Bench()
        bench.result = JobError("bad-seal", "why")
        with pytest.raises(SealViolation):
            await bench.compare()
        assert bench.is_clean()

    run(story())


@pytest.mark.parametrize("steps", [0, 1, 2, 50])
def test_link_that_ends_after_the_promise_of_a_package_leaves_nothing(steps: int) -> None:
    """This holds also if the task that was to send it has not begun."""

    async def story() -> None:
        bench = Bench()
        assert await bench.compare() == b"sync 4"
        for _ in range(steps):
            await asyncio.sleep(0)
        await bench.unlink()
        assert bench.is_clean()
        assert bench.check() == b"equal"

    run(story())


def test_old_link_that_ends_late_frees_no_check_of_the_new_one() -> None:
    async def story() -> None:
        bench = Bench()
        bench.held = asyncio.Event()
        old = asyncio.ensure_future(bench.compare())
        await settle()
        await bench.unlink()
        new = Worker(2, "w")
        assert bench.integrity.is_free("w")
        again = asyncio.ensure_future(bench.compare(new))
        await settle()
        bench.result = EQUAL
        bench.held.set()
        assert await again == b"equal"
        with pytest.raises(LinkClosed):
            await old
        assert bench.is_clean()

    run(story())
