"""A worker's side of a check by digest, with masters that answer correctly and masters that do not."""

import asyncio
import json
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterd.errors import ClusterError
from clusterd.messages.links import LinkInfo
from clusterd.messages.packages import BucketsPicked
from clusterd.sync.integrity.digest_worker import Remains
from clusterd.sync.integrity.requests import WorkerIntegrityRequests
from clusterd.sync.links.peer import Peer
from clusterd.sync.manifest.scan import ScanFailed
from clusterd.sync.ports.pool_port import JobError
from clusterd.wire.frame import REQUEST_CHUNK
from tests.sync.rounds_bench import A, B, Bench, differs, listed, run


async def check(bench: Bench) -> bool:
    return await bench.digest.check(cast(Peer, bench.master))


def test_nothing_differs_is_one_request() -> None:
    async def story() -> None:
        bench = Bench()
        assert await check(bench) is True
        assert bench.master.asked == ["syn_digest"]
        assert (bench.worker.equal, bench.digest.told, bench.digest.must_wait) == (1, A, False)
        assert bench.worker.begun == 1

    run(story())


def test_master_that_cannot_compare_now_says_nothing_about_this_node() -> None:
    async def story() -> None:
        bench = Bench()
        bench.master.answers["syn_digest"] = b"wait"
        assert await check(bench) is True
        assert bench.master.asked == ["syn_digest"]
        assert (bench.worker.equal, bench.digest.told, bench.digest.must_wait) == (0, "", True)

    run(story())


@pytest.mark.parametrize(
    ("answer", "equal", "must_wait"), [(b"sync 3", 0, False), (b"equal", 1, False), (b"wait", 0, True)], ids=str
)
def test_something_differs_is_two_requests(answer: bytes, equal: int, must_wait: bool) -> None:
    async def story() -> None:
        bench = Bench()
        bench.master.answers |= {"syn_digest": differs(B), "syn_buckets": answer}
        assert await check(bench) is True
        assert bench.master.asked == ["syn_digest", "syn_buckets"]
        assert (bench.worker.equal, bench.digest.must_wait, bench.digest.told) == (equal, must_wait, B)
        assert bench.worker.begun == 1
        assert bench.removed == ["/buckets"]

    run(story())


def test_too_much_for_one_message_is_refused_the_stock_way_and_what_just_fits_is_not() -> None:
    async def story() -> None:
        bench = Bench()
        bench.master.answers |= {"syn_digest": differs(B), "syn_buckets": b"sync 3"}
        bench.picked = BucketsPicked(REQUEST_CHUNK, 90_000, b"told")
        assert await check(bench) is True
        assert bench.master.asked == ["syn_digest", "syn_buckets"]
        bench = Bench()
        bench.master.answers["syn_digest"] = differs(B)
        bench.picked = BucketsPicked(REQUEST_CHUNK + 1, 90_000)
        assert await check(bench) is False
        assert bench.removed == ["/buckets"]

    run(story())


@pytest.mark.parametrize(
    "answers",
    [
        {"syn_digest": b""},
        {"syn_digest": b"EQUAL"},
        {"syn_digest": b"equal "},
        {"syn_digest": differs(B)[:-1]},
        {"syn_digest": differs(B) + b"x"},
        {"syn_digest": differs("B" * 32)},
        pytest.param({"syn_digest": bytes(16_000_000)}, id="16 MB"),  # as text it would have 64
        {"syn_buckets": b"sync"},
        {"syn_buckets": b"sync -1"},
        {"syn_buckets": b"sync 1" + b"0" * 30},
        {"syn_buckets": b""},
    ],
    ids=lambda answers: str(answers)[:40],
)
def test_invalid_answer_is_refused_and_leaves_nothing(answers: dict[str, bytes]) -> None:
    async def story() -> None:
        bench = Bench()
        bench.master.answers |= {"syn_digest": differs(B)} | answers
        with pytest.raises(ClusterError, match="unexpected answer"):
            await check(bench)
        assert bench.context.progress == []
        assert len(bench.removed) == bench.master.count("syn_buckets")

    run(story())


@pytest.mark.parametrize("failure", [ScanFailed("disk"), JobError("disk", "full"), OSError(28, "full")], ids=str)
def test_failed_scan_is_reported_and_nothing_is_asked(failure: Exception) -> None:
    async def story() -> None:
        bench = Bench()
        bench.manifests.failure = failure
        assert await check(bench) is True
        assert (bench.master.count(), bench.worker.last.result) == (0, "failed")
        assert bench.context.progress == []

    run(story())


def test_failed_job_is_reported_and_its_file_removed() -> None:
    async def story() -> None:
        bench = Bench()
        bench.master.answers["syn_digest"] = differs(B)
        bench.picked = JobError("bad-package", "nonsense")
        assert await check(bench) is True
        assert bench.worker.last.result == "failed"
        assert bench.removed == ["/buckets"]

    run(story())


# ---- whether it gets anywhere ----------------------------------------------------------------------------------------


def test_same_number_of_the_same_manifest_is_no_progress() -> None:
    remains = Remains()
    assert remains.gets_less(A, 5)
    assert not remains.gets_less(A, 5)
    assert not remains.gets_less(A, 6)
    assert remains.gets_less(A, 5)
    assert remains.gets_less(B, 5)
    remains.nothing()
    assert remains.gets_less(B, 5)


@settings(deadline=None)
@given(st.lists(st.integers(1, 5), max_size=60))
def test_progress_on_one_manifest_is_bounded_by_what_differs(counts: list[int]) -> None:
    """Rounds without a pause end whatever a master says: each must leave fewer files to do."""
    remains = Remains()
    streak = best = 0
    for count in counts:
        streak = streak + 1 if remains.gets_less(A, count) else 0
        best = max(best, streak)
    assert best <= 5 + 1


@pytest.mark.parametrize("equal", [{"syn_digest": b"equal"}, {"syn_buckets": b"equal"}], ids=str)
def test_node_that_was_equal_meanwhile_gets_somewhere_with_the_same_difference(equal: dict[str, bytes]) -> None:
    async def story() -> None:
        bench = Bench()
        different = {"syn_digest": differs(B), "syn_buckets": b"sync 3"}
        found = []
        for answers in (different, different, different | equal, different):
            bench.master.answers |= answers
            await check(bench)
            found.append(bench.digest.is_getting_anywhere)
        assert found == [True, False, True, True]

    run(story())


# ---- diff ------------------------------------------------------------------------------------------------------------


def requests_of(bench: Bench, *, linked: bool = True) -> WorkerIntegrityRequests:
    bench.context.roster.remove(bench.master.link)
    if linked:
        bench.context.roster.add(cast(Peer, bench.master))
    return WorkerIntegrityRequests(cast(Any, bench.context), bench.digest, bench.rounds)


async def ask(bench: Bench, command: str, payload: bytes = b"", *, linked: bool = True) -> Any:
    requests = requests_of(bench, linked=linked)
    table = requests.local | requests.remote
    answer = await table[command](cast(Peer, bench.master), payload)
    assert isinstance(answer, bytes)
    return json.loads(answer)


def test_difference_names_the_node_and_changes_nothing() -> None:
    async def story() -> None:
        bench = Bench()
        bench.master.answers |= {"syn_digest": differs(B), "syn_buckets": listed(missing=2)}
        for command, payload in (("diff", b""), ("diff", b"w"), ("get_diff", b"")):
            found = await ask(bench, command, payload)
            assert (found["node"], found["counts"]["missing"]) == ("w", 2)
        assert (bench.worker.begun, bench.worker.last.result, bench.digest.told) == (0, "", "")
        bench.master.answers["syn_digest"] = b"equal"
        assert (await ask(bench, "diff"))["counts"] == {"missing": 0, "shared": 0, "extra": 0}

    run(story())


@pytest.mark.parametrize(
    "answers",
    [
        {"syn_digest": b"wait"},
        {"syn_buckets": b"wait"},
        {"syn_buckets": b"sync 3"},
        {"syn_buckets": b"[" * 60_000},
        {"syn_buckets": b'{"missing": "etc"}'},
        {"syn_buckets": b" " * 70_000 + listed()},
    ],
    ids=lambda answers: str(answers)[:40],
)
def test_difference_that_the_master_does_not_tell_is_an_error(answers: dict[str, bytes]) -> None:
    async def story() -> None:
        bench = Bench()
        bench.master.answers |= {"syn_digest": differs(B)} | answers
        with pytest.raises(ClusterError):
            await ask(bench, "diff")

    run(story())


@pytest.mark.parametrize("answers", [{"syn_digest": b"wait"}, {"syn_buckets": b"wait"}], ids=str)
def test_difference_is_asked_for_again_when_the_master_compares_already(answers: dict[str, bytes]) -> None:
    async def story() -> None:
        bench = Bench()
        bench.master.answers |= {"syn_digest": differs(B)} | answers
        with pytest.raises(ClusterError, match="ask again in a moment"):
            await ask(bench, "diff")

    run(story())


def test_difference_of_too_many_files_is_not_listed() -> None:
    async def story() -> None:
        bench = Bench()
        bench.master.answers["syn_digest"] = differs(B)
        bench.picked = BucketsPicked(REQUEST_CHUNK + 1, 90_000)
        with pytest.raises(ClusterError, match="too many files differ to list them"):
            await ask(bench, "diff")
        assert bench.master.asked == ["syn_digest"]
        assert bench.removed == ["/buckets"]

    run(story())


def test_difference_needs_a_master_that_can_be_asked() -> None:
    async def story() -> None:
        bench = Bench(capabilities=frozenset({"push"}))
        with pytest.raises(ClusterError, match="stock node, or its capability digest is off"):
            await ask(bench, "diff")
        with pytest.raises(ClusterError) as refusal:
            await ask(bench, "diff", linked=False)
        assert refusal.value.code == 3023
        with pytest.raises(ClusterError, match="ask its master") as refusal:
            await ask(bench, "diff", b"another")
        assert refusal.value.code == 3022
        assert bench.master.asked == []

    run(story())


@pytest.mark.parametrize("payload", [b"[]", b"1", b"{", b'{"allow_delete": 1}', b'{"other": true}', b" " * 2000])
def test_sync_takes_its_own_argument_only(payload: bytes) -> None:
    async def story() -> None:
        bench = Bench()
        bench.master.info = LinkInfo(1, "master", "m", uid=0)
        with pytest.raises(ClusterError):
            await ask(bench, "sync_now", payload)

    run(story())


def test_deletions_are_allowed_on_the_master_only() -> None:
    async def story() -> None:
        bench = Bench()
        bench.master.info = LinkInfo(1, "master", "m", uid=0)
        with pytest.raises(ClusterError, match="on the master only"):
            await ask(bench, "sync_now", b'{"allow_delete": true}')
        assert set(await ask(bench, "sync_now")) == {"at"}
        await asyncio.sleep(0)

    run(story())
